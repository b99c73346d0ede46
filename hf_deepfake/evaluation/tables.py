"""Metrics as tables for a terminal and for Markdown."""

from typing import Any

from rich.table import Table

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
        table.add_row(name, *(cell.replace(" [", "\n").replace(", ", "-").rstrip("]") for cell in cells))
    return table


def metrics_markdown(rows: dict[str, dict[str, Any]], first_column: str) -> str:
    """The same table in Markdown."""
    lines = [f"| {first_column} | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, metrics in rows.items():
        lines.append(f"| {name} | {' | '.join(format_metric(metrics, metric) for metric in COLUMNS)} |")
    return "\n".join(lines)
