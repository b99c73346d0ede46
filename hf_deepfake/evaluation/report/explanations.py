"""Heatmaps of `hf-deepfake explain` in a report."""

import json
from pathlib import Path

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.report.plots import Chart
from hf_deepfake.printing import first_line, printable

SHEETS_SHOWN = 12


def explanation_charts(folder: Path) -> list[Chart]:
    """The first sheets of a folder of explanations, each with the numbers that were measured of its maps.

    Raises:
        InputError: If it holds no explanations, they are damaged, or a picture is missing.
    """
    path = folder / "explanations.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return [
            Chart(
                f"explanation_{Path(entry['sheet']).stem}",
                f"{printable(entry['image'])}: what speaks for {record['target']}, by {record['method']}.",
                (folder / entry["sheet"]).read_bytes(),
                {name: entry[name] for name in ("image", "prob_fake", "label", "maps")},
                8.0,
            )
            for entry in record["images"][:SHEETS_SHOWN]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}; run hf-deepfake explain.") from error
