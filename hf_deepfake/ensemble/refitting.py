"""Temperatures, weights and threshold of an ensemble, fitted again with images that a person has relabelled."""

import dataclasses
import datetime
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit
from tqdm.auto import tqdm

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.checking import report_skipped
from hf_deepfake.data.fingerprints import content_hashes, load_training_images, save_training_images
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.ensemble.choosing import choose_fit
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.ensemble.measuring import MEMBER_COLUMN, measure_fit
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import environment, load_results, save_results
from hf_deepfake.evaluation.predictions import load_predictions, score_images
from hf_deepfake.evaluation.report.settings import last_part
from hf_deepfake.labels import NAMES
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.publishing.card import save_card
from hf_deepfake.writing import require_empty, whole

logger = logging.getLogger(__name__)

FEWEST, ENOUGH = 20, 100
"""Images of each class: with fewer than the first nothing is fitted, with fewer than the second it is warned."""


def refit_ensemble(
    folder: Path, corrected: DataArguments, output_dir: Path, batch_size: int = 16, **choices: Any
) -> dict[str, Any]:
    """Fit an ensemble again, on its old validation images and those that a person relabelled; members stay as they are.

    What people correct are mistakes, so a fit on corrections alone would distrust every member: the old validation
    images are kept beside them, under the corrected label where both have an image, whatever it is called: by its content,
    or by its name where the ensemble does not know its images' contents. Of an ensemble that has not kept its members'
    scores, the corrections are fitted on alone.

    Args:
        folder: The ensemble, which is not changed.
        corrected: Relabelled images: a table of image and label, or all else that the loader reads.
        output_dir: A folder that does not exist yet or is empty; it gets the new checkpoint, whose config holds the old
            values in `history`.
        batch_size: Images a forward pass.
        choices: Of `fit_ensemble`, in place of those that the ensemble was fitted with.

    Returns:
        What results.json holds; `refit` counts the images and says what is doubtful.

    Raises:
        InputError: If the folder holds no ensemble, or there are fewer than 20 images of a class to fit on.
    """
    require_empty(output_dir)
    detector = load_detector(str(folder))
    if not isinstance(detector.model, EnsembleForImageClassification):
        raise InputError(f"{folder}: is no ensemble; --refit takes a folder that hf-deepfake ensemble wrote.")
    config: Any = detector.model.config
    relabelled, unreadable = score_members(detector, corrected, batch_size)
    seen = load_training_images(folder)
    kept = _old_validation(folder, config.member_names, relabelled, seen)
    rows = pd.concat([kept, relabelled], ignore_index=True)
    doubts = _require_enough(rows, len(kept), corrected.dataset_name)
    validation = {name: _of_member(rows, name) for name in config.member_names}
    before = _old_choices(load_results(folder), config)
    if "weighting" in choices:
        before.pop("weights", None)  # which go with manual weighting alone
    choices = before | choices
    fit, choice = choose_fit(validation, choices)
    counts = {"corrected": len(relabelled), "old": len(kept), "unreadable": unreadable}
    _replace(config, fit, counts)
    with whole(output_dir) as new:
        detector.model.save_pretrained(new, max_shard_size="100GB")
        detector.processor.save_pretrained(new)
        if seen is not None:
            save_training_images(_seen_and(relabelled, seen), new)
        results = {
            "schema": 1,
            "model": output_dir.name,
            **measure_fit({"validation": validation}, fit, choices, new),
            "choice": choice,
            "refit": counts | {"doubts": doubts},
            "environment": environment(),
        }
        if (folder / "recipes").is_dir():
            shutil.copytree(folder / "recipes", new / "recipes")
        save_card(results, new)
        save_results(results, new)
    return results


def score_members(detector: LoadedDetector, data: DataArguments, batch_size: int = 16) -> tuple[pd.DataFrame, int]:
    """Score labelled images with each member of an ensemble.

    Returns:
        `image, label, sha256` and where known `source, group`, and each member's log-odds of fake in a column
        `log_odds_NAME`; and how many images could not be read, which are reported and left out.
    """
    images = everything(load_data(data))
    recorded: list[torch.Tensor] = []
    hook = detector.model.register_forward_hook(lambda _, __, output: recorded.append(output.member_logits.cpu()))
    scored: list[int] = []
    errors: dict[int, str] = {}
    try:
        with tqdm(total=len(images), desc="Scoring", unit="image", delay=1) as progress:
            for indices, _, wrong in score_images(
                detector.model, detector.processor, images["image"], batch_size=batch_size
            ):
                scored += indices
                errors |= wrong
                progress.update(len(indices) + len(wrong))
    finally:
        hook.remove()
    if errors:
        logger.warning(report_skipped([(images["file"][row], reason) for row, reason in sorted(errors.items())]))
    if not scored:
        raise InputError(f"{data.dataset_name}: none of its {len(images)} images can be read.")
    logits = torch.cat(recorded).double().numpy()
    names = [name for name in ("label", "source", "group") if name in images.column_names]
    table = pd.DataFrame({"image": images["file"][:]} | {name: images[name][:] for name in names}).iloc[scored]
    table["sha256"] = content_hashes(images.select(scored))
    log_odds = logits[..., 1] - logits[..., 0]
    columns = {
        f"{MEMBER_COLUMN}{name}": of_one
        for name, of_one in zip(detector.model.config.member_names, log_odds.T, strict=True)
    }
    return table.reset_index(drop=True).assign(**columns), len(errors)


