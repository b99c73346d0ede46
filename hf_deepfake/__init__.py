"""Fine-tuned detectors of fake images, voted into one calibrated ensemble.

Importing this package is cheap. It makes `AutoConfig`, `AutoModelForImageClassification` and
`AutoImageProcessor` know ensembles, and `pipeline` the task `deepfake-ensemble`, at the moment when
transformers itself is imported.
"""

import importlib
from typing import Any

from hf_deepfake import _register

__version__ = "0.1.0"

_PUBLIC = {
    "EnsembleConfig": "hf_deepfake.ensemble.hub.configuration_deepfake_ensemble",
    "EnsembleForImageClassification": "hf_deepfake.ensemble.hub.modeling_deepfake_ensemble",
    "EnsembleImageProcessor": "hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble",
    "DeepfakeEnsemblePipeline": "hf_deepfake.ensemble.hub.pipeline_deepfake_ensemble",
    "InputError": "hf_deepfake.errors",
    "audit_dataset": "hf_deepfake.data.audit",
    "build_ensemble": "hf_deepfake.ensemble.building",
    "detection_metrics": "hf_deepfake.evaluation.metrics",
    "evaluate_detector": "hf_deepfake.evaluation.contest",
    "load_data": "hf_deepfake.data.loading",
    "load_detector": "hf_deepfake.models.detector",
    "predict": "hf_deepfake.serving.predict",
    "synthesize": "hf_deepfake.data.synthesis",
    "train": "hf_deepfake.training.train",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


_register.when_transformers_is_imported()
