"""Score images, folders and tables from the command line."""

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import expit
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from hf_deepfake.data.inputs import named_images
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import (
    CascadeOutput,
    member_probabilities,
    verdict,
    vote_shares,
)
from hf_deepfake.ensemble.hub.running_deepfake_ensemble import has_instructions_for, speed_up
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.predictions import score_images
from hf_deepfake.memory import keep_freed_memory
from hf_deepfake.models.detector import load_detector
from hf_deepfake.models.exported import refuse_exported
from hf_deepfake.models.heads import single_detector
from hf_deepfake.printing import printable
from hf_deepfake.serving.monitored import EmbeddingRecorder, image_statistics
from hf_deepfake.serving.submission import blank_submission
from hf_deepfake.writing import require_table_suffix, save_table, whole

DTYPES = ("float32", "bfloat16", "float16", "auto")


def predict(
    name_or_path: str,
    inputs: Sequence[str | os.PathLike[str]],
    image_root: str | None = None,
    follow_links: bool = False,
    threshold: float | None = None,
    fake_label: str | None = None,
    batch_size: int | str = 16,
    num_workers: int = 0,
    every_face: bool = False,
    image_column: str | None = None,
    monitoring: bool = False,
    tta: int = 1,
    dtype: str = "float32",
    compile: bool = False,
    cascade: bool = False,
    cascade_tolerance: float = 0.0,
    members: bool = False,
) -> pd.DataFrame:
    """Score images with a detector or an ensemble.

    Args:
        name_or_path: Checkpoint folder or Hub id.
        inputs: Images, folders of images, tables that name images, or addresses.
        image_root: Folder that a table's image names start from; the table's own by default.
        follow_links: Follow links that lead out of a folder.
        threshold: Probability from which the verdict is fake; by default the checkpoint's own with its band of
            uncertain verdicts, 0.5 where it has none.
        fake_label: The checkpoint's label that means fake, where its names do not tell.
        batch_size: Images a forward pass; `auto` for 16, on a GPU 128. What does not fit into memory is halved.
        num_workers: Processes that decode.
        every_face: For a detector that reads faces: an image is as fake as the most suspicious of its faces, not as its
            largest.
        image_column: A table's column of images; by default it is found by its name.
        monitoring: Add the columns that `hf-deepfake monitor` compares: those of `image_statistics`, and `embedding`,
            64 numbers of what the detector makes of the image.
        tta: Views of an image to average its probability over (test-time augmentation); 1 for the image alone.
        dtype: Precision of the networks: `float32`, `bfloat16` or `float16`, where the device has instructions for it, or
            `auto`, which is `bfloat16` there. The vote is in `float32` always.
        compile: Compile the networks first, which takes a minute or more.
        cascade: Ask an ensemble's members one after the other, and no more of them once an image's verdict is certain. It
            adds `members_run`, and `prob_fake_low` and `prob_fake_high`, between which the whole vote's probability
            lies; `prob_fake` is the vote of the members that were asked.
        cascade_tolerance: Stop as well where these two are no further apart; the verdict can then be another one.
        members: Add `prob_fake_NAME`, the calibrated probability of each member of an ensemble.

    Returns:
        One row an image, in the order given: `image`, `prob_fake`, `label` (`real`, `fake` or `uncertain`) and `error`,
        which is empty unless the image could not be read.

    Raises:
        InputError: If the model cannot be loaded, does not read faces or gives no number, an input does not exist, the
            threshold is no probability, or two settings exclude each other.
    """
    _require_settings(threshold, batch_size, dtype, tta, every_face, monitoring, cascade, cascade_tolerance, members)
    named = named_images(inputs, image_root, follow_links, image_column)
    images = [image for _, image in named]
    model, processor, fake_column = load_detector(name_or_path, fake_label=fake_label)
    asked = {
        "cascade": cascade,
        "compile": compile,
        "dtype": dtype != "float32",
        "every_face": every_face,
        "monitoring": monitoring,
    }
    for name in (name for name, given in asked.items() if given):
        refuse_exported(model, f"--{name}")
    if every_face:
        model, processor = _reading_faces(model, processor, name_or_path)
    _prepare(model, dtype, compile)
    recorder: EmbeddingRecorder | _Cascade | _Votes | None = EmbeddingRecorder(model) if monitoring else None
    if cascade or members:
        if not hasattr(model.config, "member_names"):
            raise InputError(f"--{'cascade' if cascade else 'members'}: {name_or_path} is no ensemble.")
        recorder = _Cascade(model, threshold, cascade_tolerance) if cascade else _Votes(model)
    if batch_size == "auto":
        batch_size = 128 if model.device.type == "cuda" else 16
    run = recorder if isinstance(recorder, _Cascade) else None
    settings = (fake_column, int(batch_size), num_workers, every_face, tta, run)
    scores = score_images(model, processor, images, *settings)
    prob_fake, reasons, recorded = _collected(scores, len(images), recorder, name_or_path)
    band = getattr(model.config, "uncertain_band", None) if threshold is None else None
    threshold = threshold if threshold is not None else float(getattr(model.config, "threshold", 0.5))
    verdicts = [None if np.isnan(prob) else verdict(prob, threshold, band) for prob in prob_fake]
    columns = {"image": [name for name, _ in named], "prob_fake": prob_fake, "label": verdicts, "error": reasons}
    table = pd.DataFrame(columns).astype({"label": object, "error": object})  # None, not NaN, where there is none
    if isinstance(recorder, EmbeddingRecorder):
        return table.join(image_statistics(images)).assign(embedding=pd.Series(recorded, dtype=object))
    return table if recorder is None else recorder.added_to(table, recorded)


