"""Watch a deployed detector: compare its scores of now with those of the time when all was well."""

import argparse
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.drift import STATISTICS, Comparison, Limits, find_drift, readable, smallest_distance
from hf_deepfake.evaluation.monitor_page import format_number, save_page
from hf_deepfake.printing import first_line, printable
from hf_deepfake.writing import whole

EXIT_STATUS = {"ok": 0, "drift": 1, "too few images to tell": 3}
"""For a scheduler; 2 is wrong usage or input, so that a night with few uploads is neither an alarm nor a mistake."""

_READERS = {
    ".parquet": pd.read_parquet,
    ".csv": pd.read_csv,
    ".jsonl": lambda path: pd.read_json(path, lines=True, dtype=False),
}
_STYLES = {"ok": "green", "drift": "bold red", "too few images": "yellow", "too few images to tell": "yellow"}
_ADVICE = {
    "scores": "The scores lie elsewhere: more or fewer fakes come in, or images that the detector was not measured on.",
    "called fake": "Another share of images is called fake: look at a sample of them before people are accused.",
    "uncertain": "Another share of verdicts is uncertain: see that those who decide them can follow.",
    "unreadable": "Another share of images cannot be read: look at their errors and at what hands the images over.",
    **dict.fromkeys(
        STATISTICS,
        "The images themselves are others: look for a new app, camera, resizing or recompression on their way here.",
    ),
    "embeddings": "The detector sees images of another kind than before: another subject, source or generator.",
}
_NO_PROOF = (
    "A drift says that images or scores have changed, not that verdicts became worse: label a few hundred of the current "
    "images and measure the detector on them (hf-deepfake evaluate).",
    "Where the change is meant to stay, make the current table the new reference; after a change of the detector, score "
    "the reference again.",
)


