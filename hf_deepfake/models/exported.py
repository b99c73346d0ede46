"""Exported detectors: one graph from pixels to the vote, run by ONNX Runtime or OpenVINO in place of PyTorch."""

import hashlib
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.hub import cached_file

from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor, view_key
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleOutput
from hf_deepfake.ensemble.hub.running_deepfake_ensemble import has_instructions_for
from hf_deepfake.errors import InputError

Graph = Callable[[dict[str, NDArray[Any]]], Sequence[NDArray[np.float32]]]
"""Makes of the pixels of a batch, by the name of the input, its `logits` and `member_logits`."""

OUTPUTS = ("logits", "member_logits")

_LOGGER = logging.get_logger(__name__)


class ExportedConfig(EnsembleConfig):
    """An ensemble, or a detector as an ensemble of one, whose networks and vote are one graph in a file.

    Args:
        graph: `format` (`onnx` or `openvino`), `precision` (`fp32`, `fp16`, `bf16` or `int8`), `opset` (of ONNX),
            `inputs` (the type of each by its name), and `files` (the SHA-256 of each by its name).
    """

    model_type = "deepfake-exported"
    _auto_class = None  # it takes no code along

    def __init__(self, graph: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.graph = graph or {}
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """Settings, without the task of an ensemble's saved code."""
        return {name: value for name, value in super().to_dict().items() if name != "custom_pipelines"}


class ExportedImageProcessor(EnsembleImageProcessor):
    """Reads and resizes as the ensemble's own processor does, and leaves to the graph what comes after.

    The output holds the pixels of each distinct geometry, mostly of 8 bits: `pixel_values`, `pixel_values_1`, ….
    """

    _auto_class = None

    def finish(self, cuts: Sequence[Mapping[tuple[int, str], torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What the graph is given of images that were cut."""
        return {
            view_key(index): torch.stack([cut[key] for cut in cuts]) for index, key in enumerate(self.distinct_cuts)
        }

    @property
    def distinct_cuts(self) -> list[tuple[int, str]]:
        """The inputs of the graph: how an image is read and the geometry that it is brought to."""
        return list(dict.fromkeys(self._cuts))

    def normalisations(self, cuts: Sequence[torch.Tensor]) -> list[tuple[int, torch.Tensor, torch.Tensor]]:
        """Of each view which of the inputs it is made of, and by what that is multiplied and what is added.

        Args:
            cuts: An image's, of which only the types count.
        """
        found = []
        for steps, key in zip(self._steps, self._cuts, strict=True):
            index = self.distinct_cuts.index(key)
            black = torch.zeros(1, 3, 1, 1, dtype=cuts[index].dtype)
            shift, white = steps.finish(black).float(), steps.finish(black + 255).float()
            found.append((index, (white - shift) / 255, shift))
        return found


class ExportedForImageClassification(PreTrainedModel):
    """Runs an exported graph; to pipelines and commands that only score it is an ensemble like any other.

    It runs on the CPU, in as many threads as torch takes, and may be called from several threads at once.
    """

    config_class = ExportedConfig
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: ExportedConfig, graph: Graph) -> None:
        super().__init__(config)
        self._run = graph
        self._types = {name: getattr(torch, kind) for name, kind in config.graph["inputs"].items()}

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Open the graph of an exported folder.

        Raises:
            InputError: If a file is missing or another than the exported one, what runs it is not installed, or a precision
                is asked for.
        """
        name, revision = os.fspath(pretrained_model_name_or_path), kwargs.get("revision") or "main"
        if kwargs.get("dtype") not in (None, "auto", "float32", torch.float32):
            raise InputError(f"{name}: an exported graph keeps its precision; export it with --quantize for another.")
        config = kwargs.get("config") or ExportedConfig.from_pretrained(name, revision=revision)
        paths = [Path(str(cached_file(name, file, revision=revision))) for file in config.graph["files"]]
        for path, sha256 in zip(paths, config.graph["files"].values(), strict=True):
            if file_hash(path) != sha256:
                raise InputError(f"{path}: is not the file that was exported with config.json; export it again.")
        graph = next(path for path in paths if path.suffix != ".bin")  # which OpenVINO finds beside it
        return cls(config, open_graph(graph, config.graph["format"], config.graph["precision"]))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Not possible; the folder can be copied.

        Raises:
            InputError: Always.
        """
        raise InputError(f"{save_directory}: an exported graph cannot be saved again; copy its folder.")

    @property
    def device(self) -> torch.device:
        """Where the graph runs, whatever there is besides."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What images are given as: 8 bits, unless their preprocessing could not be taken into the graph."""
        types = set(self._types.values())
        return types.pop() if len(types) == 1 else torch.float32

    def forward(self, pixel_values: torch.Tensor, return_dict: bool | None = None, **views: Any) -> Any:
        """Vote on a batch that `ExportedImageProcessor` made."""
        views["pixel_values"] = pixel_values
        inputs = {name: views[name].cpu().to(kind).numpy() for name, kind in self._types.items()}
        logits, member_logits = (torch.from_numpy(found) for found in self._run(inputs))
        output = EnsembleOutput(logits=logits, member_logits=member_logits)
        return output.to_tuple() if return_dict is False else output


def refuse_exported(model: PreTrainedModel, purpose: str) -> None:
    """See that a model has layers and gradients.

    Raises:
        InputError: If it is an exported graph.
    """
    if isinstance(model, ExportedForImageClassification):
        name = model.config._name_or_path
        raise InputError(
            f"{purpose}: {name} is an exported graph, which can only score; name the checkpoint that it was made of."
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def open_graph(path: Path, format: str, precision: str) -> Graph:
    """Load a graph into what runs it.

    Raises:
        InputError: If that is not installed.
    """
    return _open_onnx(path) if format == "onnx" else _open_openvino(path, precision)


def import_extra(module: str) -> Any:
    """A module of the extra `export`.

    Raises:
        InputError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{module} is not installed; pip install 'hf_deepfake[export]'.") from error


def _open_onnx(path: Path) -> Graph:
    onnxruntime = import_extra("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(inputs: dict[str, NDArray[Any]]) -> Sequence[NDArray[np.float32]]:
        found: list[NDArray[np.float32]] = session.run(OUTPUTS, inputs)
        return found

    return run


def _open_openvino(path: Path, precision: str) -> Graph:
    openvino = import_extra("openvino")
    computes = "bf16" if precision == "bf16" else "f32"
    if computes == "bf16" and not has_instructions_for(torch.bfloat16, torch.device("cpu")):
        _LOGGER.warning("This processor has no instructions for bfloat16; the graph runs in float32.")
        computes = "f32"
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": computes, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(core.read_model(path), "CPU", settings | {"PERFORMANCE_HINT": "LATENCY"})

    def run(inputs: dict[str, NDArray[Any]]) -> Sequence[NDArray[np.float32]]:
        found = compiled.create_infer_request().infer(inputs)
        return [found[name].copy() for name in OUTPUTS]

    return run
