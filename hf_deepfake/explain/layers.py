"""What a detector computes inside: its last feature map, its attention, and where they lie in the image."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import grid_sample
from transformers import PreTrainedModel

from hf_deepfake.errors import InputError
from hf_deepfake.explain.scores import Score

_PREFIXES = ("cls_token", "distillation_token", "register_tokens")


@dataclass
class Record:
    """What was seen in a model's last pass.

    Attributes:
        model: The model.
        view: Shape of its input.
        features: The feature map that enters the head.
        attended: What entered each attention layer.
        attentions: What each attention layer gave to every pair of tokens, shape `(images, heads, tokens, tokens)`.
    """

    model: Any
    view: torch.Size = field(default_factory=torch.Size)
    features: torch.Tensor | None = None
    attended: list[torch.Tensor] = field(default_factory=list)
    attentions: list[torch.Tensor] = field(default_factory=list)


@contextmanager
def recorded(model: Any, attention: bool = False) -> Iterator[Record]:
    """Record what a detector computes; afterwards it is as it was.

    Args:
        model: A transformers model, also one that wraps timm's.
        attention: Also record the attentions, which fast attention never holds, so that it is switched off meanwhile.
    """
    record = Record(model)
    timm_model = getattr(model, "timm_model", None)

    def keep_view(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        record.view = kwargs["pixel_values"].shape

    with ExitStack() as stack:
        _hook(stack, model.register_forward_pre_hook(keep_view, with_kwargs=True))
        if timm_model is not None:
            _record_timm(record, timm_model, attention, stack)
        else:
            _record_transformers(record, model, attention, stack)
        yield record


def _record_timm(record: Record, model: Any, attention: bool, stack: ExitStack) -> None:
    own = model.forward_features

    def forward_features(*args: Any, **kwargs: Any) -> torch.Tensor:
        record.features = own(*args, **kwargs)
        return record.features

    model.forward_features = forward_features  # a method, which no hook sees
    stack.callback(delattr, model, "forward_features")
    for layer in _timm_attention(model):
        _hook(stack, layer.register_forward_pre_hook(_append_input(record.attended), with_kwargs=True))
        if attention:
            stack.callback(setattr, layer, "fused_attn", layer.fused_attn)
            layer.fused_attn = False
            _hook(
                stack, layer.attn_drop.register_forward_hook(lambda _, given, found: record.attentions.append(found))
            )


def _record_transformers(record: Record, model: Any, attention: bool, stack: ExitStack) -> None:
    def keep(_: nn.Module, given: Any, found: Any) -> None:
        features = getattr(found, "last_hidden_state", None)  # the backbone ends after its encoder
        record.features = record.features if features is None else features

    def keep_attention(_: nn.Module, given: Any, found: Any) -> None:
        record.attentions += [part for part in found[1:2] if isinstance(part, torch.Tensor) and part.ndim == 4]

    layers = _transformers_attention(model)
    if attention and layers:
        parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
        owner = [part for part in parts if layers[0] in part.modules()][-1]
        stack.callback(owner.set_attn_implementation, owner.config._attn_implementation)
        owner.set_attn_implementation("eager")
    for module in model.modules():
        _hook(stack, module.register_forward_hook(keep))
    for layer in layers:
        _hook(stack, layer.register_forward_pre_hook(_append_input(record.attended), with_kwargs=True))
        if attention:
            _hook(stack, layer.register_forward_hook(keep_attention))


def _hook(stack: ExitStack, handle: Any) -> None:
    stack.callback(handle.remove)


def _timm_attention(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "fused_attn") and hasattr(module, "attn_drop")]


def _transformers_attention(model: nn.Module) -> list[Any]:
    named = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    return [
        module for module in named if not any(type(part).__name__.endswith("Attention") for part in module.children())
    ]


def _append_input(to: list[torch.Tensor]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        to.append(args[0] if args else kwargs["hidden_states"])

    return hook


def to_grid(record: Record, values: torch.Tensor) -> torch.Tensor:
    """Of one image, from a model's own order to `(channels, rows, columns)`.

    Args:
        record: Of the model.
        values: Channels first or last, or tokens of shape `(1, tokens, channels)`, of which those that stand for no part
            of the image are dropped.

    Raises:
        InputError: If the tokens are no grid.
    """
    if values.ndim == 4:
        last = getattr(getattr(record.model, "timm_model", None), "output_fmt", "NCHW") == "NHWC"
        return values[0].permute(2, 0, 1) if last else values[0]
    patches = values[0, prefix_tokens(record.model) :]
    rows = max(1, round((len(patches) * record.view[-2] / record.view[-1]) ** 0.5))
    columns = len(patches) // rows
    if rows * columns != len(patches):
        raise InputError(
            f"{name(record.model)}: its {len(patches)} tokens are no grid; explain it by integrated_gradients."
        )
    return patches.T.reshape(-1, rows, columns)


def prefix_tokens(model: Any) -> int:
    """Tokens before the patches: of the class, distillation and registers."""
    timm_model = getattr(model, "timm_model", None)
    if timm_model is not None:
        return int(getattr(timm_model, "num_prefix_tokens", 0))
    return sum(part.shape[1] for key, part in model.named_parameters() if key.endswith(_PREFIXES))


def name(model: Any) -> str:
    """For messages: what kind of network it is."""
    return getattr(model.config, "architecture", None) or str(model.config.model_type)


def place(score: Score, key: str, grid: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """A map of a model's view, laid over the image that the view was made of; 0 where the view does not reach.

    How the view was cut and scaled is read off the view of two ramps, so that every processor that resizes and crops is
    understood.

    Args:
        score: With the view.
        key: Of the view.
        grid: Shape `(rows, columns)`.
        pixels: The image, shape `(1, 3, height, width)`.

    Returns:
        Shape `(height, width)`, with straight lines between the middles of the grid's cells.
    """
    vertical, horizontal = torch.meshgrid(*_view_places(score, key, pixels.shape[-2:]), indexing="ij")
    places = torch.stack([horizontal, vertical], dim=-1).to(grid)
    found = grid_sample(grid[None, None], places[None], padding_mode="border", align_corners=False)[0, 0]
    return found * (places.abs() <= 1).all(dim=-1)


def _view_places(score: Score, key: str, size: torch.Size) -> list[torch.Tensor]:
    """Where each row and each column of an image lies in a view that reaches from -1 to 1."""
    times = -(-16 // min(size))  # a ramp of fewer pixels would be all border
    ramps = torch.meshgrid(*(_middles(times * side) for side in size), indexing="ij")
    ramp = torch.stack([*ramps, 0 * ramps[0]])
    with torch.no_grad():
        images = 0.25 + torch.stack([0 * ramp, 0 * ramp + 1, ramp]) / 2
        low, high, seen = score.views(images.to(score.models[0].device))[key].float().cpu()
    fractions = (seen - low) / (high - low)
    middle_row, middle_column = (side // 2 for side in fractions.shape[-2:])
    lines = fractions[0, :, middle_column], fractions[1, middle_row]
    return [_inverse(line, _middles(side)) for line, side in zip(lines, size, strict=True)]


def _inverse(line: torch.Tensor, fractions: torch.Tensor) -> torch.Tensor:
    """Places in a view, from -1 to 1, of fractions of the image, given the fraction that each pixel of the view shows."""
    first, last = 3 * len(line) // 8, 5 * len(line) // 8  # away from the border, which bends the line
    slope = (line[last] - line[first]) / (last - first)
    return (2 * (first + (fractions - line[first]) / slope) + 1) / len(line) - 1


def _middles(count: int) -> torch.Tensor:
    return torch.linspace(0, 1, 2 * count + 1)[1::2]
