"""An ensemble of scores alone: fitted on detectors' tables, and used on their new tables, without any checkpoint."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hf_deepfake.ensemble.choosing import choice_lines, choose_fit
from hf_deepfake.ensemble.diversity import diversity_lines
from hf_deepfake.ensemble.fitting import Fit, stack_logits
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import verdict, vote_shares
from hf_deepfake.ensemble.measuring import measure_fit
from hf_deepfake.ensemble.reading import read_members
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import environment, save_results
from hf_deepfake.evaluation.tables import metrics_markdown
from hf_deepfake.writing import require_empty, whole

DEFAULTS = {"calibration": "platt"}  # foreign detectors are shifted too, which a temperature does not cure


def fuse_tables(tables: Sequence[str], output_dir: Path, **choices: Any) -> dict[str, Any]:
    """Fit an ensemble on tables of detectors' scores, see `read_members`.

    `output_dir` gets `fit.json` (all that `apply_fusion` needs), the voted `predictions/`, `plots/`, `README.md` and
    `results.json`, as `build_ensemble` writes them.

    Args:
        tables: Each `TABLE` or `NAME=TABLE`.
        output_dir: A folder that does not exist yet or is empty.
        choices: Of `fit_ensemble`; `voting` may be left open, see `choose_fit`. Calibration is `platt` by default.

    Returns:
        What results.json holds.

    Raises:
        InputError: As `read_members` and `choose_fit`, or if `output_dir` is a file or not empty.
    """
    require_empty(output_dir)
    validation = read_members(tables)
    choices = DEFAULTS | choices
    fit, choice = choose_fit(validation, choices)
    with whole(output_dir) as folder:
        results = {
            "schema": 1,
            "model": output_dir.name,
            **measure_fit({"validation": validation}, fit, choices, folder),
            "choice": choice,
            "environment": environment(),
        }
        stored = {"schema": 1, "members": list(validation), "fit": dataclasses.asdict(fit)}
        (folder / "fit.json").write_text(json.dumps(stored, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_card(results), encoding="utf-8")
        save_results(results, folder)
    return results


def apply_fusion(folder: Path, tables: Sequence[str]) -> pd.DataFrame:
    """Vote on new tables of the same detectors, which are found by their names.

    Args:
        folder: That `fuse_tables` wrote.
        tables: Each `TABLE` or `NAME=TABLE`; labels may be missing. Tables of other detectors are an error.

    Returns:
        One row an image: `image`, `prob_fake`, `label` (`real`, `fake` or `uncertain`), where known `truth` (0 for real, 1
        for fake), `source` and `group`, and `prob_fake_NAME`, the calibrated probability of each detector.

    Raises:
        InputError: If the folder holds no fit, or the tables are not those of its detectors.
    """
    names, fit = load_fusion(folder)
    members = read_members(tables, labelled=None)
    if set(members) != set(names):
        missing, unknown = sorted(set(names) - set(members)), sorted(set(members) - set(names))
        raise InputError(
            f"{folder} votes on the scores of {names}; of these {missing} are missing, and {unknown} are none of them. "
            "Name a table after its detector: --predictions NAME=TABLE."
        )
    members = {name: members[name] for name in names}
    logits = stack_logits(members)
    prob_fake, member_probs = fit.prob_fake(logits), fit.member_probs(logits)
    threshold, band = fit.thresholds[fit.voting], fit.uncertain_bands.get(fit.voting)
    first = members[names[0]]
    table = pd.DataFrame({"image": first["image"], "prob_fake": prob_fake})
    table["label"] = [verdict(prob, threshold, band) for prob in prob_fake]
    known = {"truth": "label", "source": "source", "group": "group"}
    table = table.assign(**{ours: first[theirs] for ours, theirs in known.items() if theirs in first})
    return table.assign(**{f"prob_fake_{name}": probs for name, probs in zip(names, member_probs.T, strict=True)})


def load_fusion(folder: Path) -> tuple[list[str], Fit]:
    """Names of the members and their fit.

    Raises:
        InputError: If there is none, or it is damaged.
    """
    path = folder / "fit.json"
    if not path.is_file():
        raise InputError(
            f"{path}: no such file; --apply needs a folder that hf-deepfake ensemble --predictions wrote."
        )
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        names, fit = [str(name) for name in stored["members"]], Fit(**stored["fit"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}); fit the ensemble again.") from error
    if not len(names) == len(fit.temperatures) == len(fit.weights):
        raise InputError(
            f"{path}: is damaged: {len(names)} members but {len(fit.weights)} weights; fit the ensemble again."
        )
    return names, fit


def _card(results: dict[str, Any]) -> str:
    voting = results["ensemble"]
    shares = vote_shares(voting["weights"], voting["voting"])
    rows = zip(voting["members"], voting["temperatures"], voting["biases"], shares, strict=True)
    threshold = voting["thresholds"][voting["voting"]]
    lines = [
        f"# {results['model']}",
        "",
        f"A vote ({voting['voting']} voting) on the scores of {len(voting['members'])} detectors that an image is fake; the "
        f"verdict is fake from {threshold:.3f} on. It holds no detector: score images with each, then",
        "",
        "```bash",
        f"hf-deepfake ensemble --apply {results['model']} --predictions TABLE… --output voted.csv",
        "```",
        "",
        "| member | temperature | bias | share of the vote |",
        "|---|---|---|---|",
        *(f"| {name} | {scale:.3f} | {bias:.3f} | {share:.1%} |" for name, scale, bias, share in rows),
        "",
        metrics_markdown(results["comparison"]["validation"], "on the images that it was fitted on"),
        "",
        "95 % bootstrap intervals in brackets. The vote was fitted on these images, so its figures are optimistic; those",
        "below are of images that a fit has not seen.",
        "",
        *choice_lines(results),
        *diversity_lines(results),
    ]
    return "\n".join(lines)
