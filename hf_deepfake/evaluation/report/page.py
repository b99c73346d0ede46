"""One page about models and their measurements: `hf-deepfake report`."""

import argparse
import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from tqdm.auto import tqdm

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.report import plots, tables, words
from hf_deepfake.evaluation.report.errors import Gallery, Pictures, galleries, given_pictures, recipe_pictures
from hf_deepfake.evaluation.report.explanations import explanation_charts
from hf_deepfake.evaluation.report.plots import Chart
from hf_deepfake.evaluation.report.ranking import ranking_charts
from hf_deepfake.evaluation.report.robustness import adversarial_table, robustness_charts, robustness_tables
from hf_deepfake.evaluation.report.runs import Run, read_runs
from hf_deepfake.evaluation.report.settings import audit_table, ensemble_table, environment_table, recipe_table
from hf_deepfake.evaluation.report.tables import Mark, Table, Value
from hf_deepfake.pages import data_address, save_rendered
from hf_deepfake.printing import first_line, printable
from hf_deepfake.writing import whole


@dataclass(frozen=True)
class Section:
    """A heading of the page and what stands below it, in this order; one without anything is left out."""

    name: str
    title: str
    words: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tables: list[Table | None] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    charts: list[Chart | None] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)

    def filled(self) -> bool:
        """Whether there is more than an introduction."""
        return any((*self.tables, *self.points, *self.charts, *self.galleries))


def save_report(
    runs: list[Run],
    pairs: dict[str, list[dict[str, Any]]],
    path: Path,
    pictures: list[Pictures] | None = None,
    audit: dict[str, Any] | None = None,
    explanations: list[Chart] | None = None,
) -> None:
    """Write the page, and beside it `STEM_files/` with every chart as PNG and JSON and the tables in report.json.

    Args:
        runs: The models, in the order of the page.
        pairs: Paired comparisons by benchmark.
        path: The page, `.html`; one that is there is replaced, with its folder of files.
        pictures: Where images of mistakes are looked for.
        audit: What audit.json holds.
        explanations: Sheets of `explanation_charts`.

    Raises:
        InputError: If the path is not that of a page, or its folder of files is something else.
    """
    folder = path.with_name(f"{path.stem}_files")
    if path.suffix.lower() not in (".html", ".htm") or path.is_dir():
        raise InputError(f"--output {path}: must be a file that ends in .html.")
    if folder.exists() and not (folder / "report.json").is_file():
        raise InputError(f"{folder}: exists and is no report's; choose another --output.")
    verdict = words.verdict(runs, pairs)
    sections = _sections(runs, pairs, pictures or [], audit)
    sections.insert(-3, Section("explanations", "Where it looked", [_EXPLANATIONS], charts=list(explanations or [])))
    sections = [part for part in sections if part.filled()]
    with whole(folder) as partial:
        _save_files(partial, verdict, sections)
        if folder.exists():
            shutil.rmtree(folder)
    template = Path(__file__).with_name("report.html.j2")
    save_rendered(
        template, path, title=_title(runs), verdict=verdict, sections=sections, files=folder.name, address=data_address
    )


def _title(runs: list[Run]) -> str:
    return ", ".join(run.name for run in runs) if len(runs) <= 3 else f"{len(runs)} models"


