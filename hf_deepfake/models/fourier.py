"""A head for training alone, which makes the backbone see an image's spectrum."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from hf_deepfake.models.blocks import middle_block


def log_spectrum(pixel_values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Log-magnitude spectrum of images, scaled to [0, 1] image by image, with the mean in the middle.

    As Silent-Face-Anti-Spoofing (minivision, 2020) makes it: `log(1 + |F|)` of the gray image, from its least to its
    greatest value, resized.

    Args:
        pixel_values: Shape `(images, 3, height, width)`, normalised or not.
        size: Rows and columns of the result.

    Returns:
        Shape `(images, rows, columns)`.
    """
    gray = pixel_values.float().mean(dim=1)
    spectrum = torch.fft.fftshift(torch.fft.fft2(gray).abs(), dim=(-2, -1)).log1p()
    low, high = (spectrum.flatten(1).aminmax(dim=1)[index].view(-1, 1, 1) for index in (0, 1))
    scaled = (spectrum - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    return functional.adaptive_avg_pool2d(scaled, size)


class FourierHead(nn.Module):
    """Predicts the spectrum of a detector's input from the feature map at half of its depth.

    The detector is watched by hooks and holds nothing of the head, so that no checkpoint does; the head's gradient goes
    through the feature map into the backbone. Its layers are those of the Fourier branch of Silent-Face-Anti-Spoofing,
    but the last, which is linear, since a rectified one can die.

    Args:
        detector: Watched from now on.
        pixel_values: An image as the detector reads it, shape `(1, 3, height, width)`; its values do not matter.
    """

    def __init__(self, detector: PreTrainedModel, pixel_values: torch.Tensor) -> None:
        super().__init__()
        timm_model = getattr(detector, "timm_model", None)
        self.channels_last = getattr(timm_model, "output_fmt", "NCHW") == "NHWC"
        self.pixel_values: torch.Tensor | None = None
        self.features: torch.Tensor | None = None
        middle_block(detector).register_forward_hook(self._keep_features)
        self.layers = nn.Sequential(
            *_convolution(self._channels(detector, pixel_values), 128),
            *_convolution(128, 64),
            nn.Conv2d(64, 1, 3, padding=1),
        )
        detector.register_forward_pre_hook(self._keep_input, with_kwargs=True)

    def _channels(self, detector: PreTrainedModel, pixel_values: torch.Tensor) -> int:
        training = detector.training
        self.pixel_values = pixel_values
        with torch.no_grad():
            detector.eval()(pixel_values=pixel_values)
        detector.train(training)
        channels = self._map().shape[1]
        self.pixel_values = self.features = None
        return channels

    def _keep_input(self, detector: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.pixel_values = kwargs["pixel_values"] if detector.training else None

    def _keep_features(self, block: nn.Module, args: Any, output: Any) -> None:
        if self.pixel_values is not None:
            self.features = output if isinstance(output, torch.Tensor) else output[0]

    def _map(self) -> torch.Tensor:
        """The features as `(images, channels, rows, columns)`; of tokens the last square of them, without the class token."""
        features: Any = self.features
        if features.ndim == 3:
            side = math.isqrt(features.shape[1])
            features = features[:, -(side**2) :].unflatten(1, (side, side))
        elif not self.channels_last:
            return torch.as_tensor(features)
        return torch.as_tensor(features.permute(0, 3, 1, 2))

    def errors(self) -> torch.Tensor | None:
        """Mean squared error of each image of the detector's last pass, shape `(images,)`; None if it was no training."""
        if self.pixel_values is None:
            return None
        predicted: torch.Tensor = self.layers(self._map().float())[:, 0].float()
        target = log_spectrum(self.pixel_values, (predicted.shape[1], predicted.shape[2]))
        self.pixel_values = self.features = None
        return (predicted - target).square().mean(dim=(1, 2))


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
