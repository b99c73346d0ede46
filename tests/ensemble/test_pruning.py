from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import build_tiny_vit, save_tiny_vit
from scipy.special import expit

from hf_deepfake.ensemble import pruning
from hf_deepfake.ensemble.pruning import member_cost, prune
from hf_deepfake.errors import InputError


def members_of(strengths: list[float], images: int = 200, seed: int = 0) -> dict[str, pd.DataFrame]:
    """Calibrated members whose errors are their own, called by their position."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    tables = {}
    for index, strength in enumerate(strengths):
        margins = 2 * strength * (strength * (2 * labels - 1) + generator.normal(size=images))
        scores = {"prob_fake": expit(margins), "logit_real": 0.0, "logit_fake": margins}
        tables[str(index)] = pd.DataFrame({"image": np.arange(images).astype(str), "label": labels, **scores})
    return tables


def costs_of(*params: float) -> dict[str, dict[str, float]]:
    return {str(index): {"params": value, "latency_ms": 1.0} for index, value in enumerate(params)}


@pytest.mark.parametrize(
    ("budgets", "kept"),
    [
        ({"params": 6}, ["0", "1", "2"]),
        ({"params": 5}, ["1", "2"]),
        ({"params": 2}, ["1"]),
        ({"params": 6, "latency_ms": 2}, ["1", "2"]),
    ],
)
def test_the_best_members_within_the_budget_are_kept(budgets: dict[str, float], kept: list[str]) -> None:
    """Strengths 0.8, 1.2 and 1.5 at costs 1, 2 and 3: more is better, as their errors are their own."""
    found = prune(members_of([0.8, 1.2, 1.5]), costs_of(1, 2, 3), budgets)
    assert found["kept"] == kept
    assert found["left_out"] == [name for name in "012" if name not in kept]
    assert found["total"] == {"params": sum(int(name) + 1 for name in kept), "latency_ms": len(kept)}
    assert found["log_loss"]["all"] <= found["log_loss"]["kept"] < 0.5


def test_many_members_are_grown_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    members, costs = members_of([1.0, 1.1, 1.4]), costs_of(1, 2, 3)
    whole = prune(members, costs, {"params": 5})
    monkeypatch.setattr(pruning, "_MOST_MEMBERS", 1)
    grown = prune(members, costs, {"params": 5})
    assert grown == whole


def test_a_budget_below_every_member_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"no member fits the budget \{'params': 0.5\}; the cheapest needs \{'params': 1\}"
    ):
        prune(members_of([1, 1]), costs_of(1, 2), {"params": 0.5})


def test_too_few_images_to_prune_by_are_refused() -> None:
    with pytest.raises(InputError, match="2 validation images are too few to tell which members"):
        prune(members_of([1, 1], images=2), costs_of(1, 2), {"params": 2})


def test_a_members_cost_is_its_parameters_and_the_time_of_a_forward_pass(tmp_path: Path) -> None:
    cost = member_cost(save_tiny_vit(tmp_path / "vit"), forwards=2)
    assert cost["params"] == sum(parameter.numel() for parameter in build_tiny_vit(24).parameters())
    assert 0 < cost["latency_ms"] < 10_000
