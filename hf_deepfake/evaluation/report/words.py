"""What figures say, in sentences that are printed from them."""

from collections.abc import Callable
from typing import Any

from hf_deepfake.data.corruptions import QUALITY, RESIZE
from hf_deepfake.evaluation.report.runs import Run
from hf_deepfake.evaluation.report.tables import SPACE, Value, benchmarks, counts, value
from hf_deepfake.printing import printable


def verdict(runs: list[Run], pairs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The report in a few sentences for a reader who knows no statistics, one paragraph a subject.

    The benchmark that comes first is the one that says most about images to come: unseen before seen, test before
    validation, both classes before one.
    """
    ordered = sorted(benchmarks(runs), key=lambda name: _standing(runs, name))
    first, *others = ordered
    best = _best(runs, first)
    paragraphs = [
        " ".join([_opening(runs, ordered), _ranking(runs, first, best, pairs), _rates(best, first)]),
        _calibrated(best, first),
        _uncertain(best),
        _robust(runs, best),
        *(_other(runs, name) for name in others),
        _standings(runs, ordered),
    ]
    return [paragraph for paragraph in paragraphs if paragraph]


def _standing(runs: list[Run], name: str) -> tuple[bool, bool, bool, bool]:
    parts = [run.metrics[name] for run in runs if name in run.metrics]
    return (
        name == "validation",
        any(part.get("seen_in_training") for part in parts),
        not any(value(part, "roc_auc") for part in parts),
        not any(part.get("unseen") for part in parts),
    )


def _best(runs: list[Run], benchmark: str) -> Run:
    """The model that ranks best, or, where there is one class, errs least."""

    def rank(run: Run) -> tuple[float, float]:
        figures = run.metrics[benchmark]
        area, accuracy = value(figures, "roc_auc"), value(figures, "accuracy")
        return (area.value if area else -1, accuracy.value if accuracy else -1)

    return max((run for run in runs if benchmark in run.metrics), key=rank)


def _opening(runs: list[Run], names: list[str]) -> str:
    models = f"one model, {runs[0].name}," if len(runs) == 1 else f"{len(runs)} models"
    images = []
    for name in names:
        counted = next(filter(None, (counts(run.metrics.get(name, {})) for run in runs)), None)
        images.append(f"{name} ({counted[0]} real photographs and {counted[1]} fakes)" if counted else name)
    return f"This report measures {models} on {_list(images)}."


def _list(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _ranking(runs: list[Run], benchmark: str, best: Run, pairs: dict[str, list[dict[str, Any]]]) -> str:
    area = value(best.metrics[benchmark], "roc_auc")
    rivals = sum(benchmark in run.metrics for run in runs)
    if area is None:
        return f"On {benchmark}, which has images of one class only, {best.name} errs least." if rivals > 1 else ""
    guessing = area.low is not None and area.low <= 0.5
    text = (
        f"On {benchmark} {best.name} has {'the highest' if rivals > 1 else 'a'} ROC AUC of {area}: the chance that a fake "
        f"gets a higher score than a real photograph; guessing reaches 0.5{', which may be no worse' if guessing else ''}."
    )
    if rivals == 1:
        return text
    text += f" It is the best of {rivals} models, picked on these same images, which flatters its figure."
    level = [
        row["second"] if row["first"] == best.name else row["first"]
        for row in pairs.get(benchmark, [])
        if best.name in (row["first"], row["second"])
        and _p_value(row, "roc_auc") is not None
        and not _told_apart(row, "roc_auc")
    ]
    return f"{text} Chance alone may explain its lead over {_list(list(map(printable, level)))}." if level else text


def _rates(run: Run, benchmark: str) -> str:
    """Errors in counts of images, at the stored threshold."""
    figures = run.metrics[benchmark]
    matrix = figures.get("confusion_matrix")
    if not matrix:
        return ""
    (right, alarms), (missed, found) = matrix
    parts = []
    if right + alarms:
        rate = _rate(alarms, right + alarms, value(figures, "false_positive_rate"))
        parts.append(f"calls {alarms or 'none'} of {right + alarms} real photographs fake{rate}")
    if missed + found:
        rate = _rate(missed, missed + found, value(figures, "false_negative_rate"))
        parts.append(f"misses {missed or 'none'} of {missed + found} fakes{rate}")
    return f"At its threshold of {run.threshold(benchmark):.3f} it {' and '.join(parts)}."


def _rate(errors: int, images: int, rate: Value | None) -> str:
    """A rate in brackets; of no error at all, what it still allows.

    Hanley and Lippman-Hand, If nothing goes wrong, is everything all right? JAMA 1983: the rule of three.
    """
    if errors:
        return f" ({rate})" if rate else ""
    return f" (a rate of up to {Value(min(1, 3 / images), share=True)} could still be behind it)"


def _calibrated(run: Run, benchmark: str) -> str:
    error = value(run.metrics[benchmark], "ece")
    if error is None:
        return ""
    points = _points(error)
    return (
        f"The probability of fake that {run.name} states on {benchmark} is off by {points} on average (expected "
        "calibration error)."
    )


def _uncertain(run: Run) -> str:
    uncertain = run.results.get("uncertain", {})
    if not run.band:
        return ""
    measured = [
        f"on {split} it judges {coverage} of the images and errs on {error} of those"
        for split, part in uncertain.get("rates", {}).items()
        if (coverage := value(part, "coverage")) and (error := value(part, "error_rate"))
    ]
    low, high = run.band
    told = f": {'; '.join(measured)}" if measured else ""
    return f"Between {low:.3f} and {high:.3f} {run.name} says “uncertain”{told}."


def _robust(runs: list[Run], best: Run) -> str:
    run = next((run for run in (best, *runs) if run.results.get("robustness")), best)
    sentences = []
    for benchmark, corruptions in run.results.get("robustness", {}).items():
        for name, amounts, wanted, told in (
            ("jpeg", QUALITY, 65, lambda amount: f"JPEG compression at quality {amount}"),
            ("resize", RESIZE, 0.5, lambda amount: f"resizing to {100 * amount:.0f}{SPACE}% of the sides"),
        ):
            measured = corruptions.get(name, {})
            if measured and benchmark in run.metrics:
                sentences.append(_after(run, benchmark, measured, amounts, wanted, told))
    return " ".join(sentences) or "What JPEG compression or resizing does to these figures was not measured."


def _after(
    run: Run,
    benchmark: str,
    measured: dict[str, dict[str, Any]],
    amounts: tuple[float, ...],
    wanted: float,
    told: Callable[[float], str],
) -> str:
    """One corruption at the amount that readers know, or at the next that was measured."""
    usual = amounts.index(wanted) + 1
    severity = min(measured, key=lambda name: (abs(int(name) - usual), -int(name)))
    after, before = measured[severity], run.metrics[benchmark]
    changes = [
        f"{what} is {new} instead of {old.number}"
        for metric, what in (
            ("roc_auc", "the ROC AUC"),
            ("false_positive_rate", "the share of real photographs called fake"),
            ("false_negative_rate", "that of fakes missed"),
        )
        if (new := value(after, metric)) and (old := value(before, metric))
    ]
    flipped = value(after, "flipped")
    changes += [f"{flipped} of the verdicts change"] if flipped else []
    amount = told(amounts[int(severity) - 1])
    return (
        f"After {amount} (severity {severity}) of {benchmark}, for {run.name}, {_list(changes) or 'nothing is known'}."
    )


def _other(runs: list[Run], benchmark: str) -> str:
    best = _best(runs, benchmark)
    area = value(best.metrics[benchmark], "roc_auc")
    rates = _rates(best, benchmark)
    if area is None:
        return f"On {benchmark}, for {best.name}: {rates[:1].lower()}{rates[1:]}" if rates else ""
    rank = "the highest" if sum(benchmark in run.metrics for run in runs) > 1 else "a"
    return f"On {benchmark} {best.name} has {rank} ROC AUC of {area}. {rates}"


def _standings(runs: list[Run], names: list[str]) -> str:
    """What each benchmark can say about images to come."""
    sentences, unseen = [], []
    for name in names:
        parts = {run.name: run.metrics[name] for run in runs if name in run.metrics}
        seen = {model: part["seen_in_training"] for model, part in parts.items() if part.get("seen_in_training")}
        for model, images in seen.items():
            sentences.append(
                f"{images} images of {name} are also training images of {model}: its figures there are too good."
            )
        if all(part.get("unseen") for part in parts.values()):
            unseen.append(name)
    if unseen:
        sentences.append(
            f"No image of the same sources as {_list(unseen)} was trained on: such figures say most about images to "
            "come."
        )
    else:
        sentences.append(
            "No benchmark here is known to be of sources that were not trained on: nothing here says how fakes of "
            "another generator are judged."
        )
    if "validation" in names:
        sentences.append(
            "Validation images also picked the checkpoint or fitted calibration and threshold: their figures are "
            "optimistic."
        )
    return " ".join(sentences)


def comparisons(pairs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Each pair of models on the same images, in words."""
    return [_pair(benchmark, row) for benchmark, rows in pairs.items() for row in rows]


def _pair(benchmark: str, row: dict[str, Any]) -> str:
    first, second = printable(str(row["first"])), printable(str(row["second"]))
    parts = []
    area, accuracy = value(row, "roc_auc_difference"), value(row, "accuracy_difference")
    if area:
        parts.append(f"ROC AUC differs by {_signed(area, str(area))}{_chance(row, 'roc_auc')}")
    if accuracy:
        parts.append(f"accuracy by {_signed(accuracy, _points(accuracy))}{_chance(row, 'decisions')}")
    return (
        f"{benchmark}, {first} minus {second} ({row.get('images', '?')} images): {'; '.join(parts) or 'not defined'}."
    )


def _signed(figure: Value, printed: str) -> str:
    return f"{'+' if figure.value > 0 else ''}{printed}"


def _points(figure: Value) -> str:
    interval = Value(figure.value, figure.low, figure.high, share=True).interval
    return f"{100 * figure.value:.1f}{SPACE}percentage points {interval}".rstrip()


def _p_value(row: dict[str, Any], kind: str) -> Value | None:
    return value(row, f"{kind}_p_value_adjusted") or value(row, f"{kind}_p_value")


def _told_apart(row: dict[str, Any], kind: str) -> bool:
    p_value = _p_value(row, kind)
    return p_value is not None and p_value.value < 0.05


def _chance(row: dict[str, Any], kind: str) -> str:
    p_value = _p_value(row, kind)
    if p_value is None:
        return ""
    printed = f"{p_value.value:.3f}" if p_value.value >= 0.001 else "below 0.001"
    judged = "more than chance explains" if _told_apart(row, kind) else "chance may explain it"
    return f" (p {printed}, {judged})"
