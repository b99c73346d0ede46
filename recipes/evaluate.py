"""Thin main for `accelerate launch` and `python`: the same as `hf-deepfake evaluate`."""

import sys

from hf_deepfake.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
