"""`hf-deepfake explain`: images in; what the detector looked at, and how far that map can be trusted, out."""

import argparse
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from tqdm.auto import tqdm

from hf_deepfake.data.checking import Skipped, report_skipped
from hf_deepfake.data.inputs import named_images
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import verdict
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.scores import fingerprint
from hf_deepfake.explain.attributions import DEFAULT_METHOD, METHODS, Explanation, explain
from hf_deepfake.explain.faithfulness import Faithfulness, measure
from hf_deepfake.explain.figures import in_numbers, in_words, plot_bands, plot_curves, sheet, shown_names
from hf_deepfake.explain.frequency import frequency_bands
from hf_deepfake.explain.gallery_page import PAGE, save_page
from hf_deepfake.explain.scores import Score
from hf_deepfake.labels import NAMES
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.printing import printable
from hf_deepfake.writing import whole

RECORD = "explanations.json"


@dataclasses.dataclass(frozen=True)
class _Studio:
    """What every image is explained with."""

    model: str
    detector: LoadedDetector
    scores: dict[str | None, Score]  # of each map to make, by member; the vote's last
    choices: dict[str, Any]
    folder: Path
    batch_size: int

    def explain(self, source: Any) -> list[Explanation]:
        method, target, seed = (self.choices[name] for name in ("method", "target", "seed"))
        return [
            explain(self.detector, source, method, target, member, seed=seed, batch_size=self.batch_size)
            for member in self.scores
        ]

    def bands(self, source: Any) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Ends of the frequency bands, and what each does to each score."""
        found = [frequency_bands(score, source, batch_size=self.batch_size) for score in self.scores.values()]
        effects = [effect for _, effect in found]
        return found[0][0], dict(zip(shown_names(list(self.scores)), effects, strict=True))

    def measure(self, image: Image.Image, explanations: Sequence[Explanation]) -> list[Faithfulness] | None:
        """How faithful each map is, within the part of the image that is read at all."""
        if not self.choices["faithfulness"]:
            return None
        choices = {"seed": self.choices["seed"], "batch_size": self.batch_size}
        return [measure(self.scores[one.member], image, one, **choices) for one in explanations]

    def weights(self) -> dict[str, float]:
        """Shares of the members in a weighted vote."""
        config: Any = self.detector.model.config
        if getattr(config, "voting", None) != "weighted":
            return {}
        return {
            name: weight / sum(config.weights)
            for name, weight in zip(config.member_names, config.weights, strict=True)
        }

    def verdict(self, prob_fake: float) -> str:
        config = self.detector.model.config
        return verdict(prob_fake, getattr(config, "threshold", 0.5), getattr(config, "uncertain_band", None))

    def save(self, entries: Mapping[str, Any], skipped: Mapping[str, str]) -> None:
        """Write the record; in ASCII, since names of files may hold what is no text."""
        head = {"schema": 1, "model": self.model} | self.choices
        with whole(self.folder / RECORD) as partial_file:
            record = head | {"images": list(entries.values()), "skipped": skipped}
            partial_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def save_explanations(
    name_or_path: str,
    inputs: Sequence[str | os.PathLike[str]],
    output_dir: Path,
    method: str = DEFAULT_METHOD,
    target: str = "fake",
    members: bool = False,
    check: bool = True,
    image_root: str | None = None,
    follow_links: bool = False,
    image_column: str | None = None,
    fake_label: str | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], Skipped]:
    """Explain images, measure how far each map can be trusted, and write pictures and numbers of both.

    `output_dir` gets, for an image `NAME`, the sheet `NAME_METHOD.png`, the maps alone as 16-bit grey PNG in `maps/`, the
    curves of the check in `curves/`, and all numbers in `explanations.json`; for several images also `index.html`. An
    interrupted run goes on where it stopped, and one that names more images adds them.

    Args:
        name_or_path: Detector or ensemble: checkpoint folder or Hub id.
        inputs: Images, folders of images, tables that name images, or addresses.
        output_dir: A folder that does not exist yet, is empty, or holds explanations made with the same choices.
        method: One of `METHODS`.
        target: `fake` or `real`: what the maps are evidence for.
        members: Make a map of each member of an ensemble beside that of the vote.
        check: Measure the faithfulness of each map, which takes some 200 forward passes.
        image_root: Folder that a table's image names start from; the table's own by default.
        follow_links: Follow links that lead out of a folder.
        image_column: A table's column of images; by default it is found by its name.
        fake_label: The checkpoint's label that means fake, where its names do not tell.
        batch_size: Images a forward pass.
        seed: Of all that is random in methods and check.

    Returns:
        What explanations.json says of each image, in the order given, and which could not be explained and why.

    Raises:
        InputError: If the model, the method or an input is none, no image can be explained, or `output_dir` holds
            something else.
    """
    named = dict(named_images(inputs, image_root, follow_links, image_column))
    if seed < 0:
        raise InputError(f"--seed {seed}: cannot be negative.")
    detector = load_detector(name_or_path, fake_label=fake_label)
    detector.model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    choices = {"method": method, "target": target, "members": members, "faithfulness": check, "seed": seed}
    choices["model_sha256"] = fingerprint(detector)
    known = _begun(output_dir, choices, named)
    vote = Score(detector, target)
    if members and not vote.names:
        raise InputError(f"--members: {name_or_path} is one detector, which has none; leave it out.")
    scores: dict[str | None, Score] = {name: Score(detector, target, name) for name in (vote.names if members else [])}
    studio = _Studio(name_or_path, detector, scores | {None: vote}, choices, output_dir, batch_size)
    entries, skipped = _explain_all(studio, named, known)
    if len(named) > 1 and entries:
        save_page(name_or_path, choices, entries, named, output_dir)
    return entries, skipped


def _begun(output_dir: Path, choices: Mapping[str, Any], named: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What was explained there before with the same choices, by the image's name."""
    record = output_dir / RECORD
    if not record.is_file():
        if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
            raise InputError(
                f"{output_dir}: stands there already and is no empty folder; choose another --output_dir."
            )
        return {}
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
        known = {entry["image"]: entry for entry in before["images"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{record}: holds no explanations of ours; choose another --output_dir.") from error
    if not known:
        return {}
    changed = {name: before.get(name) for name, value in choices.items() if before.get(name) != value}
    if changed:
        raise InputError(f"{record}: was made with {changed}; repeat that or choose another --output_dir.")
    lost = [name for name in known if name not in named]
    if lost:
        raise InputError(
            f"{record}: holds explanations of {len(lost)} images that would be lost, the first of {lost[0]}. Name them "
            "too, which costs nothing, or choose another --output_dir."
        )
    return known


def _explain_all(
    studio: _Studio, named: Mapping[str, Any], known: Mapping[str, dict[str, Any]]
) -> tuple[list[dict[str, Any]], Skipped]:
    """Explain what is not known yet; the record is written after each image, so that nothing is done twice."""
    entries, skipped = dict(known), {}
    refusal: InputError | None = None
    for image, source in tqdm(named.items(), desc="Explaining", unit="image", delay=1):
        try:
            entries[image] = _explain_one(studio, image, source, entries)
        except (UnreadableImageError, InputError) as error:
            if studio.choices["method"] not in METHODS:
                raise  # with the nearest name, and not once for each image
            entries.pop(image, None)
            skipped[image] = str(error)
            refusal = refusal or (error if isinstance(error, InputError) else None)
        if entries:
            studio.save(entries, skipped)
    if refusal is not None and not entries:
        raise refusal  # it is the model or the method, not the image
    return [entries[image] for image in named if image in entries], list(skipped.items())


def _explain_one(studio: _Studio, image: str, source: Any, entries: Mapping[str, Any]) -> dict[str, Any]:
    """What the record says of an image, whose pictures are written before it."""
    opened = open_rgb(source)
    sha256 = hashlib.sha256(np.asarray(opened).tobytes()).hexdigest()
    old = entries.get(image)
    if old is not None and old["sha256"] == sha256 and all((studio.folder / file).is_file() for file in _files(old)):
        return dict(old)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        source = opened  # is fetched once
    explanations = studio.explain(source)
    measured = studio.measure(opened, explanations)
    if not entries:
        studio.save({}, {})  # an interrupted run knows its own folder again
    name = _file_name(image, studio.choices["method"], entries)
    maps = []
    for index, explanation in enumerate(explanations):
        member = explanation.member
        file = f"maps/{name}.png" if member is None else f"maps/{name}_{index}-{_safe(member)}.png"
        _save_map(explanation, studio.folder / file)
        row = {"member": member, "prob_fake": explanation.prob_fake, "map": file}
        numbers = {"convergence_delta": explanation.convergence_delta}
        maps.append(row | numbers | {"faithfulness": _numbers(measured[index]) if measured else None})
    sheet(opened, explanations, studio.folder / f"{name}.png", measured, studio.weights())
    if studio.choices["method"] == "frequency":
        plot_bands(*studio.bands(source), studio.choices["target"], studio.folder / "bands" / f"{name}.png")
    if measured:
        shown = dict(zip(shown_names(list(studio.scores)), measured, strict=True))
        plot_curves(shown, studio.folder / "curves" / f"{name}.png")
        with whole(studio.folder / "curves" / f"{name}.json") as partial_file:
            partial_file.write_text(json.dumps({key: dataclasses.asdict(one) for key, one in shown.items()}) + "\n")
    prob_fake = explanations[-1].prob_fake
    entry = {"image": image, "sha256": sha256, "prob_fake": prob_fake, "label": studio.verdict(prob_fake)}
    return entry | {"sheet": f"{name}.png", "maps": maps}


def _files(entry: Mapping[str, Any]) -> list[str]:
    return [entry["sheet"], *(row["map"] for row in entry["maps"])]


def _numbers(measured: Faithfulness) -> dict[str, float | bool]:
    """A measurement without its curves."""
    return {key: value for key, value in dataclasses.asdict(measured).items() if not isinstance(value, list)}


def _save_map(explanation: Explanation, path: Path) -> None:
    levels = (explanation.heatmap * 65535).round().astype(np.uint16)
    with whole(path) as partial_file:
        Image.fromarray(levels).save(partial_file)


def _file_name(image: str, method: str, entries: Mapping[str, Any]) -> str:
    """The stem of an image's name as any file system takes it, and the method; a digest tells equal stems apart."""
    stem = _safe(Path(image).stem)
    taken = {entry["sheet"].casefold() for other, entry in entries.items() if other != image}
    if f"{stem}_{method}.png".casefold() in taken:
        stem += f"-{hashlib.sha256(image.encode(errors='surrogateescape')).hexdigest()[:8]}"
    return f"{stem}_{method}"


def _safe(name: str) -> str:
    plain = re.sub(r"[^\w.-]+", "_", name).strip("._") or "image"
    return plain.encode()[:80].decode(errors="ignore")


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake explain`: heatmaps of images and what they are worth; 1 when an image could not be explained."""
    parser = argparse.ArgumentParser(
        prog="hf-deepfake explain", description="Save heatmaps of what a detector looked at, and check them."
    )
    parser.add_argument("inputs", nargs="+", metavar="IMAGE", help="image, folder, table or http(s) address")
    parser.add_argument("--model", required=True, metavar="DIR", help="detector or ensemble: folder or Hub id")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="gets pictures, maps, explanations.json, a page"
    )
    parser.add_argument("--method", default=DEFAULT_METHOD, help=", ".join(METHODS))
    parser.add_argument("--target", default="fake", choices=NAMES, help="what the map is evidence for")
    parser.add_argument("--members", action="store_true", help="a map of each member of an ensemble too")
    parser.add_argument("--no_faithfulness", action="store_true", help="do not check the maps; much faster")
    parser.add_argument("--image_root", help="folder that a table's image names start from")
    parser.add_argument("--image_column", help="a table's column of images; default: found by its name")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
    parser.add_argument("--fake_label", help="the checkpoint's label that means fake, where its names do not tell")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = vars(parser.parse_args(argv))
    output_dir: Path = arguments["output_dir"]
    check = not arguments.pop("no_faithfulness")
    entries, skipped = save_explanations(arguments.pop("model"), arguments.pop("inputs"), check=check, **arguments)
    console = Console()
    for entry in entries:
        for line in _lines(entry):
            _say(line, console)
    if skipped:
        Console(stderr=True).print(report_skipped(skipped), markup=False, highlight=False, soft_wrap=True)
    if entries:
        shown = output_dir / PAGE if len(entries) + len(skipped) > 1 else output_dir / entries[0]["sheet"]
        _say(f"wrote {shown} ({len(entries)} images, {len(skipped)} left out)", console)
    return 1 if skipped else 0


def _lines(entry: Mapping[str, Any]) -> list[str]:
    """What is said of an image: its score and what its map is worth, below it the numbers of each map."""
    whole_line = f"{entry['prob_fake']:.3f}  {entry['label']}  {entry['image']}"
    if entry["maps"][-1]["faithfulness"] is None:
        return [whole_line]
    lines = [f"{whole_line}  map {in_words(entry['maps'][-1]['faithfulness']['better_than_random'])}"]
    names = shown_names([row["member"] for row in entry["maps"]])
    for name, row in zip(names, entry["maps"], strict=True):
        measured = row["faithfulness"]
        whose = (
            f"{name} {row['prob_fake']:.3f}, {in_words(measured['better_than_random'])}: " if len(names) > 1 else ""
        )
        lines.append(f"       {whose}{'; '.join(in_numbers(measured))}")
    return lines


def _say(line: str, console: Console) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
