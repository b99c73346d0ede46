"""Write a detector or an ensemble as one graph that runs without PyTorch, and compare it with PyTorch first."""

import argparse
import contextlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from hf_deepfake.data.fingerprints import load_training_images, save_training_images
from hf_deepfake.data.inputs import named_images
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import (
    EnsembleImageProcessor,
    UnreadableImageError,
    open_rgb,
)
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification, verdict
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import environment
from hf_deepfake.models.detector import load_detector
from hf_deepfake.models.exported import (
    ExportedConfig,
    ExportedImageProcessor,
    file_hash,
    import_extra,
    refuse_exported,
)
from hf_deepfake.models.heads import as_ensemble
from hf_deepfake.printing import printable
from hf_deepfake.serving.graph import quantize, save_onnx, to_openvino
from hf_deepfake.writing import require_empty, whole

PRECISIONS = {"onnx": ("fp32", "int8"), "openvino": ("fp32", "fp16", "bf16")}
"""What each format can be written in; `fp32` unless another is asked for."""

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
"""What each format needs."""

LARGEST_DIFFERENCE = 1e-4
"""By which a probability of an `fp32` graph may differ from PyTorch's."""

RECORD = "export.json"

_FEW_EQUAL = 0.95
"""Share of equal verdicts below which an export is advised against."""

_MOST_IMAGES, _FEWEST_IMAGES = 300, 20
_SIZES = [(64, 64), (256, 256), (131, 97), (640, 480), (375, 500), (1024, 768), (300, 900), (224, 224), (480, 480)]
_NOT_KEPT = ("_name_or_path", "architectures", "auto_map", "custom_pipelines", "dtype", "model_type")


