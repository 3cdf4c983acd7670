"""Images a second of each preset's image tower on this machine's CPU.

    python benchmarks/encoder_rate.py [--seconds 10] [NAME ...]

The encoder alone, float32, batches of 32, one warm-up, median of the batches. Weights are
random, which changes no speed, so nothing has to be fetched.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import open_clip
import torch

from clipsearch.model_names import folder_of
from clipsearch.presets import PRESETS


def rate(model: str, seconds: float) -> float:
    """Median images/s of the image tower of ``model``."""
    folder = folder_of(model)
    name = f"local-dir:{folder}" if folder is not None else model.split("/")[0]
    if "xlm-roberta" in name:  # its image tower, without the text tower that needs an extra
        name = "ViT-B-32"
    net = open_clip.create_model(name, load_weights=False, pretrained_text=False).eval()
    size = net.visual.image_size
    side = size if isinstance(size, int) else size[0]
    batch = torch.from_numpy(
        np.random.default_rng(0).standard_normal((32, 3, side, side)).astype(np.float32)
    )
    times: list[float] = []
    with torch.inference_mode():
        net.encode_image(batch)
        start = time.perf_counter()
        while time.perf_counter() - start < seconds or len(times) < 3:
            begin = time.perf_counter()
            net.encode_image(batch)
            times.append(time.perf_counter() - begin)
    return len(batch) / statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="presets; all when none is named")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for preset in PRESETS:
        if not arguments.names or preset.name in arguments.names:
            print(f"{preset.name:<14}{rate(preset.model, arguments.seconds):8.1f} images/s")


if __name__ == "__main__":
    main()
