"""Registers the ensemble with transformers, when and only when transformers is imported."""

from types import ModuleType
from typing import Any

import wrapt

TASK = "deepfake-ensemble"


def when_transformers_is_imported() -> None:
    """Hook each of the four registries on its own, so that the order of imports does not matter."""
    wrapt.register_post_import_hook(_register_config, "transformers.models.auto.configuration_auto")
    wrapt.register_post_import_hook(_register_model, "transformers.models.auto.modeling_auto")
    wrapt.register_post_import_hook(_register_processor, "transformers.models.auto.image_processing_auto")
    wrapt.register_post_import_hook(_register_task, "transformers.pipelines")


def _register_config(auto: ModuleType) -> None:
    from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig

    auto.AutoConfig.register(EnsembleConfig.model_type, EnsembleConfig, exist_ok=True)


def _register_model(auto: ModuleType) -> None:
    from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
    from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification

    auto.AutoModelForImageClassification.register(EnsembleConfig, EnsembleForImageClassification, exist_ok=True)


def _register_processor(auto: ModuleType) -> None:
    from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
    from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor

    backends = {"pil": EnsembleImageProcessor, "torchvision": EnsembleImageProcessor}
    auto.AutoImageProcessor.register(EnsembleConfig, image_processor_classes=backends, exist_ok=True)


def _register_task(pipelines: ModuleType) -> None:
    from transformers import AutoModelForImageClassification

    from hf_deepfake.ensemble.hub.pipeline_deepfake_ensemble import DeepfakeEnsemblePipeline

    pipelines.PIPELINE_REGISTRY.register_pipeline(
        TASK,
        pipeline_class=DeepfakeEnsemblePipeline,
        pt_model=AutoModelForImageClassification,
        default=_DefaultModel(model=None),
        type="image",
    )


class _DefaultModel(dict[str, Any]):
    """Looks the default ensemble up when a pipeline is asked for without a model, not before."""

    def __getitem__(self, key: str) -> Any:
        from hf_deepfake.ensemble.default import default_ensemble

        return (default_ensemble(), "main")
