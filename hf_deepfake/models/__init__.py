"""Detectors: backbones with a two-class head and the preprocessing they were trained with."""

import transformers  # noqa: F401 (first, since its import hook in `hf_deepfake._register` imports `exported` whole)
