"""Print the published results of `benchmarks/results/*.json` as Markdown; with --write, put them into both READMEs.

Results of detectors stand in the README, figures of speed and of the data in benchmarks/README.md.
"""

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from hf_deepfake.evaluation.tables import format_metric, metrics_markdown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- table: python benchmarks/readme_table.py --write -->", "<!-- end of table -->"


def readme_table() -> str:
    """Every published result of detectors."""
    parts = []
    for results in _results():
        if "comparison" not in results:
            continue
        minutes = results["training_minutes"]
        parts += [
            f"**{results['title']}.** {results['images']} {results['machine']}. Training took "
            f"{', '.join(f'{value:.1f} min ({name})' for name, value in minutes.items())}, "
            f"{sum(minutes.values()):.1f} min together. Made by `{results['command']}`.",
            "",
            metrics_markdown(results["comparison"]["validation"], "validation"),
            "",
        ]
        if "unseen" in results:
            parts += [metrics_markdown(results["unseen"], f"{results['ensemble']['voting']} voting, unseen"), ""]
        parts += [*_calibration(results), *_robustness(results), *_operating_points(results)]
    return "\n".join(parts)


def _calibration(results: dict[str, Any]) -> list[str]:
    lines = ["| validation, cross-fitted | ECE before | after | of chance | Brier before | after |", "|---" * 6 + "|"]
    for name, measured in results["calibration"].items():
        before, after = measured["before"], measured["after"]
        figures = (before["ece"], after["ece"], after["ece_of_chance"], before["brier"], after["brier"])
        cells = " | ".join(f"{figure:.3f}" for figure in figures)
        lines.append(f"| {'the vote of calibrated members' if name == 'vote' else name} | {cells} |")
    return [*lines, ""]


def _robustness(results: dict[str, Any]) -> list[str]:
    """ROC AUC and flipped verdicts of one benchmark at every severity that was measured."""
    ((benchmark, corruptions),) = results["robustness"].items()
    severities = list(next(iter(corruptions.values())))
    lines = [
        f"| {benchmark}, corrupted: ROC AUC, verdicts flipped | {' | '.join(f'severity {s}' for s in severities)} |"
    ]
    lines.append("|---" * (len(severities) + 1) + "|")
    for name, measured in corruptions.items():
        cells = (f"{format_metric(of, 'roc_auc')}, {of['flipped']:.1%}" for of in measured.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _operating_points(results: dict[str, Any]) -> list[str]:
    """Error rates at the threshold of each purpose, on validation and unseen images."""
    benchmarks = ["validation", *results.get("unseen", {})]
    rates = {"real called fake": "false_positive_rate", "fake called real": "false_negative_rate"}
    columns = [(name, words, rate) for name in benchmarks for words, rate in rates.items()]
    points = results["operating_points"]
    defined = [column for column in columns if all(column[2] in point[column[0]] for point in points.values())]
    lines = [f"| purpose | threshold | {' | '.join(f'{name}: {words}' for name, words, _ in defined)} |"]
    lines.append("|---" * (len(defined) + 2) + "|")
    for purpose, point in points.items():
        cells = (format_metric(point[name], rate) for name, _, rate in defined)
        lines.append(f"| `{purpose}` | {point['threshold']:.3f} | {' | '.join(cells)} |")
    return [*lines, ""]


def figures_table() -> str:
    """Every other published figure."""
    parts = []
    for results in _results():
        if "rows" not in results:
            continue
        columns = list(results["rows"][0])
        parts += [
            f"**{results['title']}.** {results['machine']}. Made by `{results['command']}`.",
            "",
            f"| {' | '.join(columns)} |",
            f"|{'---|' * len(columns)}",
            *(f"| {' | '.join(str(row[column]) for column in columns)} |" for row in results["rows"]),
            "",
        ]
    return "\n".join(parts)


TABLES = {ROOT / "README.md": readme_table, ROOT / "benchmarks" / "README.md": figures_table}


def save_figures(name: str, title: str, command: str, machine: str, rows: list[dict[str, Any]]) -> None:
    """Store figures of a benchmark under its name; the rows have the same columns."""
    figures = {"title": title, "command": command, "machine": machine, "rows": rows}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {path}; now python benchmarks/readme_table.py --write")


def machine() -> str:
    """The processor that a figure was measured on, and the GPU where there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = f"one {torch.cuda.get_device_name()} and " if torch.cuda.is_available() else ""
    return f"Measured on {gpu}{os.cpu_count()} CPU cores ({names[0] if names else platform.processor()})"


def _results() -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def between(readme: Path) -> str:
    """What stands between the two marks."""
    return readme.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0]


def write(readme: Path, table: str) -> None:
    """Put a table between the two marks."""
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    wanted = parser.parse_args().write
    for readme, table in TABLES.items():
        if wanted:
            write(readme, table())
        else:
            print(table())
