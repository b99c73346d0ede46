"""Model cards, printed from results.json."""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from hf_deepfake.evaluation.tables import format_metric, metrics_markdown
from hf_deepfake.writing import whole

_LIMITS = """## Limits

These figures hold for images like those of the benchmarks above. Images from other generators, other cameras or
after other compression are often judged worse; measure on your own before you rely on a verdict. A score is evidence,
not proof: a wrong verdict harms the person in the picture, so a person should look before anything follows from it.
"""


def _card(title: str, body: str, tags: list[str]) -> str:
    data = ModelCardData(
        pipeline_tag="image-classification", library_name="transformers", tags=["deepfake-detection", *tags]
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {title}\n\n{body}\n{_LIMITS}"))


def save_detector_card(results: dict[str, Any], run: Path) -> None:
    """Write the card of a run directory."""
    counts = ", ".join(
        f"{split}: {count['real']} real and {count['fake']} fake" for split, count in results["data"].items()
    )
    body = "\n".join(
        [
            "A detector that gives the probability that a photograph is fake (column 1; column 0 is real).",
            "",
            metrics_markdown(results["metrics"], "benchmark"),
            "",
            "95 % bootstrap intervals in brackets. The checkpoint was picked on validation, whose figures are optimistic.",
            f"Images: {counts}. The recipe is `recipe.yaml`.",
            "",
            "![Training curves](plots/training_curves.png)",
            "",
            *(f"![Scores on {name}](plots/scores_{name}.png)" for name in results["metrics"]),
            "",
            "```python",
            "from transformers import pipeline",
            "",
            f'detector = pipeline("image-classification", model="{results["model"]}")',
            'detector("photo.jpg")',
            "```",
            "",
        ]
    )
    _write(_card(results["model"], body, []), run)


def save_ensemble_card(results: dict[str, Any], folder: Path) -> None:
    """Write the card of an ensemble: its members, how they vote, and every vote measured side by side."""
    voting = results["ensemble"]
    lines = [
        f"Members vote ({voting['voting']} voting) on the probability that a photograph is fake.",
        "",
        "| member | temperature | weight |",
        "|---|---|---|",
        *(
            f"| {name} | {temperature:.3f} | {weight:.3f} |"
            for name, temperature, weight in zip(
                voting["members"], voting["temperatures"], voting["weights"], strict=True
            )
        ),
        "",
    ]
    for benchmark, rows in results["comparison"].items():
        lines += [f"On {benchmark}:", "", metrics_markdown(rows, "model"), ""]
    lines += _operating_points(results)
    lines += [
        "95 % bootstrap intervals in brackets. Temperatures, weights and thresholds were fitted on validation, whose",
        "figures are optimistic.",
        "",
        "```python",
        "import hf_deepfake",
        "from transformers import pipeline",
        "",
        f'detector = pipeline("deepfake-ensemble", model="{results["model"]}")',
        'detector("photo.jpg", details=True)',
        "```",
        "",
    ]
    _write(_card(results["model"], "\n".join(lines), ["deepfake-ensemble"]), folder)


def _operating_points(results: dict[str, Any]) -> list[str]:
    """What the threshold of each purpose costs, and what is left to a person."""
    points = results["operating_points"]
    split = "test" if "test" in results["metrics"] else "validation"
    lines = [
        f"Thresholds by purpose (`--threshold`), fitted on validation and measured on {split}:",
        "",
        "| purpose | threshold | real called fake | fake called real |",
        "|---|---|---|---|",
        *(
            f"| {purpose} | {point['threshold']:.3f} | {format_metric(point[split], 'false_positive_rate')} "
            f"| {format_metric(point[split], 'false_negative_rate')} |"
            for purpose, point in points.items()
        ),
        "",
    ]
    if "uncertain" in results:
        low, high = results["uncertain"]["band"]
        rates = results["uncertain"]["rates"][split]
        wrong = f", and {rates['error_rate']:.1%} of the others are wrong" if "error_rate" in rates else ""
        lines += [
            f"Between {low:.3f} and {high:.3f} the verdict is `uncertain`: {1 - rates['coverage']:.1%} of the images{wrong}.",
            "",
        ]
    return lines


def _write(card: str, folder: Path) -> None:
    with whole(folder / "README.md") as partial:
        partial.write_text(card, encoding="utf-8")
