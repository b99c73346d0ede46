"""Metrics as tables for a terminal and for Markdown."""

from typing import Any

from rich.table import Table
from rich.text import Text

from hf_deepfake.printing import printable

COLUMNS = {
    "roc_auc": "ROC AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced acc.",
    "false_positive_rate": "FPR",
    "eer": "EER",
    "ece": "ECE",
}
TERMINAL_COLUMNS = ("roc_auc", "balanced_accuracy", "false_positive_rate", "ece")


def format_metric(metrics: dict[str, Any], name: str) -> str:
    """A metric with its interval, or `not defined`.

    Example:
        >>> format_metric({"eer": 0.1, "eer_low": 0.05, "eer_high": 0.2}, "eer")
        '0.100 [0.050, 0.200]'
    """
    if name not in metrics:
        return "not defined"
    text = f"{metrics[name]:.3f}"
    if f"{name}_low" in metrics:
        text += f" [{metrics[f'{name}_low']:.3f}, {metrics[f'{name}_high']:.3f}]"
    return text


def metrics_table(rows: dict[str, dict[str, Any]], first_column: str, title: str | None = None) -> Table:
    """Table for a terminal of 80 columns: a row a model or benchmark, the interval below each value."""
    table = Table(title=title, caption="below each value its 95 % bootstrap interval")
    table.add_column(first_column, overflow="fold")
    for metric in TERMINAL_COLUMNS:
        table.add_column(COLUMNS[metric].replace(" ", "\n"), justify="right", no_wrap=True)
    for name, metrics in rows.items():
        cells = (format_metric(metrics, metric) for metric in TERMINAL_COLUMNS)
        table.add_row(
            Text(printable(name)), *(cell.replace(" [", "\n").replace(", ", "-").rstrip("]") for cell in cells)
        )
    return table


def metrics_markdown(rows: dict[str, dict[str, Any]], first_column: str) -> str:
    """The same table in Markdown."""
    lines = [f"| {first_column} | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, metrics in rows.items():
        cell = printable(name).replace("|", "\\|")
        lines.append(f"| {cell} | {' | '.join(format_metric(metrics, metric) for metric in COLUMNS)} |")
    return "\n".join(lines)


def robustness_table(corruptions: dict[str, dict[str, dict[str, Any]]], title: str) -> Table:
    """Table for a terminal of 80 columns: ROC AUC of every corruption and severity, and the share of flipped verdicts."""
    severities = sorted({severity for metrics in corruptions.values() for severity in metrics})
    ranked = all("roc_auc" in metrics for of_one in corruptions.values() for metrics in of_one.values())
    first = "ROC AUC" if ranked else "false-positive rate"
    table = Table(
        title=title, min_width=60, caption=f"{first} at each severity, and below it the share of verdicts that flipped"
    )
    table.add_column("corruption")
    for severity in severities:
        table.add_column(severity, justify="right")
    for corruption, of_one in corruptions.items():
        cells = (of_one.get(severity, {}) for severity in severities)
        table.add_row(corruption, *(_robustness_cell(metrics, ranked) for metrics in cells))
    return table


def _robustness_cell(metrics: dict[str, Any], ranked: bool) -> str:
    if not metrics:
        return ""
    value = metrics.get("roc_auc" if ranked else "false_positive_rate")
    return f"{'-' if value is None else f'{value:.3f}'}\n{metrics['flipped']:.1%}"


def adversarial_table(attacks: dict[str, list[dict[str, Any]]], title: str) -> Table:
    """Table for a terminal: what every model says of the images that were made against one of them."""
    table = Table(
        title=Text(title), min_width=60, caption="a model under an attack on itself, and on the others (transfer)"
    )
    for column in ("attack", "attacked", "scored"):
        table.add_column(column, overflow="fold")
    for column in ("accuracy", "flipped"):
        table.add_column(column, justify="right")
    for model, entries in attacks.items():
        for entry in entries:
            name = f"{entry['attack']} {entry['epsilon']}"
            table.add_row(
                name,
                Text(printable(entry["attacked"])),
                Text(printable(model)),
                f"{entry['accuracy']:.3f}",
                f"{entry['flipped']:.1%}",
            )
    return table
