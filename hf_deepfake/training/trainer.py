"""`transformers.Trainer` with what a detector's training needs besides."""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    BaseImageProcessor,
    PreTrainedModel,
    ProgressCallback,
    TimmWrapperImageProcessor,
    Trainer,
)

from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.transforms import collate
from hf_deepfake.evaluation.metrics import LOWER_IS_BETTER, detection_metrics
from hf_deepfake.recipe import FittingArguments
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.callbacks import EarlyStopping, ReadableProgress
from hf_deepfake.training.losses import cross_entropy


class DetectorTrainer(Trainer):
    """Trainer with a collator of its own for training, a step schedule, and no weight decay on norms and biases."""

    def __init__(self, *args: Any, train_collator: Any, fitting: FittingArguments, **kwargs: Any) -> None:
        self.train_collator, self.fitting = train_collator, fitting
        super().__init__(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches mixed by the training collator; Trainer has one collator for training and evaluation."""
        collator, self.data_collator = self.data_collator, self.train_collator
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()
        finally:
            self.data_collator = collator
        return loader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights of layers only; Trainer's own rule misses timm's norms and ConvNeXt's gains."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Step schedule where `lr_step_epochs` asks for it, after the usual warm-up; else Trainer's."""
        if self.fitting.lr_step_epochs is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            steps = num_training_steps / self.args.num_train_epochs * self.fitting.lr_step_epochs
            warmup = self.args.get_warmup_steps(num_training_steps)

            def factor(step: int) -> float:
                if step < warmup:
                    return float(step / warmup)
                return float(self.fitting.lr_step_gamma ** math.floor(step / steps))

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)  # type: ignore[arg-type]
            self._created_lr_scheduler = True
        return self.lr_scheduler


def build_trainer(
    detector: PreTrainedModel,
    processor: BaseImageProcessor,
    views: dict[str, Any],
    collator: MixingCollator,
    fitting: FittingArguments,
    training: DetectorTrainingArguments,
) -> DetectorTrainer:
    """A trainer of the detector on `views["train"]`, which picks the best checkpoint on `views["validation"]`."""
    if training.greater_is_better is None:
        metric = str(training.metric_for_best_model).removeprefix("eval_").removeprefix("validation_")
        training.greater_is_better = metric not in LOWER_IS_BETTER and not metric.endswith("loss")
    if training.device.type == "cpu":
        training.dataloader_pin_memory = False
    callbacks = []
    if fitting.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(fitting.early_stopping_patience))
    trainer = DetectorTrainer(
        model=detector,
        args=training,
        train_dataset=views["train"],
        eval_dataset={"validation": views["validation"]},
        processing_class=None if isinstance(processor, TimmWrapperImageProcessor) else processor,  # in config.json
        data_collator=collate,
        train_collator=collator,
        compute_metrics=_compute_metrics,
        compute_loss_func=partial(cross_entropy, label_smoothing=training.label_smoothing_factor),
        callbacks=callbacks,
        fitting=fitting,
    )
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ReadableProgress())
    return trainer


def _compute_metrics(prediction: Any) -> dict[str, float]:
    logits = np.asarray(prediction.predictions, dtype=np.float64)
    prob_fake = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    metrics = detection_metrics(prediction.label_ids, prob_fake)
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
