"""Check a data set before anything is trained on it: broken files, duplicates, leaks and shortcuts."""

import argparse
import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset, DatasetDict
from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.hf_argparser import string_to_bool

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.audit_page import save_page
from hf_deepfake.data.augmentation import preview_transforms
from hf_deepfake.data.cleaning import decide, save_cleaned
from hf_deepfake.data.duplicates import near_duplicates
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.measuring import measure_images
from hf_deepfake.data.repeats import (
    check_duplicates,
    check_groups,
    check_label_conflicts,
    check_leaks,
    same_picture_sets,
)
from hf_deepfake.data.splitting import everything
from hf_deepfake.data.verdicts import (
    Check,
    check_counts,
    check_formats,
    check_metadata,
    check_readable,
    check_sizes,
    check_spectrum,
    worst,
)
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.labels import NAMES
from hf_deepfake.printing import printable
from hf_deepfake.writing import whole

_DATA_FLAGS = "dataset_config_name dataset_revision image_root image_column label_column fake_label group_by".split()
_STYLES = {"ok": "green", "warning": "yellow", "fail": "bold red", "not measured": "dim"}
_PREVIEWED = 4


def audit_dataset(
    data: DataArguments, output_dir: Path, fix: bool = False, quiet: bool = False, seed: int = 0
) -> dict[str, Any]:
    """Measure every image of a data set, judge it, and write `audit.json` and `audit.html`.

    Args:
        data: What to read; splits are taken as they are and none are made.
        output_dir: Where to write; it must hold no audit.json.
        fix: Write `cleaned.parquet` too: a table without unreadable images, copies and leaks, which the loader reads.
        quiet: Show no progress.
        seed: Of the pictures that the page shows at random.

    Returns:
        What audit.json holds: `verdict`, `images`, the real and fake ones by `splits` and `sources`, `checks`
        with their complete findings and, after a fix, `cleaned`.

    Raises:
        InputError: If there is an audit already, or the data cannot be loaded.
    """
    if output_dir.is_file() or (output_dir / "audit.json").exists():
        raise InputError(f"{output_dir}: is a file or holds an audit.json already; choose another --output_dir.")
    splits = load_data(data, both_classes=False, leaks=True)
    rows = everything(splits)
    images = pd.concat([_known(splits), measure_images(rows, quiet)], axis=1)
    near = near_duplicates(images)
    checks = check_images(images, near)
    report: dict[str, Any] = {
        "schema": 1,
        "data": data.dataset_name,
        "verdict": worst(checks),
        "images": len(images),
        "splits": _counts(images, "split"),
        "sources": _counts(images, "source"),
        "checks": [_as_json(check, images) for check in checks],
    }
    if fix:
        report["cleaned"] = _save_cleaned(rows, images, near, output_dir / "cleaned.parquet")
    save_page(data.dataset_name, checks, images, rows, output_dir / "audit.html", seed)
    with whole(output_dir / "audit.json") as partial:
        partial.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return report


def check_images(images: pd.DataFrame, near: Iterable[tuple[int, int]]) -> list[Check]:
    """Put every question to the data.

    Args:
        images: What `measure_images` tells of each image, with its `file`, `label`, `split` (`all` where there are
            none) and, where known, `source` and `group`; rows numbered from 0.
        near: Pairs of rows that show the same picture.

    Returns:
        The checks in the order of the report.
    """
    sets = same_picture_sets(images, near)
    return [
        check_counts(images),
        check_readable(images),
        check_sizes(images),
        check_formats(images),
        check_duplicates(images, sets),
        check_label_conflicts(images, sets),
        check_leaks(images, sets),
        check_groups(images),
        check_metadata(images),
        check_spectrum(images),
    ]


def data_name(dataset_name: str) -> str:
    """What a data set is called: its folder or file, or its name on the Hub."""
    path = Path(dataset_name).resolve()
    return path.stem if path.is_file() else path.name


def _known(splits: DatasetDict) -> pd.DataFrame:
    parts = []
    for name, rows in splits.items():
        columns = [column for column in ("file", "label", "source", "group") if column in rows.column_names]
        parts.append(pd.DataFrame({column: rows[column][:] for column in columns} | {"split": name}))
    return pd.concat(parts, ignore_index=True)


def _counts(images: pd.DataFrame, column: str) -> dict[str, dict[str, int]]:
    """Images of each class by what a column says, where it is known."""
    if column not in images:
        return {}
    return {
        str(value): {name: int((part["label"] == label).sum()) for label, name in enumerate(NAMES)}
        for value, part in images.groupby(column, sort=False)
    }


