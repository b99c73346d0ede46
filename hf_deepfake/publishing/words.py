"""What figures say to a reader who knows no statistics: errors in counts of 100 images."""

from typing import Any

from hf_deepfake.printing import printable

_ONE_IN_A_HUNDRED = 0.01


def expectations(name: str, metrics: dict[str, Any]) -> str:
    """Errors on images like those of a benchmark, what a verdict is worth, and how far these figures can be trusted."""
    (right, alarms), (missed, found) = metrics["confusion_matrix"]
    real, fake = right + alarms, missed + found
    sentences = [
        _errors(real, metrics, "false_positive_rate", "real photographs", "calls {} fake"),
        _errors(fake, metrics, "false_negative_rate", "fakes", "misses {}"),
        _rare_fakes(metrics) if real and fake else "",
        _ranking(metrics),
        _standing(name, metrics),
    ]
    counted = f"{real} real photograph{'s' * (real != 1)}, {fake} fake{'s' * (fake != 1)}"
    return " ".join([f"**{printable(name)}** ({counted}).", *filter(None, sentences)])


def _errors(images: int, metrics: dict[str, Any], rate: str, what: str, verb: str) -> str:
    """One kind of error; of none at all, what so few images still allow.

    Hanley and Lippman-Hand, If nothing goes wrong, is everything all right? JAMA 1983: the rule of three.
    """
    if not images or rate not in metrics:
        return ""
    if metrics[rate] == 0:
        allowed = of_hundred(min(1.0, 3 / images))
        return f"Of these {images} {what} it {verb.format('none')}, which still allows up to {allowed} of 100."
    return f"Of 100 {what} it {verb.format(of_hundred(metrics[rate]))} ({_between(metrics, rate)})."


def _between(metrics: dict[str, Any], name: str) -> str:
    return " to ".join(f"{100 * metrics[f'{name}{end}']:.0f}" for end in ("_low", "_high"))


def of_hundred(rate: float) -> str:
    """A rate as a count of 100.

    Example:
        >>> of_hundred(0.072), of_hundred(0.002), of_hundred(0.998), of_hundred(0.0)
        ('7', 'fewer than 1', 'more than 99', 'none')
    """
    if rate in (0, 1):
        return "all" if rate else "none"
    if not 0.005 <= rate < 0.995:
        return "fewer than 1" if rate < 0.5 else "more than 99"
    return f"{100 * rate:.0f}"


def _rare_fakes(metrics: dict[str, Any]) -> str:
    """How many alarms are false where fakes are rare: Bayes' rule, which the error rates alone hide."""
    alarms = (1 - _ONE_IN_A_HUNDRED) * metrics["false_positive_rate"]
    hits = _ONE_IN_A_HUNDRED * (1 - metrics["false_negative_rate"])
    if not alarms:
        return ""
    false = of_hundred(alarms / (alarms + hits))
    return f"Where 1 image in 100 is fake, {false} of 100 images that it calls fake are real."


def _ranking(metrics: dict[str, Any]) -> str:
    if "roc_auc" not in metrics:
        return ""
    guessing = ", **so this is no better than guessing**" if is_guessing(metrics) else ""
    return (
        f"Shown a fake and a real photograph, it gives the fake the higher score {100 * metrics['roc_auc']:.0f} times of "
        f"100 ({_between(metrics, 'roc_auc')}); guessing reaches 50{guessing}."
    )


def is_guessing(metrics: dict[str, Any]) -> bool:
    """Whether the interval of the ROC AUC reaches down to one half."""
    return bool(metrics.get("roc_auc_low", 1.0) <= 0.5)


def _standing(name: str, metrics: dict[str, Any]) -> str:
    if metrics.get("seen_in_training"):
        return f"{metrics['seen_in_training']} of these images were trained or fitted on: this is no test result."
    if name == "validation":
        return "These images also picked the checkpoint or fitted the threshold: their figures are optimistic."
    return {True: "No image of these sources was trained on.", False: ""}.get(metrics.get("unseen", False), "")


def failures(results: dict[str, Any]) -> list[str]:
    """Where it fails, from figures; and what nobody has measured."""
    return [
        *_hopeless(results["metrics"]),
        *_worst_sources(results.get("sources", {})),
        *_corrupted(results),
        *_attacked(results.get("adversarial", {})),
        *_calibrated(results["metrics"]),
        *_unmeasured(results),
    ]


def _hopeless(metrics: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"On **{printable(name)}** it cannot tell fakes from real photographs: it misses "
        f"{of_hundred(parts['false_negative_rate'])} of 100 fakes and calls {of_hundred(parts['false_positive_rate'])} of "
        "100 real photographs fake."
        for name, parts in metrics.items()
        if is_guessing(parts)
    ]


def _worst_sources(sources: dict[str, dict[str, dict[str, Any]]], shown: int = 3) -> list[str]:
    """The sources with most errors of each kind, over all benchmarks."""
    lines = []
    for rate, text in (
        ("false_positive_rate", "Real photographs that it calls fake most often: "),
        ("false_negative_rate", "Fakes that it misses most often: "),
    ):
        rates = [
            (parts[rate], f"{printable(source)} in {printable(name)} ({of_hundred(parts[rate])} of 100)")
            for name, measured in sources.items()
            for source, parts in measured.items()
            if parts.get(rate)
        ]
        worst = [told for _, told in sorted(rates, reverse=True)[:shown]]
        lines += [f"{text}{', '.join(worst)}."] if worst else []
    return lines


def _corrupted(results: dict[str, Any]) -> list[str]:
    lines = []
    for name, corruptions in results.get("robustness", {}).items():
        flips = [
            (parts["flipped"], f"{corruption} at severity {severity}")
            for corruption, severities in corruptions.items()
            for severity, parts in severities.items()
        ]
        worst, told = max(flips)
        lines.append(
            f"Changing the images of {printable(name)} changes verdicts: worst is {told} of 5, after which "
            f"{of_hundred(worst)} of 100 verdicts are others (table below)."
        )
    return lines


def _attacked(adversarial: dict[str, list[dict[str, Any]]]) -> list[str]:
    entries = [entry for attacks in adversarial.values() for entry in attacks]
    if not entries:
        return []
    worst = max(entries, key=lambda entry: float(entry["flipped"]))
    return [
        f"Someone who changes pixels on purpose ({worst['attack']}, by {worst['epsilon']}, made against "
        f"{printable(worst['attacked'])}) turns {of_hundred(worst['flipped'])} of 100 verdicts."
    ]


def _calibrated(metrics: dict[str, dict[str, Any]]) -> list[str]:
    name, parts = max(metrics.items(), key=lambda item: float(item[1]["ece"]))
    return [
        f"The probability that it states is off by {100 * parts['ece']:.0f} percentage points ({_between(parts, 'ece')}) on "
        f"average on {printable(name)}{', where it is worst' if len(metrics) > 1 else ''}."
    ]


def _unmeasured(results: dict[str, Any]) -> list[str]:
    missing = []
    if not any(parts.get("unseen") or parts.get("seen_in_training") == 0 for parts in results["metrics"].values()):
        missing.append("fakes of other generators and photographs of other cameras than those trained on")
    if not results.get("robustness"):
        missing.append("recompressed, resized, blurred or noisy images")
    if not results.get("sources"):
        missing.append("errors by camera, generator or group of people")
    return [f"Not measured: {'; '.join(missing)}."] if missing else []
