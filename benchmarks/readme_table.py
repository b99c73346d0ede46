"""Print the README's table of results from `benchmarks/results/*.json`; with --write, put it there."""

import argparse
import json
from pathlib import Path

from hf_deepfake.evaluation.tables import metrics_markdown

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table: python benchmarks/readme_table.py --write -->", "<!-- end of table -->"


def readme_table() -> str:
    """Every published result as Markdown."""
    parts = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
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
    return "\n".join(parts)


def write(readme: Path) -> None:
    """Put the table between its two marks."""
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(f"{before}{BEGIN}\n{readme_table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        write(ROOT / "README.md")
    else:
        print(readme_table())