def _as_json(check: Check, images: pd.DataFrame) -> dict[str, Any]:
    named = images[["file", "split", "label"]].to_numpy()
    findings = [
        {
            "what": finding.what,
            "images": [
                {"file": file, "split": split, "label": NAMES[label]} for file, split, label in named[finding.rows]
            ],
        }
        for finding in check.findings
    ]
    numbers = dataclasses.asdict(check.numbers) if check.numbers is not None else None
    return {
        "name": check.name,
        "verdict": check.verdict,
        "found": check.found,
        "advice": check.advice,
        "numbers": numbers,
        "findings": findings,
    }


def _save_cleaned(rows: Dataset, images: pd.DataFrame, near: Sequence[tuple[int, int]], path: Path) -> dict[str, Any]:
    decisions = decide(images, near)
    removed = decisions["removed"].notna()
    moved = ~removed & (decisions["split"] != images["split"])
    if not removed.all():
        save_cleaned(rows, images, decisions, path)
    return {
        "kept": int((~removed).sum()),
        "removed": [
            {"file": file, "why": why}
            for file, why in zip(images["file"][removed], decisions["removed"][removed], strict=True)
        ],
        "moved": [
            {"file": file, "from": before, "to": after}
            for file, before, after in zip(
                images["file"][moved], images["split"][moved], decisions["split"][moved], strict=True
            )
        ],
    }


def report_table(report: dict[str, Any]) -> Table:
    """The verdicts for a terminal of 80 columns."""
    table = Table(title=Text(f"{printable(report['data'])}: {report['verdict']}"), show_lines=True)
    table.add_column("check", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("what was found, and what to do", overflow="fold")
    for check in report["checks"]:
        advice = "" if check["advice"] == Check.advice else f" {check['advice']}"
        verdict = Text(check["verdict"], style=_STYLES[check["verdict"]])
        table.add_row(Text(check["name"]), verdict, Text(check["found"] + advice))
    return table


def _preview(data: DataArguments, name: str, strength: float, path: Path) -> None:
    rows = everything(load_data(data, both_classes=False, leaks=True))
    images: list[Image.Image] = []
    for row in np.random.default_rng(0).permutation(len(rows)):
        try:
            images.append(open_rgb(rows[int(row)]["image"]))
        except UnreadableImageError:
            continue
        if len(images) == _PREVIEWED:
            break
    if not images:
        raise InputError(f"{data.dataset_name}: none of its {len(rows)} images can be read.")
    preview_transforms(images, name, strength, path)


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake audit`: verdicts on a data set; 1 where a check failed."""
    arguments = _parser().parse_args(argv)
    output_dir: Path = arguments.output_dir or Path("audits") / data_name(arguments.data)
    given = {name: getattr(arguments, name) for name in (*_DATA_FLAGS, "follow_links")}
    data = DataArguments(dataset_name=arguments.data, **given)
    if arguments.preview_transforms is not None:
        path = output_dir / f"transforms_{arguments.preview_transforms}.png"
        _preview(data, arguments.preview_transforms, arguments.transforms_strength, path)
        _say(f"wrote {path}")
        return 0
    report = audit_dataset(data, output_dir, arguments.fix)
    Console().print(report_table(report))
    written = f"audit.html, audit.json{', cleaned.parquet' if report.get('cleaned', {}).get('kept') else ''}"
    _say(f"wrote {output_dir} ({written})")
    if arguments.fix:
        _say(_cleaned_line(report["cleaned"]))
    return int(report["verdict"] == "fail" or (arguments.strict and report["verdict"] == "warning"))


def _say(line: str) -> None:
    Console().print(printable(line), markup=False, highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-deepfake audit", description="Check a data set before training on it.")
    parser.add_argument("data", metavar="DATA", help="folder, table, save_to_disk folder or Hub id")
    parser.add_argument("--output_dir", type=Path, help="default: audits/DATA")
    parser.add_argument("--fix", action="store_true", help="write cleaned.parquet too: no broken image, copy or leak")
    parser.add_argument("--strict", action="store_true", help="exit with 1 on a warning too")
    fields = {field.name: field for field in dataclasses.fields(DataArguments)}
    for name in _DATA_FLAGS:
        parser.add_argument(f"--{name}", help=fields[name].metadata["help"])
    links = fields["follow_links"].metadata["help"]
    parser.add_argument("--follow_links", type=string_to_bool, nargs="?", const=True, default=False, help=links)
    parser.add_argument(
        "--preview_transforms", "--preview-transforms", metavar="NAME", help="only draw what this transform does"
    )
    parser.add_argument("--transforms_strength", type=float, default=1.0, help="factor on what it does")
    return parser


def _cleaned_line(cleaned: dict[str, Any]) -> str:
    reasons = Counter(removal["why"].split(":")[0].split(" as ")[0] for removal in cleaned["removed"])
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    line = f"cleaned: {cleaned['kept']} images kept, {len(cleaned['removed'])} left out"
    line += f" ({listed})" if listed else ""
    return f"{line}, {len(cleaned['moved'])} moved to another split"