def _old_validation(
    folder: Path, names: Sequence[str], corrected: pd.DataFrame, seen: pd.DataFrame | None
) -> pd.DataFrame:
    """What the ensemble was fitted on and nobody has corrected; no rows where the members' scores were not kept."""
    path = folder / "predictions" / "validation.parquet"
    columns = [f"{MEMBER_COLUMN}{name}" for name in names]
    if not path.is_file():
        return pd.DataFrame()
    table = load_predictions(path)
    if not set(columns) <= set(table):
        return pd.DataFrame()
    contents: dict[str, str] = {}
    if seen is not None and {"image", "split"} <= set(seen):
        known = seen[seen["split"] == "validation"]
        contents = dict(zip(known["image"], known["sha256"], strict=True))
    content = pd.Series([contents.get(name, "") for name in table["image"]], index=table.index, dtype=object)
    by_name, by_content = table["image"].isin(corrected["image"]), content.isin(corrected["sha256"])
    table = table[~by_content.where(content != "", by_name)]
    return table[[name for name in ("image", "label", "source", "group", *columns) if name in table]]


def _seen_and(corrected: pd.DataFrame, seen: pd.DataFrame) -> pd.DataFrame:
    """The list of training images with the corrections, so that an evaluation on them is warned of."""
    fitted = corrected[["image", "sha256"]].assign(split="validation")
    return pd.concat([seen, fitted[~fitted["sha256"].isin(seen["sha256"])]], ignore_index=True)


def _require_enough(rows: pd.DataFrame, old: int, source: str) -> list[str]:
    """What is doubtful of the images to fit on; refuses too few of them."""
    real, fake = (int((rows["label"] == label).sum()) for label in (0, 1))
    beside = (
        f"{old} old validation images"
        if old
        else "no old validation images, which were all corrected or whose scores by the members were not kept"
    )
    found = f"with {beside}, there are {real} real and {fake} fake images to fit on"
    if min(real, fake) < FEWEST:
        lacking = NAMES[0 if real < fake else 1]
        raise InputError(f"{source}: {found}; at least {FEWEST} of each are needed. Label more {lacking} images.")
    few = f"{last_part(source)}: {found}; with fewer than {ENOUGH} of each the fit hangs on single images."
    return [few] if min(real, fake) < ENOUGH else []  # which is published: without the user's folders


def _of_member(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """One member's predictions, of which only the difference of the logits is known."""
    log_odds = rows[f"{MEMBER_COLUMN}{name}"].to_numpy(dtype=np.float64)
    columns = {"prob_fake": expit(log_odds), "logit_real": np.zeros(len(rows)), "logit_fake": log_odds}
    known = [column for column in ("image", "label") if column in rows]
    known += [column for column in ("source", "group") if column in rows and rows[column].notna().all()]
    return rows[known].assign(**columns)


def _old_choices(results: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """What the ensemble was fitted with; of one that does not say, what its config shows."""
    if "choices" in results:
        asked = results.get("choice", {}).get("asked")
        choices = {name: value for name, value in results["choices"].items() if value is not None and name != "voting"}
        return choices | ({"voting": asked} if asked is not None else {})
    calibration = "isotonic" if any(config.isotonic) else "platt" if any(config.biases) else "temperature"
    return {"voting": config.voting, "calibration": calibration}


def _replace(config: Any, fit: Fit, counts: dict[str, int]) -> None:
    """Put a fit into a config, and what was there before into its history."""
    fitted = dataclasses.asdict(fit)
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    config.history = [
        *config.history,
        {"date": today, "images": counts, "old": {name: getattr(config, name) for name in fitted}},
    ]
    for name, value in fitted.items():
        setattr(config, name, value)
