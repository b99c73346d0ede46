"""What a report says of how models were made: recipes, ensembles, versions, and the audit of the data."""

import re
from typing import Any

from hf_deepfake.evaluation.report.runs import Run
from hf_deepfake.evaluation.report.tables import Cell, Mark, Table, Value, value
from hf_deepfake.printing import printable


def audit_table(audit: dict[str, Any]) -> Table:
    """Each check of an audit: verdict, finding, advice."""
    rows: list[list[Cell]] = [
        [
            printable(check["name"]),
            Mark(check["verdict"], check["verdict"] if check["verdict"] in ("ok", "warning", "fail") else "soft"),
            printable(f"{check['found']} {check.get('advice', '')}"),
        ]
        for check in audit["checks"]
    ]
    return Table("Checks of the data", ["check", "verdict", "what was found, and what to do"], rows)


def recipe_table(runs: list[Run]) -> Table | None:
    """Recipes side by side, a column a run; of a path only its last part."""
    return _side_by_side("Recipes", {run.name: run.recipe for run in runs if run.recipe})


def environment_table(runs: list[Run]) -> Table | None:
    """Versions and hardware side by side."""
    columns = {}
    for run in runs:
        settings = dict(run.results.get("environment", {}))
        packages = settings.pop("packages", {})
        columns[run.name] = settings | (packages if isinstance(packages, dict) else {})
    return _side_by_side("Versions and hardware", {name: part for name, part in columns.items() if part})


def _side_by_side(title: str, columns: dict[str, dict[str, Any]]) -> Table | None:
    keys = dict.fromkeys(key for settings in columns.values() for key in settings)
    rows: list[list[Cell]] = [
        [printable(str(key)), *(_setting(settings.get(key), key) for settings in columns.values())] for key in keys
    ]
    if rows and len(columns) > 1 and all(row[1:] == [row[1]] * len(columns) for row in rows):
        return Table(title, ["", f"all {len(columns)} models"], [row[:2] for row in rows])
    return Table(title, ["", *columns], rows) if rows else None


def _setting(setting: Any, key: str = "") -> str:
    if isinstance(setting, list | tuple):
        return ", ".join(map(_setting, setting))
    if isinstance(setting, dict):
        return ", ".join(f"{name}: {_setting(part)}" for name, part in setting.items())
    if key == "group_by" and setting is not None:  # an expression, whatever it begins with
        return printable(str(setting))
    return "" if setting is None else printable(last_part(str(setting)))


def last_part(text: str) -> str:
    r"""The name at the end of an absolute path; any other text as it is.

    Example:
        >>> last_part("/home/me/data/faces"), last_part("C:\\data\\faces"), last_part("google/vit-base")
        ('…/faces', '…/faces', 'google/vit-base')
    """
    if re.match(r"(/|~/|\\\\|\.\.[/\\]|[A-Za-z]:[/\\])\S", text):
        return "…/" + re.split(r"[/\\]", text.rstrip("/\\"))[-1]
    return text


def ensemble_table(runs: list[Run]) -> Table | None:
    """How each ensemble votes."""
    rows: list[list[Cell]] = []
    for run in runs:
        ensemble = run.results.get("ensemble", {})
        for index, member in enumerate(ensemble.get("members", [])):
            fitted = [_at(ensemble.get(name), index) for name in ("temperatures", "weights")]
            rows.append([run.name, str(ensemble.get("voting", "")), printable(str(member)), *fitted])
    columns = ["ensemble", "voting", "member", "temperature", "weight"]
    return Table("Members", columns, rows) if rows else None


def _at(numbers: Any, index: int) -> Value | None:
    if not isinstance(numbers, list) or index >= len(numbers):
        return None
    return value({"weight": numbers[index]}, "weight")
