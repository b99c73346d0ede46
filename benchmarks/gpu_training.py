"""Images a second of training on a GPU, by backbone and precision, beside what the input pipeline can give.

python benchmarks/gpu_training.py --images DIR

DIR holds real/ and fake/. `hf-deepfake train` on image files at 224 pixels, in a fresh process for each row, as in
train_overhead.py, whose "pipeline" is the same training without the network. The GPU's utilisation is the driver's (share of
the time in which anything ran there), of the timed steps.
"""

import argparse
import tempfile
from pathlib import Path

from readme_table import machine, save_figures
from train_overhead import Setting, copy_images, run

BACKBONES = ("tf_efficientnet_lite0", "resnet50", "vit_small_patch16_224")


def main() -> None:
    """Train each backbone in each precision."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with real/ and fake/")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    sizes = {"image_size": 224, "batch_size": arguments.batch_size, "warm_up": 10, "steps": arguments.steps}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        kind = copy_images(arguments.images, Path(folder), Setting(**sizes).images)
        pipeline = run("pipeline", Path(folder), Setting(**sizes)).rate
        for backbone in BACKBONES:
            for precision in ("fp16", "bf16"):
                setting = Setting(backbone, precision=precision, **sizes)
                files = run("train", Path(folder), setting)
                rows.append(
                    {
                        "backbone": backbone,
                        "precision": precision,
                        "files, images/s": f"{files.rate:.0f}",
                        "GPU busy": f"{files.busy:.0f}%",
                        "input pipeline alone, images/s": f"{pipeline:.0f}",
                    }
                )
                print(rows[-1], flush=True)
    save_figures(
        "gpu_training",
        title=f"Training on a GPU at 224 pixels, batches of {arguments.batch_size}; {kind}",
        command="python benchmarks/gpu_training.py --images DIR",
        machine=machine(),
        rows=rows,
    )


if __name__ == "__main__":
    main()
