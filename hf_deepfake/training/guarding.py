"""What stops a training before it does harm: a batch of one image, a loss that is no number, a full disk."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments

from hf_deepfake.errors import InputError
from hf_deepfake.printing import first_line, printable
from hf_deepfake.training.resuming import complete_checkpoints, drop_checkpoints
from hf_deepfake.training.sampling import SharedBatches

_MOST_NAMED = 5
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_last_batch(detector: PreTrainedModel, images: int, args: TrainingArguments) -> None:
    """Refuse to leave one image for an epoch's last batch where batch norm would have no other to compare it with.

    Raises:
        InputError: If so, or if a process would have none at all.
    """
    batch, processes = args.per_device_train_batch_size, args.world_size
    if images < processes:
        raise InputError(f"{images} training images are too few for {processes} processes; launch fewer.")
    if batch == 1 or args.dataloader_drop_last:
        smallest = batch
    elif processes == 1:
        smallest = images % batch or batch
    else:
        smallest = min(map(len, SharedBatches(range(images), batch, processes)))
    if smallest == 1 and getattr(detector.config, "mlp_head", {}).get("batch_norm"):
        raise InputError(
            f"--per_device_train_batch_size {batch}: of {images} training images an epoch's last batch has one, which the "
            "batch norm of --head_batch_norm cannot do with; take another size, or --dataloader_drop_last true."
        )


def refuse_loss(loss: torch.Tensor, step: int, files: Sequence[str], args: TrainingArguments) -> NoReturn:
    """Stop where the loss is infinite or not a number, which Trainer would hide.

    Args:
        loss: Of one batch.
        step: That it belongs to, from 1.
        files: Images of the batch.
        args: Of the training, for the advice.

    Raises:
        InputError: With the images and what to do.
    """
    named = ", ".join(printable(file) for file in files[:_MOST_NAMED])
    more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
    raise InputError(
        f"step {step}: the loss is {loss.item()} on the images {named or '(not known)'}{more}. {_advice(args)}"
    )


def check_weights(model: nn.Module, step: int, args: TrainingArguments) -> None:
    """Stop before weights that are infinite or not numbers are measured and saved.

    Raises:
        InputError: If so, with the first parameter and what to do.
    """
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"step {step}: the weights of {name} are no longer finite numbers. {_advice(args)}")


def _advice(args: TrainingArguments) -> str:
    half = "leave out --fp16 (its numbers end at 65504) or take --bf16 true; " if args.fp16 else ""
    run = Path(str(args.output_dir))
    saved = complete_checkpoints(run)
    again = (
        f"{saved[-1].name} is whole: add --resume_from_checkpoint true --resume_anyway true to go on from it."
        if saved
        else "Nothing was saved yet."
    )
    return (
        f"Lower --learning_rate (now {args.learning_rate:g}) or lengthen --warmup_steps; {half}look for odd images with "
        f"hf-deepfake audit. {again}"
    )


@contextmanager
def disk_watched(run: Path) -> Iterator[None]:
    """Turn a full disk into advice, after the checkpoint that was being written has been removed.

    Raises:
        InputError: If the disk, a quota or a limit on file sizes stops the block.
    """
    try:
        yield
    except Exception as error:  # OSError, and of torch and safetensors their own kinds, which only say it in words
        if not _is_full(error):
            raise
        drop_checkpoints(run, incomplete_only=True)
        saved = complete_checkpoints(run)
        kept = f"{saved[-1].name} is whole: make room and add" if saved else "Make room and start again with"
        raise InputError(
            f"{run}: no room left on the disk ({first_line(error)}). {kept} --resume_from_checkpoint true."
        ) from error


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        told = ("No space left", "StorageFull", "QuotaExceeded", "FileTooLarge", "inline_container", "Disk quota")
        if getattr(error, "errno", None) in _FULL or any(word in str(error) for word in told):
            return True
        error = error.__cause__ or error.__context__
    return False
