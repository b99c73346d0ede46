"""Model cards of detectors and ensembles, printed from results.json, recipe and configuration."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants

from hf_deepfake.ensemble.choosing import choice_lines
from hf_deepfake.ensemble.diversity import diversity_lines
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import vote_shares
from hf_deepfake.evaluation.metrics import INTERVALS
from hf_deepfake.evaluation.tables import COLUMNS, format_metric, metrics_markdown
from hf_deepfake.printing import printable
from hf_deepfake.publishing.recipes import hub_id, published_recipes
from hf_deepfake.publishing.words import expectations, failures, of_hundred
from hf_deepfake.writing import whole

_USE = """## Intended use

It helps a person who looks at a photograph, checks where it comes from and decides: journalists, researchers, people who
moderate. A score is evidence, not proof. Nobody should be accused, and nothing removed, because of a score alone: a wrong
"fake" harms the honest person in the picture, a wrong "real" lets a forgery pass.
"""

_LIMITS = """## Limits and failure cases

The figures hold for images like those that they were measured on. Images from other generators, other cameras or after
other compression are often judged worse: measure on your own before you rely on a verdict.
"""

_PURPOSES = {
    "youden": "fewest errors of both kinds together",
    "eer": "both kinds of error equally frequent",
    "f1": "best F1 score",
    "fixed": "one half, whatever the data",
}


@dataclass(frozen=True)
class Publication:
    """What only whoever publishes a checkpoint knows.

    Attributes:
        repo_id: `USER/NAME` on the Hub, or None for a card that stays in its folder.
        revision: Branch that it is loaded from.
        license: Licence id of the Hub.
        dataset: Hub id or name of the training data; by default the recipe's.
        evaluations: Results of `hf-deepfake evaluate`, by the folder that they are published in.
    """

    repo_id: str | None = None
    revision: str = "main"
    license: str | None = None
    dataset: str | None = None
    evaluations: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def save_card(results: dict[str, Any], folder: Path) -> None:
    """Write the card of a run directory or an ensemble, whose other files are there already."""
    with whole(folder / "README.md") as partial:
        partial.write_text(model_card(results, folder, Publication()), encoding="utf-8")


def model_card(results: dict[str, Any], folder: Path, publication: Publication) -> str:
    """The card as Markdown below metadata from which the Hub lists and ranks models.

    Args:
        results: What results.json holds.
        folder: Where the checkpoint, its recipe and its plots are.
        publication: Where it is published, and what else is known of it.

    Raises:
        InputError: If a recipe cannot be read.
    """
    recipes = published_recipes(folder)
    config = folder / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    everything = _with_evaluations(results, publication.evaluations)
    plots = _plots(results, folder, publication)
    name = publication.repo_id.split("/")[1] if publication.repo_id else str(results["model"])
    sections = [
        f"# {printable(name)}\n",
        _what_it_is(results),
        _USE,
        "## What to expect\n",
        *(f"- {expectations(benchmark, metrics)}" for benchmark, metrics in everything["metrics"].items()),
        "\nIn brackets the range that 95 % of resampled sets of images fall in.\n",
        _LIMITS,
        *(f"- {line}" for line in failures(everything)),
        "",
        *_robustness(everything),
        *_thresholds(results),
        "## How to use it\n",
        *_loading(results, settings, publication),
        "## Figures\n",
        *_figures(results, everything),
        *(f"![{path.rsplit('/', 1)[-1].removesuffix('.png').replace('_', ' ')}]({path})\n" for path in plots),
        *_members(results, settings),
        "## How it was made\n",
        *_making(results, recipes, publication),
    ]
    data = _metadata(results, everything, settings, recipes, publication, plots)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(sections)))


def _with_evaluations(results: dict[str, Any], evaluations: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Figures of the model's own splits and of evaluations; a name of two different measurements is told apart."""
    keys = ("metrics", "robustness", "adversarial", "sources")
    together: dict[str, Any] = {key: dict(results.get(key, {})) for key in keys}
    for folder, evaluation in evaluations.items():
        names = {}
        for name, metrics in evaluation["metrics"].items():
            own = together["metrics"].get(name)
            same = own is None or own["confusion_matrix"] == metrics["confusion_matrix"]
            names[name] = name if same else f"{name} of {Path(folder).name}"
            together["metrics"][names[name]] = (own if same and own else {}) | metrics
        for key in keys[1:]:
            together[key] |= {names[name]: parts for name, parts in evaluation.get(key, {}).items()}
    return together


