"""MixUp and CutMix of a training batch, with soft labels."""

from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from hf_deepfake.arguments import AugmentationArguments
from hf_deepfake.data.transforms import collate
from hf_deepfake.labels import NAMES


class MixingCollator:
    """Stacks rows and mixes pairs of them; for training batches only.

    MixUp: Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018. CutMix: Yun et al., CutMix: Regularization
    Strategy to Train Strong Classifiers with Localizable Features, ICCV 2019. With both, each batch takes one of them at
    random, half the time either.

    Args:
        arguments: `mixup_alpha`, `cutmix_alpha` and `mix_prob` are read.
    """

    def __init__(self, arguments: AugmentationArguments) -> None:
        mixings: list[v2.Transform] = []
        if arguments.mixup_alpha > 0:
            mixings.append(v2.MixUp(alpha=arguments.mixup_alpha, num_classes=len(NAMES)))
        if arguments.cutmix_alpha > 0:
            mixings.append(v2.CutMix(alpha=arguments.cutmix_alpha, num_classes=len(NAMES)))
        self.mix = v2.RandomChoice(mixings) if mixings else None
        self.mix_prob = arguments.mix_prob

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Stack rows to `pixel_values` and `labels`.

        Returns:
            `labels` of shape `(images,)` where nothing is ever mixed, else shares of real and fake, shape `(images, 2)`,
            in unmixed batches too: the loss counts the images of accumulated batches by the shape of their labels.
        """
        batch = collate(rows)
        if self.mix is None:
            return batch
        if torch.rand(()) < self.mix_prob:
            labels = batch.pop("labels")
            views, labels = self.mix([tv_tensors.Image(view) for view in batch.values()], labels)
            mixed = {name: view.as_subclass(torch.Tensor) for name, view in zip(batch, views, strict=True)}
            return mixed | {"labels": labels}
        soft = torch.nn.functional.one_hot(batch["labels"], len(NAMES)).to(batch["pixel_values"].dtype)
        return batch | {"labels": soft}