def monitor(reference: Path, current: Path, output_dir: Path, limits: Limits | None = None) -> dict[str, Any]:
    """Compare two tables of scores and write `monitor.json` and `monitor.html`; older ones are replaced.

    Args:
        reference: Scores of the time when all was well; `prob_fake` alone will do, see `find_drift`.
        current: Scores of now.
        output_dir: Where to write.
        limits: When a difference is a drift.

    Returns:
        What monitor.json holds: `verdict`, what was `found` and a list of `advice` in words, the number of `images` and
        how many of them were unreadable, the `limits`, and every test as in `Comparison`.

    Raises:
        InputError: If a table cannot be read or holds what is no score, the embeddings are not of one model, or
            `output_dir` is a file.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"{output_dir}: is a file; choose another --output_dir.")
    limits = limits or Limits()
    tables = load_scores(reference), load_scores(current)
    lengths = [_length_of_embeddings(table) for table in tables]
    if None not in lengths and lengths[0] != lengths[1]:
        raise InputError(
            f"{current}: embeddings of {lengths[1]} numbers, those of {reference} have {lengths[0]}; they are of another "
            "model or version. Score both with the same."
        )
    comparisons = find_drift(*tables, limits)
    verdict = _verdict(comparisons)
    scored = len(readable(tables[0])), len(readable(tables[1]))
    report: dict[str, Any] = {
        "schema": 1,
        "reference": str(reference),
        "current": str(current),
        "verdict": verdict,
        "found": _found(verdict, scored, comparisons, limits),
        "advice": _advice(verdict, comparisons),
        "images": {
            name: {"images": len(table), "unreadable": len(table) - count}
            for name, table, count in zip(("reference", "current"), tables, scored, strict=True)
        },
        "limits": dataclasses.asdict(limits),
        "correction": "Holm",
        "tests": [_as_json(comparison) for comparison in comparisons],
    }
    save_page(report, *tables, output_dir / "monitor.html")
    with whole(output_dir / "monitor.json") as partial:
        partial.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return report


def load_scores(path: Path) -> pd.DataFrame:
    """Read a table of scores: Parquet, CSV or JSON Lines, as predict, evaluate and train write them.

    Raises:
        InputError: If the file is missing or damaged, `prob_fake` is missing or no probability of an image without an
            error, or a statistic or an embedding is not made of numbers.
    """
    if path.suffix.lower() not in _READERS or not path.is_file():
        raise InputError(f"{path}: no such table of scores; it needs to be a file ending in {', '.join(_READERS)}.")
    try:
        table = _READERS[path.suffix.lower()](path)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as {path.suffix[1:]}: {first_line(error)}") from error
    if "prob_fake" not in table:
        raise InputError(f"{path}: no column prob_fake; its columns are {list(table.columns)}.")
    table = table.reset_index(drop=True)
    for column in ("prob_fake", *STATISTICS):
        if column in table:
            table[column] = _numbers(table[column], path)
    if "error" in table:
        table["error"] = table["error"].astype(object).where(table["error"].notna() & (table["error"] != ""), None)
    scores = readable(table)["prob_fake"]
    wrong = scores[~scores.between(0, 1)]
    if len(wrong):
        raise InputError(
            f"{path}: prob_fake of row {wrong.index[0]} is {wrong.iloc[0]}, and it has no error; "
            f"{len(wrong)} rows are like it. A score is between 0 and 1."
        )
    _check_embeddings(table, path)
    return table


def _numbers(values: "pd.Series[Any]", path: Path) -> "pd.Series[float]":
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    wrong = values[(values.notna() & numbers.isna()) | np.isinf(numbers)]
    if len(wrong):
        raise InputError(f"{path}: {values.name} of row {wrong.index[0]} is {wrong.iloc[0]}; it needs to be a number.")
    return numbers


def _check_embeddings(table: pd.DataFrame, path: Path) -> None:
    if "embedding" not in table:
        return
    embeddings = readable(table)["embedding"].dropna()
    for row, embedding in embeddings.items():
        values = np.asarray(embedding)
        if values.ndim != 1 or values.dtype.kind not in "fiu" or not np.isfinite(values).all():
            raise InputError(
                f"{path}: embedding of row {row} is no list of numbers; predict --monitoring writes them to .parquet "
                "or .jsonl."
            )
    lengths = sorted(set(map(len, embeddings)))
    if len(lengths) > 1:
        raise InputError(f"{path}: embeddings of {lengths} numbers; a table needs to be of one model.")


def _length_of_embeddings(table: pd.DataFrame) -> int | None:
    return next(map(len, readable(table)["embedding"].dropna()), None) if "embedding" in table else None


def _verdict(comparisons: Sequence[Comparison]) -> str:
    """A drift that was seen counts; without one, all is well only where there were scores enough to see one."""
    if any(comparison.verdict == "drift" for comparison in comparisons):
        return "drift"
    return "ok" if comparisons[0].verdict == "ok" else "too few images to tell"


def _found(verdict: str, scored: tuple[int, int], comparisons: Sequence[Comparison], limits: Limits) -> str:
    images = f"{scored[0]} readable images of the reference and {scored[1]} current ones"
    if verdict == "drift":
        drifted = ", ".join(comparison.name for comparison in comparisons if comparison.verdict == "drift")
        return f"Between {images} these have changed: {drifted}."
    if verdict != "ok":
        return f"There are {images}; below {limits.min_images} a test is not judged."
    found = f"Between {images} nothing that was measured has changed enough to act on."
    distance = smallest_distance(scored, sum(bool(comparison.test) for comparison in comparisons), limits.alpha)
    if distance <= limits.min_distance:
        return found
    return f"{found} With so few only Kolmogorov-Smirnov distances from {distance:.2f} on are significant."


def _advice(verdict: str, comparisons: Sequence[Comparison]) -> list[str]:
    if verdict == "ok":
        return ["Nothing to do. That nothing has changed does not say that verdicts are right: measure that too."]
    if verdict != "drift":
        return ["Gather the images of several days in one table."]
    drifted = [_ADVICE[comparison.name] for comparison in comparisons if comparison.verdict == "drift"]
    return [*dict.fromkeys(drifted), *_NO_PROOF]


def _as_json(comparison: Comparison) -> dict[str, Any]:
    """A test with null for what is no number."""
    record = dataclasses.asdict(comparison)
    for name in ("images", "values"):
        first, second = record.pop(name)
        record |= {f"{name}_reference": first, f"{name}_current": second}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}


def report_table(report: dict[str, Any]) -> Table:
    """The tests that could be done, for a terminal of 80 columns."""
    table = Table(title=Text(report["verdict"], style=_STYLES[report["verdict"]]))
    for name in ("compared", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("reference", "current", "difference", "p (Holm)"):
        table.add_column(name, justify="right", no_wrap=True)
    for test in report["tests"]:
        if test["reason"]:
            continue
        numbers = ("values_reference", "values_current", "effect", "p_value_adjusted")
        verdict = Text(test["verdict"], style=_STYLES[test["verdict"]])
        table.add_row(Text(test["name"]), verdict, *(format_number(test[name]) for name in numbers))
    return table


def _unmeasured(tests: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each reason, with all that was not measured for it."""
    reasons = dict.fromkeys(test["reason"] for test in tests if test["reason"])
    return [
        f"not measured: {', '.join(test['name'] for test in tests if test['reason'] == reason)} ({reason})"
        for reason in reasons
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake monitor`: two tables in, a verdict out; its exit status is that of `EXIT_STATUS`."""
    arguments = _parser().parse_args(argv)
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Limits)}
    output_dir = arguments.output_dir or Path("monitoring") / arguments.current.stem
    report = monitor(arguments.reference, arguments.current, output_dir, Limits(**given))
    console = Console()
    console.print(report_table(report))
    written = f"wrote {output_dir} (monitor.html, monitor.json)"
    for line in (*_unmeasured(report["tests"]), report["found"], *report["advice"], written):
        console.print(printable(line), markup=False, highlight=False)
    return EXIT_STATUS[report["verdict"]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-deepfake monitor",
        description="Tell whether the images or the scores of a deployed detector have changed.",
        epilog="exit status: 0 nothing has changed, 1 drift, 2 wrong input, 3 too few images to tell",
    )
    tables = f"table of scores ({', '.join(_READERS)})"
    parser.add_argument("--reference", type=Path, required=True, metavar="TABLE", help=f"{tables} when all was well")
    parser.add_argument("--current", type=Path, required=True, metavar="TABLE", help=f"{tables} of now")
    parser.add_argument("--output_dir", type=Path, help="default: monitoring/CURRENT; older files are replaced")
    for name, meaning in (
        ("alpha", "chance of a false alarm, of all tests together"),
        ("min_distance", "smallest Kolmogorov-Smirnov distance that is a drift"),
        ("min_difference", "smallest difference of shares of verdicts that is one"),
        ("min_unreadable", "smallest difference of shares of unreadable images that is one"),
        ("min_images", "images of a table below which nothing is judged"),
    ):
        default = getattr(Limits, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{meaning}; default: {default}")
    return parser
