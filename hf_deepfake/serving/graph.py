"""One ONNX graph of an ensemble: from the pixels of each geometry to the vote."""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import view_key
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.errors import InputError
from hf_deepfake.models.exported import OUTPUTS, ExportedImageProcessor, import_extra
from hf_deepfake.printing import first_line

LARGEST = 2_000_000_000
"""Bytes of weights that one ONNX file can hold."""

_QUANTIZED = ["Conv", "MatMul", "Gemm"]
"""Operators that int8 is for; the vote keeps its precision."""


class _VotedPixels(nn.Module):
    """Normalises pixels for each member's view and lets the ensemble vote."""

    def __init__(
        self, ensemble: EnsembleForImageClassification, normalisations: Sequence[tuple[int, Any, Any]]
    ) -> None:
        super().__init__()
        self.ensemble = ensemble
        self._inputs = [index for index, _, _ in normalisations]
        self._scales = [scale for _, scale, _ in normalisations]
        self._shifts = [shift for _, _, shift in normalisations]

    def forward(self, pixels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the vote and of the members."""
        parts = zip(self._inputs, self._scales, self._shifts, strict=True)
        views = {
            view_key(view): pixels[index].float() * scale + shift for view, (index, scale, shift) in enumerate(parts)
        }
        output = self.ensemble(**views)
        return output.logits, output.member_logits


def save_onnx(
    ensemble: EnsembleForImageClassification, processor: ExportedImageProcessor, path: Path
) -> dict[str, Any]:
    """Write an ensemble as an ONNX graph for batches of any size.

    Args:
        ensemble: In evaluation mode.
        processor: Makes the inputs of the graph.
        path: Of the file.

    Returns:
        `inputs`, the type of each by its name, and `opset`.

    Raises:
        InputError: If torch cannot trace a network, or the weights are more than `LARGEST`.
    """
    size = 4 * sum(weight.numel() for weight in ensemble.parameters())
    if size > LARGEST:
        raise InputError(
            f"its weights, {size / 1e9:.1f} GB, do not fit into one ONNX file; make an ensemble of fewer or smaller members."
        )
    pixels = processor([Image.new("RGB", (64, 64))] * 2)
    cuts = list(pixels.values())
    voted = _VotedPixels(ensemble, processor.normalisations(cuts)).eval()
    try:
        with torch.no_grad():
            program: Any = torch.onnx.export(
                voted,
                (cuts,),
                input_names=list(pixels),
                output_names=list(OUTPUTS),
                dynamic_shapes=([{0: torch.export.Dim.DYNAMIC} for _ in cuts],),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # whatever is in the way of tracing a network
        raise InputError(f"torch cannot trace its networks to ONNX: {first_line(error)}.") from error
    import_extra("onnx").save(_without_traces(program.model_proto), path)
    inputs = {name: str(cut.dtype).removeprefix("torch.") for name, cut in pixels.items()}
    return {"inputs": inputs, "opset": program.model_proto.opset_import[0].version}


def _without_traces(model: Any) -> Any:
    """A graph without the folders and lines of the code that each part was traced from."""
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
        *model.graph.initializer,
    ):
        del part.metadata_props[:]
    del model.graph.metadata_props[:]
    return model


def quantize(path: Path, processor: ExportedImageProcessor, images: Sequence[Any], batch_size: int = 8) -> None:
    """Make convolutions and matrix products of an ONNX file compute in 8-bit integers.

    Weights are quantised by channel and activations by the range that they have on the images (Jacob et al.,
    Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018).

    Args:
        path: Of the file, which is replaced.
        processor: Makes the inputs of the graph.
        images: To calibrate on.
        batch_size: Images a pass.
    """
    quantization: Any = import_extra("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = _batches(processor, images, batch_size)

        def get_next(self) -> Any:
            return next(self.batches, None)

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        quantization.quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(prepared, quantized, Reader(), per_channel=True, op_types_to_quantize=_QUANTIZED)
        quantized.replace(path)


def _batches(processor: ExportedImageProcessor, images: Sequence[Any], size: int) -> Iterator[dict[str, Any]]:
    for start in range(0, len(images), size):
        pixels = processor(list(images[start : start + size]))
        yield {name: cut.numpy() for name, cut in pixels.items()}


def to_openvino(source: Path, target: Path, precision: str) -> None:
    """Write an ONNX file as OpenVINO's `.xml` and `.bin`; half of its size unless the precision is `fp32`."""
    openvino = import_extra("openvino")
    openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=precision != "fp32")