def _sections(
    runs: list[Run], pairs: dict[str, list[dict[str, Any]]], pictures: list[Pictures], audit: dict[str, Any] | None
) -> list[Section]:
    steps = (
        lambda: _measured(runs, pairs),
        lambda: Section(
            "training", "Training", tables=[tables.training_table(runs)], charts=list(plots.training_charts(runs))
        ),
        lambda: Section("ranking", "Ranking", [_RANKING], charts=list(ranking_charts(runs))),
        lambda: Section(
            "verdicts", "Verdicts at the threshold", charts=[*plots.confusion_charts(runs), plots.f1_chart(runs)]
        ),
        lambda: Section("scores", "Scores", [_SCORES], charts=list(plots.score_charts(runs))),
        lambda: Section(
            "calibration",
            "Calibration",
            [_CALIBRATION],
            tables=[tables.calibration_table(runs)],
            charts=list(plots.reliability_charts(runs)),
        ),
        lambda: Section("thresholds", "Operating points", tables=[tables.operating_table(runs)]),
        lambda: Section(
            "uncertain",
            "Uncertain images",
            [_UNCERTAIN],
            tables=[tables.uncertain_table(runs), tables.aurc_table(runs)],
            charts=list(plots.risk_charts(runs)),
        ),
        lambda: Section(
            "robustness",
            "After changes of the images",
            [_ROBUSTNESS],
            tables=list(robustness_tables(runs)),
            charts=list(robustness_charts(runs)),
        ),
        lambda: Section("adversarial", "Attacks", tables=[adversarial_table(runs)]),
        lambda: Section(
            "sources",
            "Sources",
            tables=[
                tables.sources_table(runs, "sources", "By source", _SOURCES),
                tables.sources_table(runs, "leave_one_source_out", "A source left out", _LEFT_OUT),
            ],
        ),
        lambda: Section("classes", "Classification report", tables=[tables.classification_table(runs)]),
        lambda: Section("errors", "The surest mistakes", [_ERRORS], galleries=galleries(runs, pictures)),
        lambda: _audited(audit),
        lambda: Section("recipe", "Recipe", tables=[recipe_table(runs), ensemble_table(runs)]),
        lambda: Section("environment", "Environment", tables=[environment_table(runs)]),
    )
    return [step() for step in tqdm(steps, desc="Drawing", unit="part", delay=1)]


_RANKING = (
    "Over all thresholds: how many fakes are found at the price of how many real photographs called fake. The axes of "
    "DET curves are spread so that small rates can be told apart; lower left is better."
)
_SCORES = "Where the scores of real photographs and of fakes lie. What overlaps cannot be told apart at any threshold."
_CALIBRATION = (
    "Of images with a stated probability of 0.8, eight in ten should be fake. On the dotted line that is so; below it "
    "the probability is too high. The strip below shows how many images stand behind each point."
)
_UNCERTAIN = (
    "If only the surest verdicts are given and the others are left to a person: the share of errors among those given."
)
_ROBUSTNESS = (
    "The same images, changed as they are on their way to a viewer. Severity 1 is mild, 5 is hard to overlook. The "
    "charts share one scale, shaded are 95 % intervals."
)
_ERRORS = (
    "Wrong verdicts, farthest from the threshold first. A green frame: the photograph is real and was called fake; a red "
    "frame: the image is fake and was called real."
)
_EXPLANATIONS = (
    "Heatmaps of single images, with what was measured of them: a map that a random one equals says nothing about the "
    "verdict, however convincing it looks."
)
_SOURCES = "Where a source has images of one class, ROC AUC is measured together with all images of the other class."
_LEFT_OUT = (
    "Calibration and threshold were fitted on the other sources and measured on the one left out: what a verdict is worth "
    "on a source that they have not seen. The model itself was not trained again."
)


def _measured(runs: list[Run], pairs: dict[str, list[dict[str, Any]]]) -> Section:
    """The figures, warnings about them first."""
    return Section(
        "models",
        "Models and benchmarks",
        warnings=_warnings(runs),
        tables=[tables.models_table(runs), *tables.voting_tables(runs)],
        points=words.comparisons(pairs),
    )


def _warnings(runs: list[Run]) -> list[str]:
    warnings = []
    for benchmark in tables.benchmarks(runs):
        measured = [run for run in runs if benchmark in run.metrics]
        images = {frozenset(run.predictions[benchmark]["image"]) for run in measured if benchmark in run.predictions}
        sizes = {run.metrics[benchmark].get("images") for run in measured}
        if len(images) > 1 or len(sizes) > 1:
            warnings.append(f"Not the same images: what is called {benchmark} differs between the models.")
        missing = [run.name for run in measured if benchmark not in run.predictions]
        if missing:
            warnings.append(f"No predictions on {benchmark} of {', '.join(missing)}: their curves are left out.")
    return warnings


