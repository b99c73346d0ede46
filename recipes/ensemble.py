"""Thin main for `accelerate launch` and `python`: the same as `hf-deepfake ensemble`."""

import sys
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path[:] = [
    path for path in sys.path if Path(path).resolve() != here
]  # evaluate.py would hide the library evaluate

from hf_deepfake.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["ensemble", *sys.argv[1:]]))
