"""Thin main for `accelerate launch` and `python`: the same as `hf-deepfake ensemble`."""

import sys

from hf_deepfake.cli import main

if __name__ == "__main__":
    sys.exit(main(["ensemble", *sys.argv[1:]]))
