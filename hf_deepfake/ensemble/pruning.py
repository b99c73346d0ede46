"""Which members are worth their cost: the best subset within a budget of parameters or milliseconds."""

import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.special import logit
from tqdm.auto import tqdm

from hf_deepfake.ensemble.fitting import cross_fitted, member_logits
from hf_deepfake.ensemble.folds import units_of
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.calibration import fit_calibration
from hf_deepfake.evaluation.metrics import detection_metrics
from hf_deepfake.models.detector import load_detector

_MOST_MEMBERS = 12  # 4095 subsets, a few milliseconds each


def member_cost(run: Path, forwards: int = 10) -> dict[str, float]:
    """Parameters of a member, and the median milliseconds of its forward pass on one image on this machine."""
    model, processor, _ = load_detector(str(run))
    views = processor(Image.new("RGB", (256, 256), "grey"), return_tensors="pt")
    seconds = []
    with torch.inference_mode():
        for _ in range(forwards + 2):
            start = time.perf_counter()
            model(**views)
            seconds.append(time.perf_counter() - start)
    latency = 1000 * float(np.median(seconds[2:]))  # the first passes also allocate
    return {"params": sum(parameter.numel() for parameter in model.parameters()), "latency_ms": latency}


def prune(
    validation: Mapping[str, pd.DataFrame],
    costs: Mapping[str, Mapping[str, float]],
    budgets: Mapping[str, float],
    calibration: str = "temperature",
) -> dict[str, Any]:
    """The members whose soft vote has the least cross-fitted log-loss within the budget.

    The members run one after another, so their costs add up. All subsets are tried of up to 12 members; of more, those
    that grow by the member that lowers the log-loss the most.

    Args:
        validation: Predictions by member.
        costs: `params` and `latency_ms` by member.
        budgets: The most that the members kept may cost together, for one or both of these.
        calibration: See `fit_calibration`.

    Returns:
        `budget`, `members` (costs of all), `kept`, `left_out`, `total` (costs of the members kept) and `log_loss` (of the
        members kept and of all).

    Raises:
        InputError: If no member fits the budget, or there are too few images to cross-fit.
    """
    names = list(validation)
    affordable = [name for name in names if _fits([name], costs, budgets)]
    if not affordable:
        cheapest = {name: min(cost[name] for cost in costs.values()) for name in budgets}
        raise InputError(f"no member fits the budget {dict(budgets)}; the cheapest needs {cheapest}.")
    logits, labels = member_logits(validation)
    units = units_of(next(iter(validation.values())))[0]
    probs = cross_fitted(logits, labels, units, calibration=calibration, weighting="logloss").get("members")
    if probs is None:
        raise InputError(f"{len(labels)} validation images are too few to tell which members to leave out.")

    def log_loss(kept: Sequence[str]) -> float:
        pooled = logit(probs[:, [names.index(name) for name in kept]].mean(axis=1).clip(1e-7, 1 - 1e-7))
        found = fit_calibration(pooled, labels, "platt")
        calibrated = 1 / (1 + np.exp(-(pooled / found["temperature"] + found["bias"])))
        return float(detection_metrics(labels, calibrated)["log_loss"])

    losses: dict[tuple[str, ...], float] = {}
    for kept in tqdm(_subsets(affordable, losses), desc="Members within the budget", unit="subset", delay=1):
        if _fits(kept, costs, budgets):
            losses[kept] = log_loss(kept)
    best = min(losses, key=lambda kept: losses[kept])
    return {
        "budget": dict(budgets),
        "members": {name: dict(cost) for name, cost in costs.items()},
        "kept": list(best),
        "left_out": [name for name in names if name not in best],
        "total": {kind: sum(costs[name][kind] for name in best) for kind in ("params", "latency_ms")},
        "log_loss": {"kept": losses[best], "all": log_loss(names)},
    }


def _fits(kept: Sequence[str], costs: Mapping[str, Mapping[str, float]], budgets: Mapping[str, float]) -> bool:
    return all(sum(costs[name][kind] for name in kept) <= most for kind, most in budgets.items())


def _subsets(names: Sequence[str], losses: Mapping[tuple[str, ...], float]) -> Iterator[tuple[str, ...]]:
    """Subsets to try; of many members each next size builds on the best of the last, which `losses` tells by then."""
    if len(names) <= _MOST_MEMBERS:
        for size in range(1, len(names) + 1):
            yield from combinations(names, size)
        return
    base: tuple[str, ...] = ()
    while len(base) < len(names):
        grown = [tuple(name for name in names if name in base or name == more) for more in names if more not in base]
        yield from grown
        within = [kept for kept in grown if kept in losses]
        if not within:
            return
        base = min(within, key=lambda kept: losses[kept])