def _main_benchmark(results: dict[str, Any]) -> str:
    """The model's own split that says most of images to come."""
    return "test" if "test" in results["metrics"] else next(iter(results["metrics"]))


def _plots(results: dict[str, Any], folder: Path, publication: Publication) -> list[str]:
    main = _main_benchmark(results)
    names = [f"scores_{main}", f"comparison_{main}", "calibration", "training_curves"]
    found = [f"plots/{name}.png" for name in names if (folder / "plots" / f"{name}.png").is_file()]
    return found + [
        f"{evaluation}/plots/scores_{name}.png"
        for evaluation, measured in publication.evaluations.items()
        for name in measured["metrics"]
        if name not in results["metrics"]
    ]


def _what_it_is(results: dict[str, Any]) -> str:
    if "ensemble" not in results:
        return "A detector that says how likely a photograph is fake: made or altered by a computer.\n"
    members = len(results["ensemble"]["members"])
    return (
        f"An ensemble of {members} detector{'s' * (members > 1)} that together say how likely a photograph is fake: made "
        "or altered by a computer.\n"
    )


def _robustness(results: dict[str, Any]) -> list[str]:
    """Each corruption at the strongest severity that was measured."""
    lines = []
    for name, corruptions in results["robustness"].items():
        for corruption, severities in corruptions.items():
            severity = max(severities, key=int)
            parts = severities[severity]
            rates = [format_metric(parts, key) for key in ("roc_auc", "false_positive_rate", "false_negative_rate")]
            cells = [printable(name), corruption, severity, *rates, of_hundred(parts["flipped"])]
            lines.append(f"| {' | '.join(cells)} |")
    head = "| images | change | severity | ROC AUC | real called fake | fakes missed | verdicts changed, of 100 |"
    return [head, "|---" * 7 + "|", *lines, ""] if lines else []


def _thresholds(results: dict[str, Any]) -> list[str]:
    """What the threshold of each purpose costs, and what is left to a person."""
    if "operating_points" not in results:
        return []
    split = _main_benchmark(results)
    lines = [
        "## Thresholds\n",
        f"An image is called fake from a threshold on. Each purpose has its own, fitted on validation, measured on {split}:",
        "",
        "| purpose | threshold | real called fake | fake called real | meaning |",
        "|---|---|---|---|---|",
    ]
    for purpose, point in results["operating_points"].items():
        rates = [format_metric(point[split], f"false_{kind}_rate") for kind in ("positive", "negative")]
        cells = [purpose, f"{point['threshold']:.3f}", *rates, _meaning(purpose)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, "", *_uncertain(results, split)]


def _meaning(purpose: str) -> str:
    if purpose.startswith("fpr="):
        return f"at most {float(purpose.removeprefix('fpr=')):.1%} of real photographs called fake"
    return _PURPOSES.get(purpose, "")


def _uncertain(results: dict[str, Any], split: str) -> list[str]:
    if "uncertain" not in results:
        return []
    low, high = results["uncertain"]["band"]
    rates = results["uncertain"]["rates"][split]
    wrong = f", and {rates['error_rate']:.1%} of the others are wrong" if "error_rate" in rates else ""
    open_ = 1 - rates["coverage"]
    return [f"Between {low:.3f} and {high:.3f} the verdict is `uncertain`: {open_:.1%} of the images{wrong}.", ""]


