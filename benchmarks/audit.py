"""What `hf-deepfake audit` finds of planted copies and shortcuts, what it reports by mistake, and how long it takes.

python benchmarks/audit.py --data DIR

DIR is an image folder of JPEGs with `real` and `fake`. Copies are planted of 400 of its images for each kind of change; all
is made in a temporary folder.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from readme_table import machine, save_figures

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.audit import audit_dataset
from hf_deepfake.data.duplicates import connected, exact_duplicates, near_duplicates
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.measuring import measure_images
from hf_deepfake.data.shortcuts import metadata_shortcut
from hf_deepfake.data.splitting import everything

PLANTED, TIMED = 400, 10_000

CHANGES: dict[str, Callable[[Image.Image, Path], None]] = {
    "JPEG quality 50": lambda image, path: image.save(path, quality=50),
    "half the size": lambda image, path: image.resize((image.width // 2, image.height // 2)).save(path),
    "shifted by 2 %, rim reflected": lambda image, path: _shifted(image, "reflect").save(path),
    "shifted by 2 %, rim black": lambda image, path: _shifted(image, "constant").save(path),
}


def _shifted(image: Image.Image, rim: str) -> Image.Image:
    pixels, shift = np.asarray(image), round(0.02 * image.width)
    return Image.fromarray(np.pad(pixels, ((0, 0), (shift, 0), (0, 0)), rim)[:, : image.width])


def main() -> None:
    """Measure everything once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    data: Path = parser.parse_args().data
    rows = everything(load_data(DataArguments(str(data))))
    files, labels = [data / file for file in rows["file"]], np.array(rows["label"][:])
    with tempfile.TemporaryDirectory() as folder:
        figures = [_timed(files, labels, Path(folder))]
        figures += _planted(files, Path(folder))
        measured = measure_images(rows)
        alarms = len(near_duplicates(measured))
        figures.append(("images reported though nothing is planted", f"{alarms} pairs among {len(files)} images"))
        figures.append(("metadata AUC of the data as they are", _auc(measured, labels)))
        figures.append(
            ("metadata AUC with the fakes saved as PNG", _auc(_with_png_fakes(files, labels, folder), labels))
        )
    save_figures(
        "audit",
        title=f"Audit of {len(files)} images of faces, 256-pixel JPEG",
        command="python benchmarks/audit.py --data DIR",
        machine=machine(),
        rows=[{"figure": name, "measured": value} for name, value in figures],
    )


def _timed(files: list[Path], labels: np.ndarray, folder: Path) -> tuple[str, str]:
    rows = [(files[index % len(files)], ("real", "fake")[labels[index % len(files)]]) for index in range(TIMED)]
    pd.DataFrame(rows, columns=["image", "label"]).to_csv(folder / "timed.csv", index=False)
    started = time.monotonic()
    audit_dataset(DataArguments(str(folder / "timed.csv")), folder / "audit")
    return f"whole audit of {TIMED:,} images, after imports", f"{time.monotonic() - started:.0f} s"


def _planted(files: list[Path], folder: Path) -> list[tuple[str, str]]:
    originals = np.random.default_rng(0).permutation(len(files))[:PLANTED]
    table = [(file, "original", index) for index, file in enumerate(files)]
    table += [(_copy(files[index], folder / "copies"), "exact copy", index) for index in originals]
    for kind, change in CHANGES.items():
        for index in originals:
            path = folder / kind.replace(" ", "_") / f"{index}.jpg"
            path.parent.mkdir(exist_ok=True)
            change(Image.open(files[index]).convert("RGB"), path)
            table.append((path, kind, index))
    frame = pd.DataFrame(table, columns=["image", "kind", "original"])
    frame.assign(label=0)[["image", "label"]].to_csv(folder / "planted.csv", index=False)
    rows = everything(load_data(DataArguments(str(folder / "planted.csv")), both_classes=False))
    measured = measure_images(rows)
    copies = [(group[0], row) for group in exact_duplicates(measured["sha256"]) for row in group[1:]]
    together = np.arange(len(frame))
    for number, group in enumerate(connected([*near_duplicates(measured), *copies], len(frame)), start=len(frame)):
        together[group] = number
    found = together == together[frame["original"]]
    kinds = ["exact copy", *CHANGES]
    return [(f"found of {PLANTED} planted: {kind}", f"{found[frame['kind'] == kind].mean():.1%}") for kind in kinds]


def _copy(file: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{file.parent.name}-{file.name}"
    path.write_bytes(file.read_bytes())
    return path


def _with_png_fakes(files: list[Path], labels: np.ndarray, folder: str) -> pd.DataFrame:
    paths = [_as_png(file, Path(folder) / "png") if label else file for file, label in zip(files, labels, strict=True)]
    pd.DataFrame({"image": paths, "label": labels}).to_csv(Path(folder) / "png.csv", index=False)
    return measure_images(everything(load_data(DataArguments(str(Path(folder) / "png.csv")))))


def _as_png(file: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{file.stem}.png"
    Image.open(file).save(path)
    return path


def _auc(measured: pd.DataFrame, labels: np.ndarray) -> str:
    shortcut = metadata_shortcut(measured, labels)
    interval = f"[{shortcut.roc_auc_low:.3f}, {shortcut.roc_auc_high:.3f}]"
    return f"{shortcut.roc_auc:.3f} {interval}, strongest: {shortcut.strongest}"


if __name__ == "__main__":
    main()
