"""The files that travel to the Hub with an ensemble: they import torch, transformers, Pillow and each other only."""

import transformers  # noqa: F401 (first, since its import hook in `hf_deepfake._register` imports these files whole)
