"""Train three members on photographs and StyleGAN faces, vote them, and store the figures that the README prints.

python benchmarks/faces140k.py --data DIR --output_dir runs/faces140k

DIR is an image folder with `train` and `validation`, each with `real` and `fake`. The commands that it runs, one after
the other, are those of the README's section on training.
"""

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = ("efficientnet_lite0", "mobilenetv2", "mnasnet")


def main() -> None:
    """Run the documented commands and gather their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/faces140k"))
    arguments = parser.parse_args()
    minutes = {}
    for member in MEMBERS:
        run = arguments.output_dir / member.replace("_", "-")
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
        command += [str(ROOT / "recipes" / "accelerate" / "cpu.yaml"), str(ROOT / "recipes" / "train.py")]
        command += ["--config", str(ROOT / "recipes" / "configs" / f"cpu_{member}.yaml")]
        command += ["--dataset_name", arguments.data, "--output_dir", str(run)]
        started = time.monotonic()
        _run(command)
        minutes[run.name] = (time.monotonic() - started) / 60
    ensemble = arguments.output_dir / "ensemble"
    runs = [str(arguments.output_dir / name) for name in minutes]
    _run(
        [
            sys.executable,
            "-m",
            "hf_deepfake.cli",
            "ensemble",
            *runs,
            "--voting",
            "weighted",
            "--output_dir",
            str(ensemble),
        ]
    )
    results = json.loads((ensemble / "results.json").read_text(encoding="utf-8"))
    data = json.loads((Path(runs[0]) / "results.json").read_text(encoding="utf-8"))["data"]
    counts = ", ".join(f"{split}: {count['real']} real and {count['fake']} fake" for split, count in data.items())
    published = {
        "title": "Photographs (FFHQ) against StyleGAN faces, 256-pixel JPEG",
        "images": f"Images: {counts}.",
        "machine": f"Measured on 2 CPU cores ({_processor()})",
        "command": "python benchmarks/faces140k.py --data DIR",
        "training_minutes": minutes,
    } | results
    target = ROOT / "benchmarks" / "results" / "faces140k.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(published, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {target}; now python benchmarks/readme_table.py --write")


def _run(command: list[str]) -> None:
    print("$", shlex.join(command), flush=True)
    subprocess.run(command, check=True)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
