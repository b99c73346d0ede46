from pathlib import Path

import pytest
import torch
from conftest import draw_image
from transformers import ViTForImageClassification

from hf_deepfake import EnsembleConfig, EnsembleForImageClassification
from hf_deepfake.ensemble.hub import running_deepfake_ensemble
from hf_deepfake.ensemble.hub.running_deepfake_ensemble import run_within_memory, speed_up
from hf_deepfake.models.detector import load_detector


def test_a_batch_beyond_memory_is_run_in_halves_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(pixel_values: torch.Tensor) -> dict[str, torch.Tensor | None]:
        if len(pixel_values) > 2:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return {"logits": 2 * pixel_values, "loss": None}

    warned: list[str] = []
    monkeypatch.setattr(running_deepfake_ensemble._LOGGER, "warning", warned.append)
    rows = torch.arange(7.0)[:, None]
    found = run_within_memory(run, {"pixel_values": rows})
    assert list(found) == ["logits"]
    torch.testing.assert_close(found["logits"], 2 * rows)
    assert warned[0] == "A batch of 7 does not fit into memory; going on with 4 at a time."


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried to allocate", "shapes do not match"])
def test_what_halving_does_not_cure_is_raised(message: str) -> None:
    def run(pixel_values: torch.Tensor) -> dict[str, torch.Tensor | None]:
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message):
        run_within_memory(run, {"pixel_values": torch.zeros(1 if "memory" in message else 2, 3)})


def test_convolutions_are_laid_out_channels_last_without_changing_scores(runs: list[Path]) -> None:
    model, processor, _ = load_detector(str(runs[0]))
    views = processor([draw_image(1, 0)], return_tensors="pt")
    with torch.inference_mode():
        before = model(**views).logits
        speed_up(model)
        torch.testing.assert_close(model(**views).logits, before, atol=1e-5, rtol=0)
    assert next(weight for weight in model.parameters() if weight.ndim == 4).is_contiguous(
        memory_format=torch.channels_last
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_precision_without_instructions_for_it_gives_way_to_float32(
    tiny_vit: ViTForImageClassification, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(running_deepfake_ensemble._LOGGER, "warning", warned.append)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True})
    ensemble = EnsembleForImageClassification(EnsembleConfig(members=[tiny_vit.config.to_dict()] * 2)).eval()
    speed_up(ensemble, dtype)
    assert ensemble.dtype == torch.float32
    assert warned == [f"This cpu has no instructions for {dtype}; scoring in float32."]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True, "avx512_fp16": True})
    speed_up(ensemble, dtype)
    assert ensemble.dtype == dtype
    output = ensemble(torch.rand(2, 3, 32, 32).to(dtype))
    assert {output.logits.dtype, output.member_logits.dtype} == {torch.float32}
    assert len(warned) == 1
