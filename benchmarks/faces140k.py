"""Train three members on photographs and StyleGAN faces, vote them, and store the figures that the README prints.

python benchmarks/faces140k.py --data DIR [--unseen NAME=DATA…] [--image_root DIR] --output_dir runs/faces140k

DIR is an image folder with `train` and `validation`, each with `real` and `fake`. The commands that it runs, one after
the other, are those of the README's section on training; what stands in the output directory already is not made again.
"""

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from readme_table import machine

from hf_deepfake.evaluation.benchmark import benchmark_metrics
from hf_deepfake.evaluation.predictions import load_predictions

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = ("efficientnet_lite0", "mobilenetv2", "mnasnet")


def main() -> None:
    """Run the documented commands and gather their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--unseen", nargs="+", metavar="NAME=DATA", help="images that the ensemble is measured on too")
    parser.add_argument("--image_root", help="folder that the image names of an unseen table start from")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/faces140k"))
    arguments = parser.parse_args()
    runs = [arguments.output_dir / member.replace("_", "-") for member in MEMBERS]
    for run, member in zip(runs, MEMBERS, strict=True):
        command = ["-m", "accelerate.commands.launch", "--config_file", ROOT / "recipes" / "accelerate" / "cpu.yaml"]
        command += [ROOT / "recipes" / "train.py", "--config", ROOT / "recipes" / "configs" / f"cpu_{member}.yaml"]
        _make(run, *command, "--dataset_name", arguments.data, "--output_dir", run)
    ensemble = arguments.output_dir / "ensemble"
    cli = ("-m", "hf_deepfake.cli")
    results = _make(ensemble, *cli, "ensemble", *runs, "--target_error", "0.05", "--output_dir", ensemble)
    corrupted = arguments.output_dir / "corrupted"
    command = ["evaluate", "--model", ensemble, "--data", f"validation={arguments.data}", "--split", "validation"]
    command += ["--corruptions", "jpeg", "resize", "blur", "noise", "--severities", "1,3,5", "--output_dir", corrupted]
    results["robustness"] = _make(corrupted, *cli, *command)["robustness"]
    if arguments.unseen:
        unseen = arguments.output_dir / "unseen"
        root = ["--image_root", arguments.image_root] if arguments.image_root else []
        command = ["evaluate", "--model", ensemble, "--data", *arguments.unseen, *root, "--output_dir", unseen]
        results["unseen"] = _make(unseen, *cli, *command)["metrics"]
        for point in results["operating_points"].values():
            for name in results["unseen"]:
                table = load_predictions(unseen / "predictions" / f"{name}.parquet")
                point[name] = benchmark_metrics(table, point["threshold"])
    members = {run.name: json.loads((run / "results.json").read_text(encoding="utf-8")) for run in runs}
    data = members[runs[0].name]["data"]
    counts = ", ".join(f"{split}: {count['real']} real and {count['fake']} fake" for split, count in data.items())
    published = {
        "title": "Photographs (FFHQ) against StyleGAN faces, 256-pixel JPEG",
        "images": f"Images: {counts}.",
        "machine": machine(),
        "command": _published_command(arguments),
        "training_minutes": {name: member["training"]["seconds"] / 60 for name, member in members.items()},
    } | results
    target = ROOT / "benchmarks" / "results" / "faces140k.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {target}; now python benchmarks/readme_table.py --write")


def _published_command(arguments: argparse.Namespace) -> str:
    """What was typed, with DIR for every place on this machine."""
    words = ["python benchmarks/faces140k.py --data DIR"]
    if arguments.unseen:
        words += ["--unseen", *(f"{item.partition('=')[0]}=DIR" for item in arguments.unseen)]
    return " ".join(words + ["--image_root DIR"] * bool(arguments.image_root))


def _make(folder: Path, *arguments: object) -> dict[str, Any]:
    """Run a command unless its results are there, and read them."""
    if not (folder / "results.json").is_file():
        command = [sys.executable, *map(str, arguments)]
        print("$", shlex.join(command), flush=True)
        subprocess.run(command, check=True)
    results: dict[str, Any] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return results


if __name__ == "__main__":
    main()
