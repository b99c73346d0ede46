"""A Space: the page of hf_deepfake with the model that the variable HF_DEEPFAKE_MODEL names."""

import os

from hf_deepfake.serving.app import launch

launch(os.environ.get("HF_DEEPFAKE_MODEL"))
