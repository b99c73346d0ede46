"""What a report says of changed images: corruptions by severity, and attacks."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_deepfake.evaluation.report.plots import Chart, Styles, chart, finish, styles_of
from hf_deepfake.evaluation.report.runs import Run
from hf_deepfake.evaluation.report.tables import Cell, Table, Value, finite, value
from hf_deepfake.printing import printable

_Severities = dict[str, dict[str, Any]]


def robustness_charts(runs: list[Run]) -> list[Chart]:
    """Per benchmark and corruption a small chart over the severities, all of a benchmark on one scale."""
    names = dict.fromkeys(
        (benchmark, corruption)
        for run in runs
        for benchmark, parts in run.results.get("robustness", {}).items()
        for corruption in parts
    )
    return [_robustness_chart(runs, benchmark, corruption) for benchmark, corruption in names]


def _robustness_chart(runs: list[Run], benchmark: str, corruption: str) -> Chart:
    curves = {run.name: curve for run in runs if (curve := _severities(run, benchmark, corruption))}
    scales = (
        _extreme(runs, benchmark, ("roc_auc",), min),
        _extreme(runs, benchmark, ("false_positive_rate", "flipped"), max),
    )
    told = "; ".join(_at_worst(name, curve) for name, curve in curves.items())
    alt = f"{corruption} on {benchmark} over the severities. At the highest: {told}."
    height = (2.6 if scales[0] is None else 4.5) + 0.2 * len(curves)
    drawn = (curves, styles_of(runs), scales, f"{corruption} on {benchmark}")
    return chart(f"robustness_{benchmark}_{corruption}", alt, _draw_robustness, *drawn, width=3.4, height=height)


def _severities(run: Run, benchmark: str, corruption: str) -> _Severities:
    """Figures by severity, from the unchanged images on."""
    measured = run.results.get("robustness", {}).get(benchmark, {}).get(corruption, {})
    curve = {name: measured[name] for name in sorted(measured, key=int)}
    return {"0": run.metrics[benchmark] | {"flipped": 0.0}} | curve if curve and benchmark in run.metrics else curve


def _extreme(runs: list[Run], benchmark: str, metrics: tuple[str, ...], pick: Any) -> float | None:
    parts = [run.metrics[benchmark] for run in runs if benchmark in run.metrics]
    for run in runs:
        for severities in run.results.get("robustness", {}).get(benchmark, {}).values():
            parts += severities.values()
    figures = (finite(part.get(f"{name}{end}")) for part in parts for name in metrics for end in ("", "_low", "_high"))
    extreme: float | None = pick((figure for figure in figures if figure is not None), default=None)
    return extreme


def _at_worst(name: str, curve: _Severities) -> str:
    last = curve[max(curve, key=int)]
    told = {"ROC AUC": "roc_auc", "real called fake": "false_positive_rate", "flipped": "flipped"}
    return f"{name} " + ", ".join(f"{what} {value(last, key)}" for what, key in told.items() if value(last, key))


def _draw_robustness(
    figure: Figure,
    curves: dict[str, _Severities],
    styles: Styles,
    scales: tuple[float | None, float | None],
    title: str,
) -> dict[str, Any]:
    lowest, highest = scales
    panels = figure.subplots(1 if lowest is None else 2, 1, sharex=True, squeeze=False)[:, 0]
    for name, curve in curves.items():
        color, marker = styles[name]
        if lowest is not None:
            _draw_curve(panels[0], curve, "roc_auc", color=color, marker=marker)
        _draw_curve(panels[-1], curve, "false_positive_rate", color=color, marker=marker, label=name)
        _draw_curve(panels[-1], curve, "flipped", color=color, marker=marker, linestyle="--")
    if lowest is not None:
        panels[0].set(ylabel="ROC AUC", ylim=(min(0.5, lowest) - 0.02, 1.02))
        panels[0].grid(alpha=0.3)
    panels[-1].set_ylim(-0.02, (highest or 1) * 1.05 + 0.02)
    for line, name in (("-", "real called fake"), ("--", "verdicts flipped")):
        panels[-1].plot([], [], color="grey", linestyle=line, label=name)
    finish(panels[-1], "", "severity (0: unchanged)", "share")
    panels[0].set_title(title, fontsize="medium")
    keys = [f"{name}{end}" for name in ("roc_auc", "false_positive_rate", "flipped") for end in ("", "_low", "_high")]
    return {
        "models": {
            name: {severity: {key: finite(part.get(key)) for key in keys} for severity, part in curve.items()}
            for name, curve in curves.items()
        }
    }


def _draw_curve(axes: Axes, curve: _Severities, metric: str, **style: Any) -> None:
    points = [(float(severity), figure) for severity, part in curve.items() if (figure := value(part, metric))]
    severities = [severity for severity, _ in points]
    axes.plot(severities, [figure.value for _, figure in points], markersize=4, **style)
    lows = [figure.value if figure.low is None else figure.low for _, figure in points]
    highs = [figure.value if figure.high is None else figure.high for _, figure in points]
    axes.fill_between(severities, lows, highs, color=style["color"], alpha=0.15, linewidth=0)


def robustness_tables(runs: list[Run]) -> list[Table]:
    """Per model and benchmark: corruptions by severity, in each cell ROC AUC and rates."""
    tables = []
    for run in runs:
        for benchmark, corruptions in run.results.get("robustness", {}).items():
            severities = sorted({severity for parts in corruptions.values() for severity in parts}, key=int)
            rows: list[list[Cell]] = [
                [printable(name), *(_robust_cell(parts.get(severity, {})) for severity in severities)]
                for name, parts in corruptions.items()
            ]
            columns = ["corruption", *(f"severity {severity}" for severity in severities)]
            tables.append(Table(f"{run.name} on {benchmark}", columns, rows))
    return tables


def _robust_cell(figures: dict[str, Any]) -> dict[str, Value] | None:
    told = {"AUC": "roc_auc", "real called fake": "false_positive_rate", "fakes missed": "false_negative_rate"}
    told |= {"verdicts flipped": "flipped"}
    cells = {name: value(figures, metric) for name, metric in told.items()}
    return {name: cell for name, cell in cells.items() if cell is not None} or None


def adversarial_table(runs: list[Run]) -> Table | None:
    """Images altered to deceive a model."""
    rows: list[list[Cell]] = []
    for run in runs:
        for benchmark, attacks in run.results.get("adversarial", {}).items():
            for attack in attacks:
                cells = [
                    value(attack, name)
                    for name in ("roc_auc", "accuracy", "false_positive_rate", "false_negative_rate", "flipped")
                ]
                told = [str(attack.get(name, "")) for name in ("attack", "epsilon", "attacked")]
                rows.append([run.name, benchmark, *map(printable, told), attack.get("images"), *cells])
    columns = [
        "model",
        "benchmark",
        "attack",
        "epsilon",
        "attack sees",
        "images",
        "ROC AUC",
        "accuracy",
        "real called fake",
        "fakes missed",
        "flipped",
    ]
    note = "Epsilon: the largest change of a pixel's value. Where the attack sees another model, it is carried over to this one."
    return Table("Images altered to deceive", columns, rows, note) if rows else None
