"""How a detector or an ensemble is brought to score fast, and within the memory that there is."""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

_INSTRUCTIONS = {
    torch.bfloat16: ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"),
    torch.float16: ("amx_fp16", "avx512_fp16", "fp16_arith"),
}
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory")

_LOGGER = logging.get_logger(__name__)


def speed_up(model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
    """Bring a detector or an ensemble that is only to score into the form in which it is fastest.

    Networks with convolutions and batch normalisation, and in half precision all others, get their weights in
    channels-last order, which changes scores by rounding only.

    Args:
        model: On the device where it is to run.
        dtype: The model's own by default. One that the device has no instructions for is slower than float32 and no more
            exact, so float32 is taken instead, with a warning.
    """
    taken = dtype or model.dtype
    if not has_instructions_for(taken, model.device):
        _LOGGER.warning(f"This {model.device.type} has no instructions for {taken}; scoring in float32.")
        taken = torch.float32
    if taken != model.dtype:
        model.to(taken)  # type: ignore[arg-type]
    for member in getattr(model, "members", [model]):
        normalised = any(isinstance(module, nn.BatchNorm2d) for module in member.modules())
        if normalised or taken != torch.float32:
            member.to(memory_format=torch.channels_last)


def has_instructions_for(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device computes in that precision itself, as far as torch knows it."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    if device.type != "cpu" or dtype not in _INSTRUCTIONS:
        return True
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(known.get(name, False) for name in _INSTRUCTIONS[dtype])


def run_within_memory(
    run: Callable[..., Mapping[str, torch.Tensor | None]], inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Outputs of a batch, in halves where it does not fit into memory, which is said.

    Args:
        run: Takes the inputs as keyword arguments, and gives tensors with one row for each of theirs.
        inputs: Tensors of the same number of rows.
    """
    rows = len(next(iter(inputs.values())))
    try:
        return {name: value for name, value in run(**inputs).items() if value is not None}
    except RuntimeError as error:
        if rows == 1 or not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise
    _LOGGER.warning(f"A batch of {rows} does not fit into memory; going on with {-(-rows // 2)} at a time.")
    torch.cuda.empty_cache()
    sizes = [-(-rows // 2), rows // 2]
    parts = zip(*(value.split(sizes) for value in inputs.values()), strict=True)
    halves = [run_within_memory(run, dict(zip(inputs, part, strict=True))) for part in parts]
    return {name: torch.cat([half[name] for half in halves]) for name in halves[0]}