def _loading(results: dict[str, Any], settings: dict[str, Any], publication: Publication) -> list[str]:
    model = publication.repo_id or str(results["model"])
    pinned = f', revision="{publication.revision}"' if publication.repo_id else ""
    trust = ", trust_remote_code=True" if "auto_map" in settings else ""
    lines = [
        "```python",
        "from transformers import pipeline",
        "",
        f'detector = pipeline("image-classification", model="{model}"{pinned}{trust})',
        'detector("photo.jpg")  # [{"label": "fake", "score": …}, {"label": "real", "score": …}]',
        "```",
        "",
    ]
    if "auto_map" in settings:
        threshold = results["metrics"][_main_benchmark(results)]["threshold"]
        lines += [
            "It needs `transformers` and `timm`. Its code comes with it, and `trust_remote_code=True` runs it: "
            "look at it, and put the commit that you looked at in place of the branch in `revision`. The first label is the "
            f"more likely one; its own verdict is `fake` from {threshold:.3f} on. With `hf_deepfake` installed no "
            "code of the repository is run, and every member's vote is shown:",
            "",
            "```python",
            "import hf_deepfake",
            "from transformers import pipeline",
            "",
            f'detector = pipeline("deepfake-ensemble", model="{model}"{pinned})',
            'detector("photo.jpg", details=True)',
            "```",
            "",
        ]
    if settings.get("reading"):
        lines += [
            "It reads a part of the image, or a smaller decoding of it, as it was trained to. Only `hf_deepfake` does that "
            f"(`hf-deepfake predict --model {model} photo.jpg`); the pipeline above reads whole images and is less exact.",
            "",
        ]
    return lines


def _figures(results: dict[str, Any], everything: dict[str, Any]) -> list[str]:
    lines = [metrics_markdown(everything["metrics"], "benchmark"), ""]
    for benchmark, rows in results.get("comparison", {}).items():
        lines += [f"Members (uncalibrated, at 0.5) and votes on {benchmark}:", "", metrics_markdown(rows, "model"), ""]
    return [
        *lines,
        "95 % bootstrap intervals in brackets. FPR: share of real photographs called fake. EER: error rate where both kinds "
        "of error are equally frequent. ECE: how far stated probabilities are off.\n",
    ]