def _require_settings(
    threshold: float | None,
    batch_size: int | str,
    dtype: str,
    tta: int,
    every_face: bool,
    monitoring: bool,
    cascade: bool,
    cascade_tolerance: float,
    members: bool,
) -> None:
    """Refuse settings of `predict` that are out of range or exclude each other, before anything is loaded."""
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold}: must be between 0 and 1.")
    if monitoring and every_face:
        raise InputError("--monitoring: an image has one embedding, not one for each face; leave --every_face out.")
    if tta < 1 or (tta > 1 and every_face):
        raise InputError(f"--tta {tta}: must be 1 (the image alone) or more, and not together with --every_face.")
    if batch_size != "auto" and (isinstance(batch_size, str) or batch_size < 1):
        raise InputError(f"--batch_size {batch_size}: must be 1 or more, or auto.")
    if dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: must be one of {', '.join(DTYPES)}.")
    if not 0 <= cascade_tolerance <= 1 or (cascade_tolerance and not cascade):
        raise InputError(f"--cascade_tolerance {cascade_tolerance}: must be between 0 and 1, with --cascade.")
    if members and (monitoring or cascade):
        raise InputError("--members: goes neither with --cascade, which does not ask them all, nor with --monitoring.")
    if cascade and (monitoring or every_face or tta > 1):
        raise InputError(
            "--cascade: asks each member about one view or not at all; leave --monitoring, --every_face and --tta out."
        )


def _reading_faces(model: Any, processor: Any, name_or_path: str) -> tuple[Any, Any]:
    """The detector and its processor, also where an MLP head made an ensemble of one of it.

    Raises:
        InputError: If it does not read faces, or is an ensemble of several.
    """
    single = single_detector(model)
    if single.config.model_type == "deepfake-ensemble":
        raise InputError(
            f"--every_face: {name_or_path} is an ensemble, whose members read an image each in its own way; name one of "
            "their runs."
        )
    if "face_crop" not in getattr(single.config, "reading", {}):
        raise InputError(f"--every_face: {name_or_path} does not read faces; it was trained without --face_crop.")
    return single, processor if single is model else processor.processors[0]


