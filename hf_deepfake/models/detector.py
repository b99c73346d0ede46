"""Detectors from Hub ids, checkpoint folders and bare timm names, with their image processors."""

import difflib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
)

from hf_deepfake import labels
from hf_deepfake.arguments import ModelArguments
from hf_deepfake.data.faces import find_cropper
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import (
    EnsembleImageProcessor,
    ImageReader,
    check_views,
    reader_of,
)
from hf_deepfake.errors import InputError
from hf_deepfake.models.exported import refuse_exported
from hf_deepfake.models.heads import new_head, single_detector
from hf_deepfake.models.imagenet import start_from_imagenet


def new_detector(arguments: ModelArguments) -> tuple[PreTrainedModel, BaseImageProcessor, str]:
    """Build the detector that a training starts from.

    A checkpoint with two classes that read as real and fake keeps its head (turned round if its
    order is the other one); any other gets a new head. A bare timm name is built with random weights, or with
    `--pretrained` from ImageNet weights; its head starts at zero, which says one half for every image and so does
    not throw the features off in the first steps.

    Returns:
        The model (`id2label` real, fake), its image processor, and one sentence on where the weights are from.

    Raises:
        InputError: If the name is unknown, the folder holds no checkpoint, or the image size cannot be changed.
    """
    name = arguments.model_name_or_path
    if Path(name).is_dir() or "/" in name:
        detector, origin = _from_checkpoint(arguments)
    elif name in timm.list_models():
        detector, origin = _from_timm(arguments)
    else:
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise InputError(
            f"{name}: no checkpoint folder, no Hub id (USER/NAME) and no timm name."
            + (f" Close timm names: {', '.join(near)}." if near else "")
        )
    new_head(detector, arguments)
    if isinstance(detector, TimmWrapperForImageClassification):
        processor: Any = _timm_processor(detector.config)
    else:
        processor = _resized_processor(arguments, detector)
    if arguments.face_crop is not None or arguments.dct_scaling:
        detector.config.reading = _reading(arguments, processor)
    return detector, processor, origin


def _reading(arguments: ModelArguments, processor: BaseImageProcessor) -> dict[str, Any]:
    """Settings of the `ImageReader` that the flags ask for."""
    if arguments.face_crop is None:
        return ImageReader(smallest_side=_resized_side(processor)).settings()
    if arguments.dct_scaling:
        raise InputError("--dct_scaling scales whole images down, --face_crop cuts a part out of them; leave one out.")
    cropper = find_cropper(arguments.face_detector, "--face_detector", arguments.face_crop)
    if cropper is None:
        raise InputError(
            f"--face_crop with --face_detector {arguments.face_detector}: no face detector; pip install "
            "'hf_deepfake[faces]', or name yunet (from the Hub) or the path of a YuNet .onnx file."
        )
    return ImageReader(face_crop=cropper.settings()).settings()


def _resized_side(processor: Any) -> int:
    """Pixels of the longer side that a processor resizes to, before it crops."""
    if isinstance(processor, TimmWrapperImageProcessor):
        config = processor.data_config
        sides = [side / config["crop_pct"] for side in config["input_size"][1:]]
    else:
        sides = [side for side in dict(processor.size).values() if side is not None]
    longest: float = max(sides)
    return math.ceil(longest)


def _timm_processor(config: Any) -> TimmWrapperImageProcessor:
    """The processor that a timm checkpoint's own configuration holds."""
    return TimmWrapperImageProcessor(config.pretrained_cfg, config.architecture)


def _from_timm(arguments: ModelArguments) -> tuple[PreTrainedModel, str]:
    name = arguments.model_name_or_path
    model_args: dict[str, Any] = _json_arguments(arguments.model_args)
    if arguments.image_size is not None and _has_fixed_size(name):
        model_args["img_size"] = arguments.image_size
    try:
        raw: Any = timm.create_model(name, **model_args)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        raise InputError(f"{name}: timm cannot build it with {model_args}: {error}") from error
    if not hasattr(raw, "reset_classifier"):
        raise InputError(f"{name}: is an encoder that cannot be given a classifier; take another architecture.")
    origin = start_from_imagenet(name, raw) if arguments.pretrained else f"{name}: random weights"
    raw.reset_classifier(2)
    heads = raw.get_classifier()
    for head in heads if isinstance(heads, tuple) else [heads]:  # distilled networks average two
        for parameter in head.parameters():
            nn.init.zeros_(parameter)
    size = arguments.image_size or raw.pretrained_cfg["input_size"][-1]
    pretrained_cfg = raw.pretrained_cfg | {
        "input_size": (3, size, size),
        "crop_pct": 1.0,  # timm's centre crop would cut off the border, where traces of blending lie
    }
    settings: dict[str, Any] = {
        "architecture": name,
        "pretrained_cfg": pretrained_cfg,
        "model_args": model_args,
        "id2label": labels.ID2LABEL,
        "label2id": labels.LABEL2ID,
    }
    detector = TimmWrapperForImageClassification(TimmWrapperConfig(**settings))
    detector.timm_model.load_state_dict(raw.state_dict())  # the wrapper's constructor re-initialises timm's weights
    return detector, origin


