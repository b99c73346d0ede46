"""What the machine can do: precision, compilation, memory, and processes that read images."""

import datetime
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils.memory import should_reduce_batch_size
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_deepfake.errors import InputError
from hf_deepfake.models.blocks import block_classes

_MOST_WORKERS = 8

logger = logging.getLogger(__name__)


def check_devices(training: TrainingArguments) -> None:
    """Refuse a precision or a compilation that cannot be had, and warn of a precision that slows down here.

    Raises:
        InputError: If fp16 is asked for on a CPU, by flag or by accelerate's configuration, or what `torch.compile` needs
            is missing.
    """
    device = training.device.type
    launched_with = os.environ.get("ACCELERATE_MIXED_PRECISION")
    precision = "fp16" if training.fp16 else "bf16" if training.bf16 else launched_with
    if precision == "fp16" and device == "cpu":
        raise InputError("--fp16 needs a GPU; on this CPU train in float32, or try --bf16 true.")
    if precision == "bf16" and not _native_bf16(device):
        faster = "--bf16 false --fp16 true" if device == "cuda" else "--bf16 false"
        logger.warning("this %s emulates bf16, which is slower than float32: pass %s", device.upper(), faster)
    if training.torch_compile and training.torch_compile_backend == "inductor":
        _check_compiler(device)


def _native_bf16(device: str) -> bool:
    """Whether bf16 is computed as such.

    Emulated, an epoch took 1.3 to 3 times as long as in float32 (EfficientNet-Lite0, MobileNetV2, MnasNet, ResNet-18 and
    ViT-Tiny on a CPU with AVX512 alone). Transformers asks only whether bf16 runs, which it does on a T4 too.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    x86 = torch.backends.cpu.get_cpu_capability().startswith(("AVX", "DEFAULT"))
    return device != "cpu" or not x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _check_compiler(device: str) -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch.utils._triton import has_triton

    try:
        missing = "" if device == "cpu" or has_triton() else "Triton"
        get_cpp_compiler()
    except RuntimeError:
        missing = "a C++ compiler"
    if missing:
        raise InputError(f"--torch_compile: {missing} is not installed; install it, or leave --torch_compile out.")


def check_checkpointing(detector: PreTrainedModel, training: TrainingArguments) -> None:
    """Refuse to save memory by computing twice where the network cannot.

    Raises:
        InputError: If the network has no layers that are marked for it.
    """
    if training.gradient_checkpointing and not detector.supports_gradient_checkpointing:
        name = getattr(detector.config, "architecture", type(detector).__name__)
        raise InputError(
            f"--activation_checkpointing: {name} cannot; leave it out and take a smaller --per_device_train_batch_size "
            "with --gradient_accumulation_steps."
        )


def has_idle_parameters(detector: PreTrainedModel, pixel_values: torch.Tensor) -> bool:
    """Whether a trained parameter has no part in the logits, as DINOv2's mask token, so that nobody may wait for its gradient.

    Args:
        detector: As it is trained first.
        pixel_values: An image as it reads it, shape `(1, 3, height, width)`; its values do not matter.
    """
    training = detector.training
    logits = detector.eval()(pixel_values=pixel_values.to(detector.device)).logits
    detector.train(training)
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    return any(gradient is None for gradient in torch.autograd.grad(logits.sum(), trained, allow_unused=True))


def make_shardable(detector: Any) -> None:
    """Let accelerate shard a detector block by block, and not look for the embeddings of a language model."""
    detector._no_split_modules = block_classes(detector)
    detector.get_input_embeddings = lambda: None


def default_workers(on_gpu: bool) -> int:
    """Processes that read training images, where `--dataloader_num_workers` does not say.

    Training on a CPU keeps every core busy, so reading in the same process takes nothing away. On Windows and macOS a
    worker is a fresh process that imports everything again, and runs only below `if __name__ == "__main__"`.
    """
    if not on_gpu or sys.platform != "linux":
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_MOST_WORKERS, len(os.sched_getaffinity(0)) // processes)


class BatchSizeNotice(TrainerCallback):
    """Says which batch size `--auto_find_batch_size` goes on with."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare what is used with what was asked for."""
        used, asked = state.train_batch_size, args.train_batch_size
        if used is not None and used != asked and state.is_world_process_zero:
            logger.warning("out of memory: batches of %d instead of %d; the learning rate stays as it is", used, asked)


@contextmanager
def memory_advice(work: str, advice: str) -> Iterator[None]:
    """Say what to do where the memory does not suffice.

    Raises:
        InputError: In place of the error of the device.
    """
    try:
        yield
    except RuntimeError as error:
        if not should_reduce_batch_size(error) and "No executable batch size" not in str(error):
            raise
        raise InputError(f"out of memory in {work}: pass {advice}; a smaller --image_size needs less too.") from error


class SharedShortage:
    """Lets several processes take smaller batches together, and stops where one alone ran out of memory.

    The others would wait for its gradients, and it for theirs of the smaller batch.

    Args:
        patience: Seconds in which all have to run out.
    """

    def __init__(self, patience: float = 60) -> None:
        timeout = datetime.timedelta(seconds=patience)
        self.group: Any = dist.new_group(timeout=timeout, backend="gloo")  # on which nothing is waited for but this

    def __call__(self, error: RuntimeError, batch_size: int) -> None:
        """Wait where `error` is of memory until all processes have the like.

        Raises:
            InputError: If the others have memory left.
        """
        if not should_reduce_batch_size(error):
            return
        try:
            dist.barrier(self.group)
        except RuntimeError:
            raise InputError(
                f"process {dist.get_rank()} alone ran out of memory, and --auto_find_batch_size shrinks the batches of "
                f"all or none: pass a --per_device_train_batch_size below {batch_size}."
            ) from error
