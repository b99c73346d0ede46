"""`hf-deepfake synthesize`: real photographs in, a data set of them and their self-blended fakes out."""

import argparse
import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from datasets import Dataset, concatenate_datasets
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_deepfake import labels
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.blending import self_blend
from hf_deepfake.data.checking import Skipped, report_skipped
from hf_deepfake.data.faces import find_cropper
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.tables import TABLE_SUFFIXES
from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.writing import whole

FORMATS = ("jpg", "png")
SMALLEST_SIDE = 16
"""Pixels of a side below which there is no room for a blend to be seen."""

logger = logging.getLogger(__name__)


def synthesize(
    real: str | os.PathLike[str],
    output_dir: Path,
    count_per_image: int = 1,
    faces: str = "auto",
    format: str = "jpg",
    quality: int = 95,
    seed: int = 0,
    num_workers: int = 0,
) -> tuple[pd.DataFrame, Skipped]:
    """Self-blend real photographs and write both, encoded alike, so that no file property tells them apart.

    `output_dir` gets `real/`, `fake/`, `masks/` (0 where a fake shows its photograph alone, 255 where it shows the
    moved copy alone) and, once these are whole, `labels.csv`, which `load_data` reads. A fake depends on the seed and
    its photograph's file name alone. An interrupted run goes on where it stopped.

    Args:
        real: Folder, table, `save_to_disk` folder or Hub id. Where it tells labels, its real images are taken, and all
            where it tells none. Its splits and its column `group` are kept.
        output_dir: A folder that does not exist yet, is empty or was begun with the same choices.
        count_per_image: Fakes a photograph.
        faces: Finds the faces to blend: a detector of `FaceCropper`, of which `auto` is used if it is installed, or
            `none`. Without a face the middle of the image is blended.
        format: `jpg` or `png`.
        quality: Of JPEG, 1 to 100.
        seed: Of the blends.
        num_workers: Processes beside this one; they change nothing but the time.

    Returns:
        The table of labels.csv, with `image, label, mask, source, group` and where known `split`, and what was left
        out: images that cannot be read or are smaller than `SMALLEST_SIDE`.

    Raises:
        InputError: If there is nothing to read, a choice is impossible or `output_dir` holds something else.
    """
    choices = {"count_per_image": count_per_image, "format": format, "quality": quality, "seed": seed}
    _check(choices)
    rows, splits = _real_rows(str(real))
    cropper = find_cropper(faces, "--faces")
    choices["faces"] = cropper.detector if cropper else "none"
    choices["real"] = os.path.realpath(real) if os.path.exists(real) else str(real)
    _begin(output_dir, choices)
    files = rows["file"][:]
    blends = _Blends(rows, _names(files), cropper, choices, output_dir)
    loader = DataLoader(blends, batch_size=None, num_workers=num_workers)
    reasons = list(tqdm(loader, desc="Blending", unit="image", total=len(files), delay=1))
    skipped = [(file, reason) for file, reason in zip(files, reasons, strict=True) if reason]
    if len(skipped) == len(files):
        raise InputError(f"{real}: none of the {len(files)} images can be blended: {skipped[0][1]}.")
    groups = rows["group"][:] if "group" in rows.column_names else files
    table = pd.DataFrame(
        row | {"group": groups[index]} | ({"split": splits[index]} if splits else {})
        for index, reason in enumerate(reasons)
        if not reason
        for row in blends.written(index)
    )
    with whole(output_dir / "labels.csv") as partial:
        table.to_csv(partial, index=False)
    return table, skipped


def _check(choices: dict[str, Any]) -> None:
    if choices["count_per_image"] < 1:
        raise InputError(f"--count_per_image {choices['count_per_image']}: one fake a photograph is the least.")
    if choices["format"] not in FORMATS:
        raise InputError(f"--format {choices['format']}: writes {' or '.join(FORMATS)}.")
    if not 1 <= choices["quality"] <= 100:
        raise InputError(f"--quality {choices['quality']}: is between 1 and 100.")
    if choices["seed"] < 0:
        raise InputError(f"--seed {choices['seed']}: cannot be negative.")


def _real_rows(real: str) -> tuple[Dataset, list[str] | None]:
    """The real photographs and, where the data have splits, the split of each."""
    data = DataArguments(dataset_name=real)
    try:
        parts = load_data(data, both_classes=False)
    except InputError as error:
        if "no label column found" in str(error):
            return load_data(data, labelled=False)["all"], None
        return _unlabelled_folder(data, error)
    real_parts = [part.select(np.flatnonzero(np.array(part["label"][:]) == labels.REAL)) for part in parts.values()]
    rows = concatenate_datasets(real_parts)
    if len(rows) == 0:
        raise InputError(f"{real}: none of its images is labelled real.")
    splits = [name for name, part in zip(parts, real_parts, strict=True) for _ in range(len(part))]
    return rows, None if "all" in parts else splits


def _unlabelled_folder(data: DataArguments, error: InputError) -> tuple[Dataset, list[str] | None]:
    """All images of a folder where neither a table nor any folder's name tells a label; else the loader's error."""
    root = Path(data.dataset_name)
    if not root.is_dir() or any(path.suffix.lower() in TABLE_SUFFIXES for path in root.iterdir()):
        raise error
    rows = load_data(data, labelled=False)["all"]
    folders = [file.split("/")[:-1] for file in rows["file"]]
    if any(labels.read_label(name) is not None for names in folders for name in names):
        raise error
    splits = [
        split for names in folders for split in [next(filter(None, map(labels.read_split, names)), None)] if split
    ]
    return rows, splits if len(splits) == len(rows) else None