def _has_fixed_size(name: str) -> bool:
    """Whether a timm architecture's weights are made for one image size (position embeddings, windows)."""
    with torch.device("meta"):
        model = timm.create_model(name)
    embedding = getattr(model, "patch_embed", None)
    return getattr(embedding, "img_size", None) is not None


def _json_arguments(text: str | None) -> dict[str, Any]:
    try:
        arguments = json.loads(text or "{}")
    except json.JSONDecodeError as error:
        raise InputError(f"--model_args {text}: not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise InputError(f"--model_args {text}: needs to be a JSON object.")
    return arguments


def _from_checkpoint(arguments: ModelArguments) -> tuple[PreTrainedModel, str]:
    name = arguments.model_name_or_path
    if arguments.pretrained:
        raise InputError(f"{name}: --pretrained is for bare timm names; a checkpoint brings its own weights.")
    config = _load_config(name, arguments.model_revision)
    fake = _old_fake_column(config)
    detector = AutoModelForImageClassification.from_pretrained(
        name,
        revision=arguments.model_revision or "main",
        num_labels=2,
        id2label=labels.ID2LABEL,
        label2id=labels.LABEL2ID,
        ignore_mismatched_sizes=True,
    )
    refuse_exported(detector, "train")
    detector = single_detector(detector)
    if fake == labels.REAL:
        _turn_head(detector)
    if isinstance(detector, TimmWrapperForImageClassification) and arguments.image_size is not None:
        if _has_fixed_size(detector.config.architecture):
            raise InputError(f"{name}: its weights fix the image size; leave --image_size out.")
        detector.config.pretrained_cfg["input_size"] = (3, arguments.image_size, arguments.image_size)
    return detector, f"{name}: its own weights, {'new head' if fake is None else 'head kept'}"


def _old_fake_column(config: Any) -> int | None:
    """Column of a checkpoint's old head that means fake, or None where the head is for something else."""
    try:
        return labels.fake_column(config.id2label)
    except InputError:
        return None


def _turn_head(detector: PreTrainedModel) -> None:
    """Swap the two outputs of the last layer, so that column 1 means fake."""
    head = [module for module in detector.modules() if getattr(module, "out_features", None) == 2][-1]
    with torch.no_grad():
        for parameter in head.parameters(recurse=False):
            parameter.copy_(parameter.flip(0))


def _load_config(name: str, revision: str | None) -> Any:
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"{path}: no config.json in this folder; it is no Hugging Face checkpoint.")
    try:
        return AutoConfig.from_pretrained(name, revision=revision or "main")
    except Exception as error:
        raise InputError(f"{name}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error


def _resized_processor(arguments: ModelArguments, detector: PreTrainedModel) -> Any:
    name, size = arguments.model_name_or_path, arguments.image_size
    processor: Any = AutoImageProcessor.from_pretrained(name, revision=arguments.model_revision or "main")
    if isinstance(processor, EnsembleImageProcessor):  # of a detector with an MLP head
        processor = processor.processors[0]
    if size is None:
        return processor
    if getattr(detector.config, "image_size", size) != size:
        raise InputError(
            f"{name}: its weights are for {detector.config.image_size} pixels; leave --image_size out, "
            "or take a network without position embeddings."
        )
    processor.size = {"height": size, "width": size}
    if getattr(processor, "do_center_crop", False):
        processor.crop_size = {"height": size, "width": size}
    return processor


class LoadedDetector(NamedTuple):
    """A detector or an ensemble to score with.

    Attributes:
        model: In evaluation mode.
        processor: Its image processor.
        fake_column: Index of the logit that means fake.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    fake_column: int


def load_detector(name_or_path: str, revision: str | None = None, fake_label: str | None = None) -> LoadedDetector:
    """Load a detector or an ensemble to score with.

    Raises:
        InputError: If it cannot be loaded, or its labels are not real and fake.
    """
    if not Path(name_or_path).is_dir() and "/" not in name_or_path:
        raise InputError(f"{name_or_path}: no such checkpoint folder, and no Hub id (USER/NAME).")
    config = _load_config(name_or_path, revision)
    fake = labels.fake_column(config.id2label, fake_label, source=name_or_path)
    try:
        model = AutoModelForImageClassification.from_pretrained(name_or_path, revision=revision or "main")
        reader_of(config)  # says what is missing to read images as this detector does
        if isinstance(model, TimmWrapperForImageClassification):
            return LoadedDetector(model.eval(), _timm_processor(model.config), fake)
        processor = AutoImageProcessor.from_pretrained(name_or_path, revision=revision or "main")
        check_views(model.config, processor)
    except Exception as error:
        raise InputError(f"{name_or_path}: cannot be loaded: {str(error).strip().splitlines()[0]}") from error
    return LoadedDetector(model.eval(), processor, fake)
