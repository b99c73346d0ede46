"""Registers the ensemble with transformers, when and only when transformers is imported."""

from types import ModuleType
from typing import Any

import wrapt

TASK = "deepfake-ensemble"


def when_transformers_is_imported() -> None:
    """Register at the end of `import transformers`, or at once where it is imported already.

    Not at the end of the modules that hold its registries: those are imported in the middle of others.
    """
    wrapt.register_post_import_hook(_register, "transformers")


def _register(_: ModuleType) -> None:
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, AutoVideoProcessor
    from transformers.pipelines import PIPELINE_REGISTRY

    from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
    from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor
    from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
    from hf_deepfake.ensemble.hub.pipeline_deepfake_ensemble import DeepfakeEnsemblePipeline
    from hf_deepfake.labels import fake_column
    from hf_deepfake.models.exported import ExportedConfig, ExportedForImageClassification, ExportedImageProcessor

    DeepfakeEnsemblePipeline.fake_column = staticmethod(fake_column)  # type: ignore[method-assign]
    # the task is registered below: no code of the checkpoint's is needed for it
    EnsembleConfig.custom_pipelines = {}  # type: ignore[assignment, method-assign]
    classes: list[tuple[Any, Any, type]] = [
        (EnsembleConfig, EnsembleForImageClassification, EnsembleImageProcessor),
        (ExportedConfig, ExportedForImageClassification, ExportedImageProcessor),
    ]
    for config, model, processor in classes:
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForImageClassification.register(config, model, exist_ok=True)
        backends = {"pil": processor, "torchvision": processor}
        AutoImageProcessor.register(config, image_processor_classes=backends, exist_ok=True)
        # without any, stock pipelines would ask whether the checkpoint's code may be run to find one
        AutoVideoProcessor.register(config, None, exist_ok=True)
    PIPELINE_REGISTRY.register_pipeline(
        TASK,
        DeepfakeEnsemblePipeline,
        pt_model=AutoModelForImageClassification,
        default=_DefaultModel(model=None),
        type="image",
    )


class _DefaultModel(dict[str, Any]):
    """Looks the default ensemble up when a pipeline is asked for without a model, not before."""

    def __getitem__(self, key: str) -> Any:
        from hf_deepfake.ensemble.default import default_ensemble

        return (default_ensemble(), "main")
