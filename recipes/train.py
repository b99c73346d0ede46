"""Thin main for `accelerate launch` and `python`: the same as `hf-deepfake train`."""

import sys

from hf_deepfake.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
