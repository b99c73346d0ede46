"""`recipes/train.py` for processes that shard a network on a CPU, which torch does, but accelerate leaves to GPUs."""

import sys
from typing import Any

from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from hf_deepfake.cli import main

start = AcceleratorState.__init__


def start_sharding(
    state: Any, *args: Any, fsdp_plugin: FullyShardedDataParallelPlugin | None = None, **kwargs: Any
) -> None:
    start(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    state.distributed_type = DistributedType.FSDP
    if fsdp_plugin is not None:
        state.fsdp_plugin = fsdp_plugin


if __name__ == "__main__":
    AcceleratorState.__init__ = start_sharding  # type: ignore[method-assign]
    sys.exit(main(["train", *sys.argv[1:]]))