def export(
    name_or_path: str,
    output_dir: Path,
    format: str = "onnx",
    precision: str = "fp32",
    calibration_data: str | None = None,
    image_root: str | None = None,
    fake_label: str | None = None,
) -> dict[str, Any]:
    """Write a detector, or an ensemble with its calibration and vote, as one graph in a folder that `load_detector` takes.

    The graph takes the pixels that resizing leaves, and gives `logits` and `member_logits` for a batch of any size. Its
    scores are compared with PyTorch's before the folder is kept: on noise with the spectrum of photographs in several
    sizes and, where images are given, on those.

    Args:
        name_or_path: Checkpoint folder or Hub id.
        output_dir: A new folder.
        format: `onnx` or `openvino`.
        precision: `fp32`; of ONNX `int8`; of OpenVINO `bf16`, in which it then computes where the processor can, or
            `fp16`, in which only the weights are stored.
        calibration_data: Images to compare scores on, two thirds of which calibrate `int8`: a folder, table or Hub data set. 300
            are taken at most.
        image_root: Folder that a table's image names start from; the table's own by default.
        fake_label: The checkpoint's label that means fake, where its names do not tell.

    Returns:
        What export.json holds.

    Raises:
        InputError: If the model cannot be loaded or exported, a package is missing, images are too few, or a probability
            of an `fp32` graph is off by more than `LARGEST_DIFFERENCE`.
    """
    _require_settings(format, precision, calibration_data)
    require_empty(output_dir)
    images = _readable_images(calibration_data, image_root) if calibration_data is not None else []
    calibrating = images[: len(images) * 2 // 3] if precision == "int8" else []
    model, processor = _as_ensemble(name_or_path, fake_label)
    with whole(output_dir) as new:
        new.mkdir()
        try:
            graph = {"format": format, "precision": precision} | _save_graph(
                model, processor, new, format, precision, calibrating
            )
        except InputError as error:
            raise InputError(f"{name_or_path}: {error}") from error
        settings = {name: value for name, value in model.config.to_dict().items() if name not in _NOT_KEPT}
        ExportedConfig(graph=graph, **settings).save_pretrained(new)
        ExportedImageProcessor(views=processor.views).save_pretrained(new)
        exported = load_detector(str(new))
        compared = {
            name: _compare((model, processor), exported[:2], some)
            for name, some in {"noise": _noise(), "images": images[len(calibrating) :]}.items()
            if some
        }
        worst = max(one["largest_difference"] for one in compared.values())
        if precision == "fp32" and not worst <= LARGEST_DIFFERENCE:
            raise InputError(
                f"{name_or_path}: probabilities of the graph are off by up to {worst:.1e}, and {LARGEST_DIFFERENCE:.0e} "
                "is allowed; try the other --format."
            )
        if (seen := load_training_images(name_or_path)) is not None:
            save_training_images(seen, new)
        record = _record(name_or_path, graph, compared)
        (new / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _require_settings(format: str, precision: str, calibration_data: str | None) -> None:
    """Refuse settings that do not go together, before anything is loaded."""
    if format not in PRECISIONS:
        raise InputError(f"--format {format}: must be {' or '.join(PRECISIONS)}.")
    if precision not in PRECISIONS[format]:
        raise InputError(f"--quantize {precision}: {format} is written in {', '.join(PRECISIONS[format])}.")
    if precision == "int8" and calibration_data is None:
        raise InputError("--quantize int8: needs --calibration_data, images like those that will be scored.")
    for package in PACKAGES[format]:
        import_extra(package)


def _readable_images(data: str, image_root: str | None) -> list[Any]:
    """Some of the images, in random order."""
    named = named_images([data], image_root)
    found: list[Any] = []
    for index in np.random.default_rng(0).permutation(len(named)):
        with contextlib.suppress(UnreadableImageError):
            open_rgb(named[index][1])
            found.append(named[index][1])
        if len(found) == _MOST_IMAGES:
            break
    if len(found) < _FEWEST_IMAGES:
        raise InputError(
            f"--calibration_data {data}: has {len(found)} readable images; give {_FEWEST_IMAGES} or more."
        )
    return found


def _as_ensemble(
    name_or_path: str, fake_label: str | None
) -> tuple[EnsembleForImageClassification, EnsembleImageProcessor]:
    """An ensemble and its processor; of a single detector, an ensemble of one."""
    detector = load_detector(name_or_path, fake_label=fake_label)
    refuse_exported(detector.model, "export")
    if isinstance(detector.model, EnsembleForImageClassification):
        return detector.model, EnsembleImageProcessor.of(detector.processor)
    ensemble, processor = as_ensemble(*detector)
    return ensemble.eval(), processor


def _save_graph(
    model: EnsembleForImageClassification,
    processor: EnsembleImageProcessor,
    folder: Path,
    format: str,
    precision: str,
    calibrating: Sequence[Any],
) -> dict[str, Any]:
    """Write the graph into an empty folder; what the configuration says of it."""
    path, reader = folder / "model.onnx", ExportedImageProcessor(views=processor.views)
    graph = save_onnx(model, reader, path)
    if precision == "int8":
        quantize(path, reader, calibrating)
    if format == "openvino":
        to_openvino(path, folder / "model.xml", precision)
        path.unlink()
    return graph | {"files": {file.name: file_hash(file) for file in sorted(folder.iterdir())}}


def _noise() -> list[Image.Image]:
    """Pictures with the spectrum of photographs, amplitudes of 1 / frequency, in several sizes."""
    generator = np.random.default_rng(0)
    pictures = []
    for width, height in _SIZES:
        frequencies = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 1 / width
        values = np.fft.ifft2(np.fft.fft2(generator.normal(size=(3, height, width))) / frequencies).real
        levels = 128 + 50 * (values - values.mean()) / values.std()
        pictures.append(Image.fromarray(levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)))
    return pictures


def _compare(ours: tuple[Any, Any], exported: tuple[Any, Any], images: Sequence[Any]) -> dict[str, Any]:
    """How far probabilities of the vote and of the members lie apart, and how many verdicts are equal."""
    config = ours[0].config
    wanted, found = (_probabilities(*one, images) for one in (ours, exported))
    pairs = zip(wanted[:, 0], found[:, 0], strict=True)
    equal = [len({verdict(prob, config.threshold, config.uncertain_band) for prob in pair}) == 1 for pair in pairs]
    apart = np.abs(found - wanted)
    return {
        "images": len(images),
        "largest_difference": float(apart.max()),
        "mean_difference": float(apart[:, 0].mean()),
        "equal_verdicts": float(np.mean(equal)),
    }


def _probabilities(model: Any, processor: Any, images: Sequence[Any]) -> NDArray[np.float64]:
    """Of the vote and of each member, shape `(images, 1 + members)`; from a batch of one and of several."""
    parts = []
    for start in (0, *range(1, len(images), 8)):
        batch = images[start : start + 8] if start else images[:1]
        with torch.inference_mode():
            output = model(**processor(list(batch)))
        parts.append(torch.cat([output.logits[:, None], output.member_logits], dim=1).softmax(dim=-1)[..., 1])
    probabilities: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return probabilities


def _record(name_or_path: str, graph: dict[str, Any], compared: dict[str, Any]) -> dict[str, Any]:
    measured = environment()
    for package in PACKAGES[graph["format"]]:
        measured["packages"][package] = version(package)
    folder = Path(name_or_path)
    source = folder.resolve().name if folder.is_dir() else name_or_path
    return {"schema": 1, "source": source, **graph, "compared": compared, "environment": measured}


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake export`: a checkpoint in, a folder with one graph out."""
    arguments = _parser().parse_args(argv)
    record = export(
        arguments.model,
        arguments.output_dir,
        arguments.format,
        arguments.quantize or "fp32",
        arguments.calibration_data,
        arguments.image_root,
        arguments.fake_label,
    )
    folder, files = arguments.output_dir, record["files"]
    size = sum((folder / name).stat().st_size for name in files)
    for name, one in record["compared"].items():
        _say(
            f"{one['images']} {'pictures of noise' if name == 'noise' else name}: probabilities differ from PyTorch's by "
            f"up to {one['largest_difference']:.1e}, {one['equal_verdicts']:.1%} of the verdicts are equal"
        )
    least = min(one["equal_verdicts"] for one in record["compared"].values())
    if least < _FEW_EQUAL:
        _say(
            f"do not rely on it: {1 - least:.1%} of the verdicts are others; --format openvino keeps them, and is faster"
        )
    _say(f"wrote {folder} ({', '.join(files)}: {size / 1e6:.1f} MB, {RECORD}, configurations)")
    _say(f"next: hf-deepfake predict --model {folder} IMAGE…")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-deepfake export", description="Write a detector or an ensemble as one graph that scores fast."
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="detector or ensemble: folder or Hub id")
    parser.add_argument("--format", required=True, choices=PRECISIONS)
    parser.add_argument("--quantize", choices=("int8", "fp16", "bf16"), help="int8: onnx; fp16, bf16: openvino")
    parser.add_argument("--calibration_data", metavar="DATA", help="images to compare scores on; int8 needs them")
    parser.add_argument("--image_root", help="folder that the image names of a --calibration_data table start from")
    parser.add_argument("--fake_label", help="the checkpoint's label that means fake, where its names do not tell")
    parser.add_argument("--output_dir", required=True, type=Path)
    return parser


def _say(line: str) -> None:
    Console().print(printable(line), markup=False, highlight=False, soft_wrap=True)
