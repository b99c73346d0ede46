"""Images a second of CPU training with and without `keep_freed_memory`, in turns, as a ratio.

python benchmarks/freed_memory.py
"""

import subprocess
import sys

_MEASURE = """
import sys, time
import timm, torch
from hf_deepfake.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
model = timm.create_model("tf_efficientnet_lite0", num_classes=2).to(memory_format=torch.channels_last).train()
optimizer = torch.optim.AdamW(model.parameters())
images = torch.rand(16, 3, 192, 192).to(memory_format=torch.channels_last)
for step in range(12):
    if step == 2:
        started = time.monotonic()
    model(images).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
print(160 / (time.monotonic() - started))
"""


def main() -> None:
    """Five pairs of fresh processes."""
    ratios = []
    for _ in range(5):
        given, kept = (
            float(
                subprocess.run(
                    [sys.executable, "-c", _MEASURE, way], capture_output=True, text=True, check=True
                ).stdout
            )
            for way in ("given back", "kept")
        )
        ratios.append(kept / given)
        print(f"given back {given:.1f} images/s, kept {kept:.1f} images/s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {sorted(ratios)[2]:.2f}")


if __name__ == "__main__":
    main()