def _prepare(model: Any, dtype: str, compile: bool) -> None:
    """Bring a model to the device and the form in which it scores fastest."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    speed_up(model, _precision(dtype, model.device))
    for member in getattr(model, "members", [model]) if compile else []:
        member.compile()


def _collected(
    scores: Iterator[tuple[list[int], NDArray[np.float64], dict[int, str]]],
    count: int,
    recorder: "EmbeddingRecorder | _Cascade | _Votes | None",
    name_or_path: str,
) -> tuple[NDArray[np.float64], list[str | None], list[Any]]:
    """Of each image its probability of fake, why there is none, and what was recorded meanwhile."""
    prob_fake = np.full(count, np.nan)
    reasons: list[str | None] = [None] * count
    recorded: list[Any] = [None] * count
    with tqdm(total=count, desc="Scoring", unit="image", delay=1) as progress:
        for indices, logits, errors in scores:
            prob_fake[indices] = expit(logits[:, 1] - logits[:, 0])
            if np.isnan(prob_fake[indices]).any():
                raise InputError(f"{name_or_path}: gives no number for an image; it diverged in training.")
            for index, reason in errors.items():
                reasons[index] = reason
            if recorder is not None and indices:
                for index, row in zip(indices, recorder.take(len(indices)), strict=True):
                    recorded[index] = row
            progress.update(len(indices) + len(errors))
    return prob_fake, reasons, recorded


class _Cascade:
    """Runs batches as a cascade and keeps what it did for each image."""

    def __init__(self, model: Any, threshold: float | None, tolerance: float) -> None:
        self._members = len(model.members)
        self._run: Any = partial(model.cascade, threshold=threshold, tolerance=tolerance)
        self._kept: list[torch.Tensor] = []

    def __call__(self, **views: torch.Tensor) -> CascadeOutput:
        output: CascadeOutput = self._run(**views)
        self._kept.append(torch.column_stack([output.members_run, output.bounds]))  # type: ignore[list-item]
        return output

    def take(self, images: int) -> NDArray[np.float64]:
        """Members that were asked and both bounds, of that many images, all since the last call."""
        rows: NDArray[np.float64] = torch.cat(self._kept).double().cpu().numpy()
        self._kept.clear()
        return rows

    def added_to(self, table: pd.DataFrame, recorded: Sequence[Any]) -> pd.DataFrame:
        """The table with a column for each of these, empty for images that were not read."""
        columns = ["members_run", "prob_fake_low", "prob_fake_high"]
        table = table.join(_rows(recorded, columns)).astype({"members_run": "Int64"})
        table.attrs["members"] = self._members
        return table


class _Votes:
    """Keeps what each member of an ensemble says while it scores."""

    def __init__(self, model: PreTrainedModel) -> None:
        config: Any = model.config
        self._shares = dict(zip(config.member_names, vote_shares(config.weights, config.voting), strict=True))
        self._calibration = {name: getattr(config, name) for name in ("temperatures", "biases", "isotonic")}
        self._kept: list[torch.Tensor] = []
        model.register_forward_hook(lambda _, __, output: self._kept.append(output.member_logits))

    def take(self, images: int) -> NDArray[np.float64]:
        """Calibrated probabilities by member of that many images, all since the last call; the mean over an image's views."""
        probs = member_probabilities(torch.cat(self._kept), **self._calibration)
        self._kept.clear()
        rows: NDArray[np.float64] = probs.unflatten(0, (images, -1)).mean(dim=1).double().cpu().numpy()
        return rows

    def added_to(self, table: pd.DataFrame, recorded: Sequence[Any]) -> pd.DataFrame:
        """The table with a column for each member, empty for images that were not read."""
        table = table.join(_rows(recorded, [f"prob_fake_{name}" for name in self._shares]))
        table.attrs["shares"] = self._shares
        return table


def _rows(recorded: Sequence[Any], columns: Sequence[str]) -> pd.DataFrame:
    nothing = np.full(len(columns), np.nan)
    rows = [nothing if row is None else row for row in recorded]
    return pd.DataFrame(np.reshape(rows, (-1, len(columns))), columns=list(columns))