def _audited(audit: dict[str, Any] | None) -> Section:
    if audit is None:
        return Section("data", "Data")
    name = printable(Path(str(audit.get("data", "?"))).name)
    found = f"{name}, {audit.get('images', '?')} images: {audit['verdict']}."
    return Section("data", "Data", [found], tables=[audit_table(audit)])


def read_audit(folder: Path) -> dict[str, Any]:
    """Read the audit.json of a folder.

    Raises:
        InputError: If there is none, or it is damaged.
    """
    path = folder / "audit.json"
    try:
        audit: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        complete = all({"name", "verdict", "found"} <= check.keys() for check in audit["checks"])
        complete = complete and isinstance(audit["verdict"], str)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
    if not complete:
        raise InputError(f"{path}: is damaged: a check says no name, verdict or finding; run hf-deepfake audit again.")
    return audit


def _save_files(folder: Path, verdict: list[str], sections: list[Section]) -> None:
    folder.mkdir()
    used: set[str] = set()
    for chart in (chart for section in sections for chart in section.charts if chart):
        name = _file_name(chart.name, used)
        (folder / f"{name}.png").write_bytes(chart.content)
        _save_json(folder / f"{name}.json", chart.numbers)
    errors = [
        {
            "title": gallery.title,
            "errors": [{key: part for key, part in error.items() if key != "address"} for error in gallery.errors],
        }
        for section in sections
        for gallery in section.galleries
    ]
    printed = [_table(table) for section in sections for table in section.tables if table]
    _save_json(folder / "report.json", {"schema": 1, "verdict": verdict, "tables": printed, "errors": errors})


def _file_name(name: str, used: set[str]) -> str:
    plain = free = re.sub(r"[^\w.-]+", "_", name)[:100]
    number = 1
    while free.lower() in used:
        number += 1
        free = f"{plain}_{number}"
    used.add(free.lower())
    return free


def _table(table: Table) -> dict[str, Any]:
    return {
        "title": table.title,
        "columns": table.columns,
        "rows": [[_plain(cell) for cell in row] for row in table.rows],
    }


def _plain(cell: Any) -> Any:
    if isinstance(cell, dict):
        return {name: _plain(part) for name, part in cell.items()}
    if isinstance(cell, Value):
        return {key: part for key, part in dataclasses.asdict(cell).items() if key != "share" and part is not None}
    return str(cell) if isinstance(cell, Mark) else cell


def _save_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake report`: one page about runs, ensembles and evaluations."""
    parser = argparse.ArgumentParser(
        prog="hf-deepfake report", description="Print runs, ensembles and evaluations as one page."
    )
    parser.add_argument("run", nargs="+", type=Path, metavar="RUN", help="folder with a results.json, or with several")
    parser.add_argument("--output", type=Path, default=Path("report.html"), metavar="PAGE.html")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="[NAME=]DATA",
        help="images to show mistakes of; NAME is a benchmark. Default: what the runs' recipes name",
    )
    parser.add_argument("--image_root", help="folder that a table's image names start from")
    parser.add_argument("--fake_label", help="label or folder name that means fake, where the names do not tell")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
    parser.add_argument("--audit", type=Path, metavar="DIR", help="folder of hf-deepfake audit")
    parser.add_argument("--explanations", type=Path, metavar="DIR", help="folder of hf-deepfake explain")
    arguments = parser.parse_args(argv)
    runs, pairs = read_runs(arguments.run)
    audit = read_audit(arguments.audit) if arguments.audit else None
    options = {name: getattr(arguments, name) for name in ("image_root", "fake_label", "follow_links")}
    pictures = given_pictures(arguments.data, tables.benchmarks(runs), **options) or recipe_pictures(runs)
    explanations = explanation_charts(arguments.explanations) if arguments.explanations else None
    save_report(runs, pairs, arguments.output, pictures, audit, explanations)
    written = f"wrote {arguments.output} and {arguments.output.stem}_files (charts and tables as PNG and JSON)"
    Console().print(written, markup=False, highlight=False, soft_wrap=True)
    return 0