def _begin(output_dir: Path, choices: dict[str, Any]) -> None:
    begun = output_dir / "synthesis.yaml"
    if begun.is_file():
        before = yaml.safe_load(begun.read_text(encoding="utf-8"))
        changed = {name: before.get(name) for name, value in choices.items() if before.get(name) != value}
        if changed:
            raise InputError(f"{output_dir}: was begun with {changed}; repeat that or choose another --output_dir.")
    elif output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise InputError(f"{output_dir}: stands there already and is no empty folder; choose another --output_dir.")
    else:
        with whole(begun) as partial:
            partial.write_text(yaml.safe_dump(choices, allow_unicode=True), encoding="utf-8")


def _names(files: Sequence[str]) -> list[str]:
    """One name a file, which any file system takes: its path without suffix; a digest tells equal ones apart."""
    names = []
    for file in files:
        *folders, stem = os.path.splitext(file)[0].split("/")
        telling = [name for name in folders if labels.read_label(name) is None and labels.read_split(name) is None]
        plain = re.sub(r'[\\:*?"<>|\s\x00-\x1f]+', "_", "_".join([*telling, stem]))
        names.append(plain.encode()[-150:].decode(errors="ignore"))
    times = Counter(name.casefold() for name in names)
    return [
        name if times[name.casefold()] == 1 else f"{name}-{hashlib.sha256(file.encode()).hexdigest()[:8]}"
        for name, file in zip(names, files, strict=True)
    ]


class _Blends(torch.utils.data.Dataset[str]):
    """Writes a photograph and its fakes when it is asked for that item, and says why not where it cannot."""

    def __init__(
        self, rows: Dataset, names: list[str], cropper: FaceCropper | None, choices: dict[str, Any], root: Path
    ) -> None:
        self.rows, self.names, self.cropper, self.choices, self.root = rows, names, cropper, choices, root

    def __len__(self) -> int:
        return len(self.names)

    def written(self, index: int) -> list[dict[str, str]]:
        """Rows of labels.csv: the photograph's and its fakes'."""
        name, suffix, count = self.names[index], self.choices["format"], self.choices["count_per_image"]
        fakes = [name] if count == 1 else [f"{name}-{number}" for number in range(count)]
        return [
            {"image": f"real/{name}.{suffix}", "label": "real", "mask": "", "source": "real"},
            *(
                {
                    "image": f"fake/{fake}.{suffix}",
                    "label": "fake",
                    "mask": f"masks/{fake}.png",
                    "source": "self-blend",
                }
                for fake in fakes
            ),
        ]

    def __getitem__(self, index: int) -> str:
        photograph, *fakes = self.written(index)
        paths = [photograph["image"], *(fake[column] for fake in fakes for column in ("image", "mask"))]
        if all((self.root / path).is_file() for path in paths):
            return ""
        row = self.rows[index]
        try:
            opened = open_rgb(row["image"])
        except UnreadableImageError as error:
            return str(error)
        if min(opened.size) < SMALLEST_SIDE:
            return f"{row['file']}: {opened.width}x{opened.height} pixels are too few to blend"
        opened = Image.fromarray(np.array(opened))  # without a comment or profile, which only the real file would keep
        found = self.cropper.detect(opened) if self.cropper else []
        self._save(opened, photograph["image"])
        for number, fake in enumerate(fakes):
            generator = np.random.default_rng([self.choices["seed"], number, *row["file"].encode()])
            image, mask = self_blend(opened, generator, found[0].landmarks if found else None)
            self._save(mask, fake["mask"])
            self._save(image, fake["image"])
        return ""

    def _save(self, image: Image.Image, path: str) -> None:
        with whole(self.root / path) as partial:
            image.save(partial, quality=self.choices["quality"])


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake synthesize`: a data set from real photographs; 1 when an image was left out."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(
        prog="hf-deepfake synthesize", description="Make self-blended fakes of real photographs."
    )
    parser.add_argument(
        "--real", required=True, metavar="DATA", help="folder, table or Hub id; fakes in it are left out"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="gets real/, fake/, masks/ and labels.csv")
    parser.add_argument("--count_per_image", type=int, default=1, help="fakes a photograph")
    parser.add_argument(
        "--faces",
        default="auto",
        help="blend faces found by auto (centerface, where it is installed), centerface, yunet (from the Hub) or a "
        "YuNet .onnx file; none: the middle of the image",
    )
    parser.add_argument("--format", default="jpg", choices=FORMATS, help="of real and fake images alike")
    parser.add_argument("--quality", type=int, default=95, help="of JPEG")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode and blend")
    arguments = parser.parse_args(argv)
    table, skipped = synthesize(**vars(arguments))
    if skipped:
        Console(stderr=True).print(report_skipped(skipped), markup=False, highlight=False, soft_wrap=True)
    counts = table["label"].value_counts()
    Console().print(
        f"wrote {arguments.output_dir / 'labels.csv'} ({counts['real']} real and {counts['fake']} fake images)\n"
        f"next: hf-deepfake train --dataset_name {arguments.output_dir} …",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return 1 if skipped else 0