def _precision(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if has_instructions_for(torch.bfloat16, device) else torch.float32
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake predict`: images in, a table out; 1 when any image could not be read."""
    arguments = vars(_parser().parse_args(argv))
    keep_freed_memory()
    output: Path | None = arguments.pop("output")
    submission: Path | None = arguments.pop("submission")
    if output is not None:
        require_table_suffix(output)
    if arguments["monitoring"] and (output is None or output.suffix.lower() == ".csv"):
        raise InputError("--monitoring: embeddings do not fit a CSV; give an --output ending in .parquet or .jsonl.")
    if submission is not None and output is not None and submission.resolve() == output.resolve():
        raise InputError(f"--submission and --output are both {output}; give them two names.")
    if submission is not None:
        handed_in, score = blank_submission(arguments["inputs"], submission, arguments["image_column"])
    table = predict(arguments.pop("model"), arguments.pop("inputs"), **arguments)
    failed = table[table["error"].notna()]
    if submission is not None:
        with whole(submission) as partial:
            handed_in.assign(**{score: table["prob_fake"].fillna(0.5)}).to_csv(partial, index=False)
        _say(f"wrote {submission} ({len(table)} images, {len(failed)} unreadable with 0.5)", Console())
    if output is not None:
        save_table(table, output)
        _say(f"wrote {output} ({len(table)} images, {len(failed)} unreadable)", Console())
    if "members_run" in table:
        _say(_saving(table), Console())
    if output is None and submission is None:
        _print(table)
    for reason in failed["error"][:10]:
        _say(f"unreadable: {reason}", Console(stderr=True))
    return 1 if len(failed) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-deepfake predict", description="Score images, folders or lists.")
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image, folder, table or http(s) address")
    parser.add_argument("--model", required=True, metavar="DIR", help="detector or ensemble: folder or Hub id")
    parser.add_argument("--output", type=Path, metavar="TABLE", help="write a .csv, .jsonl or .parquet table")
    parser.add_argument("--image_root", help="folder that a table's image names start from")
    parser.add_argument("--image_column", help="a table's column of images; default: found by its name")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
    parser.add_argument("--threshold", type=float, help="verdict fake from here; default: the checkpoint's own")
    parser.add_argument("--fake_label", help="the checkpoint's label that means fake, where its names do not tell")
    parser.add_argument("--every_face", action="store_true", help="judge an image by its most suspicious face")
    parser.add_argument("--tta", type=int, default=1, metavar="N", help="average over N views of each image")
    parser.add_argument("--batch_size", type=_number_or_auto, default=16, help="or auto")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="auto: bfloat16 where that is faster")
    parser.add_argument("--compile", action="store_true", help="compile the networks first; pays for many images")
    parser.add_argument("--members", action="store_true", help="add what each member of an ensemble says")
    parser.add_argument("--cascade", action="store_true", help="ask no more members once a verdict is certain")
    parser.add_argument("--cascade_tolerance", type=float, default=0.0, help="stop where scores can differ no more")
    parser.add_argument(
        "--submission", type=Path, metavar="CSV", help="write the INPUT table's names with their scores"
    )
    parser.add_argument("--monitoring", action="store_true", help="add to --output what hf-deepfake monitor compares")
    return parser


def _number_or_auto(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: must be 1 or more, or auto") from error


def _saving(table: pd.DataFrame) -> str:
    """What a cascade spared, over the images that could be read."""
    run, members = table["members_run"].dropna(), table.attrs["members"]
    if not len(run):
        return "cascade: no image to decide"
    spared, early = 1 - run.mean() / members, (run < members).mean()
    return f"cascade: spared {spared:.0%} of the members' passes; {early:.0%} of the images were decided early"


def _print(table: pd.DataFrame) -> None:
    console = Console()
    for row in table.to_dict("records"):
        answer = f"{row['prob_fake']:.3f}  {row['label']}" if row["label"] else "unreadable"
        _say(f"{answer}  {row['image']}", console)
        for name, share in table.attrs.get("shares", {}).items() if row["label"] else ():
            _say(f"  {row[f'prob_fake_{name}']:.3f}  {name} ({share:.0%} of the vote)", console)


def _say(line: str, console: Console) -> None:
    console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