def _members(results: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Who votes, and how much each vote counts."""
    if "ensemble" not in results:
        return []
    voting = results["ensemble"]
    shares = vote_shares(voting["weights"], voting["voting"])
    lines = [
        "## Who votes\n",
        f"The vote is {voting['voting']}. Share: how much of the vote is this member's.",
        "",
        "| member | network | share of the vote | temperature |",
        "|---|---|---|---|",
    ]
    networks = [_network(member) for member in settings.get("members", [])] or [""] * len(shares)
    for member, network, share, temperature in zip(
        voting["members"], networks, shares, voting["temperatures"], strict=True
    ):
        lines.append(f"| {printable(member)} | {network} | {share:.1%} | {temperature:.3f} |")
    return [*lines, "", *choice_lines(results), *diversity_lines(results)]


def _network(settings: dict[str, Any]) -> str:
    return str(settings.get("architecture") or settings.get("model_type", ""))


def _making(results: dict[str, Any], recipes: Mapping[str, dict[str, Any]], publication: Publication) -> list[str]:
    lines = []
    if "data" in results:
        counted = (f"{split}: {part['real']} real and {part['fake']} fake" for split, part in results["data"].items())
        lines.append(f"- Images: {', '.join(counted)}.")
    for name, revision in _datasets(recipes, publication).items():
        pinned = f", revision `{revision}`" if revision else ", revision not pinned" if hub_id(name) else ""
        lines.append(f"- Training data: `{printable(name)}`{pinned}.")
    starts = {_start(recipe) for recipe in recipes.values() if "model_name_or_path" in recipe}
    lines += [f"- Started from: {', '.join(sorted(starts))}."] if starts else []
    if "training" in results:
        minutes, steps = results["training"]["seconds"] / 60, results["training"]["steps"]
        device = results["environment"]["device"]
        lines.append(f"- Trained for {steps} steps in {minutes:.1f} minutes ({device}).")
    if "continual" in results:
        continual = results["continual"]
        old = (continual["before"].get("old_validation"), results["metrics"].get("old_validation"))
        change = " → ".join(format_metric(metrics, "roc_auc") for metrics in old if metrics)
        lines.append(
            f"- Gone on from `{printable(continual['init_from'])}`, {continual['replayed']} of its images replayed"
            + (f"; ROC AUC on its own validation images before → after: {change}." if all(old) else ".")
        )
    packages = results["environment"]["packages"]
    lines.append(f"- Versions: {', '.join(f'{name} {version}' for name, version in packages.items())}.")
    lines.append(f"- Licence: {publication.license or 'none was given; ask before you use it'}.\n")
    for file, recipe in recipes.items():
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        lines.append(f"<details><summary>{file}</summary>\n\n```yaml\n{text}```\n\n</details>\n")
    return lines


def _start(recipe: Mapping[str, Any]) -> str:
    name = str(recipe["model_name_or_path"])
    if "/" in name:
        return f"`{printable(name)}`"
    return f"`{printable(name)}` with {'ImageNet' if recipe.get('pretrained') else 'random'} weights"


def _datasets(recipes: Mapping[str, dict[str, Any]], publication: Publication) -> dict[str, str | None]:
    """Names of the training data with their revisions."""
    if publication.dataset:
        return {publication.dataset: None}
    found = [recipe for recipe in recipes.values() if "dataset_name" in recipe]
    return {str(recipe["dataset_name"]): recipe.get("dataset_revision") for recipe in found}


def _metadata(
    results: dict[str, Any],
    everything: dict[str, Any],
    settings: dict[str, Any],
    recipes: Mapping[str, dict[str, Any]],
    publication: Publication,
    plots: list[str],
) -> ModelCardData:
    datasets = _datasets(recipes, publication)
    known = [name for name in datasets if hub_id(name)]
    bases = {base for recipe in recipes.values() if (base := hub_id(recipe.get("model_name_or_path")))}
    address = f"{constants.ENDPOINT}/{publication.repo_id}/resolve/{publication.revision}/"
    return ModelCardData(
        license=publication.license,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["deepfake-detection", "fake-image-detection", *(["deepfake-ensemble"] if "ensemble" in results else [])],
        base_model=sorted(bases) or None,
        datasets=known or None,
        metrics=["accuracy", "roc_auc", "f1"],
        thumbnail=address + plots[0] if publication.repo_id and plots else None,
        model_name=publication.repo_id or str(results["model"]),
        eval_results=[
            result
            for benchmark, metrics in everything["metrics"].items()
            for result in _eval_results(benchmark, metrics, benchmark in results["metrics"], datasets)
        ],
    )


def _eval_results(
    benchmark: str, metrics: dict[str, Any], own: bool, datasets: Mapping[str, str | None]
) -> list[EvalResult]:
    """One benchmark as the Hub's `model-index` has it; the model's own splits are of its training data."""
    data = next(iter(datasets), None) if own else None
    return [
        EvalResult(
            task_type="image-classification",
            task_name="real or fake",
            dataset_type=hub_id(data) or printable(benchmark),
            dataset_name=f"{printable(data)}, {benchmark}" if data else printable(benchmark),
            dataset_split=benchmark if own else None,
            dataset_revision=datasets.get(data) if data else None,
            metric_type=metric,
            metric_name=COLUMNS.get(metric, metric.replace("_", " ")),
            metric_value=round(metrics[metric], 4),
        )
        for metric in INTERVALS
        if metric in metrics
    ]
