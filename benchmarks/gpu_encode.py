"""Images a second on a GPU: the image tower, a device's JPEGs, and both, against their limits.

    python benchmarks/gpu_encode.py [--device cuda] [--models ...] [--seconds 5] [--json FILE]

Weights are random, which changes no speed; photos are made here. For each model: the tower alone
on pixels that are on the device (bf16, as `--backend torch-bf16`), the encoder from pixels in
memory, and stored JPEGs of 500 px and of 12 megapixels decoded, resized and encoded by the
device. The limits are measured in the same run: the matrix peak with large products of bf16, and
the decoding alone. Runs on a CPU with small settings, to check itself.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import logging
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image

from clipsearch.device_jpeg import complete_jpegs, decode_jpegs, decodes_jpeg
from clipsearch.encoder import ImageGeometry
from clipsearch.images import DecodedImage
from clipsearch.torch_tower import TorchTower
from clipsearch.undecoded_jpeg import undecoded_jpeg

MODELS = ("ViT-B-32", "ViT-B-16-SigLIP2-256", "ViT-L-14", "ViT-SO400M-14-SigLIP")
PHOTOS = {"500 px": (500, 375), "12 MP": (4000, 3000)}


@dataclass(frozen=True)
class Row:
    """A model's rates in images/s. gflop : of one image. peak_share : the tower's, of the matrix
    peak. stored : by kind of photo. limits : by kind of photo, the share of the smaller of what
    decoding and what the encoder give alone."""

    model: str
    batch: int
    gflop: float
    tower: float
    compiled: float | None
    peak_share: float
    encoder: float
    stored: dict[str, float]
    limits: dict[str, float]


def rate(work: Callable[[], object], images: int, seconds: float, device: torch.device) -> float:
    """Median images/s of ``work``, which does ``images``; two warm-ups."""
    times: list[float] = []
    for _ in range(2):
        work()
    wait(device)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(times) < 3:
        begin = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - begin)
    return images / statistics.median(times)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_peak(device: torch.device, side: int, seconds: float) -> float:
    """FLOP/s of products of random bf16 matrices of ``side`` x ``side``."""
    one, two = (torch.randn(side, side, device=device).to(torch.bfloat16) for _ in range(2))
    out = torch.empty_like(one)
    return rate(lambda: torch.mm(one, two, out=out), 1, seconds, device) * 2 * side**3


def photo(size: tuple[int, int], seed: int) -> DecodedImage:
    """A JPEG with the detail of a photo: blurred noise at two scales."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    fine = random.integers(0, 256, (size[1] // 3, size[0] // 3, 3), dtype=np.uint8)
    layers = [
        Image.fromarray(layer).resize(size, Image.Resampling.BICUBIC) for layer in (coarse, fine)
    ]
    stream = io.BytesIO()
    Image.blend(layers[0], layers[1], 0.2).save(stream, "JPEG", quality=90)
    image = undecoded_jpeg(stream.getvalue(), 200.0)
    assert image is not None
    return image


def flops_of_one(visual: Any, pixels: Any) -> float:
    """Floating-point operations of one image, counted as torch runs them."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    torch.backends.mha.set_fastpath_enabled(False)  # which it cannot see into
    try:
        with torch.no_grad(), counter:
            visual(pixels)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return float(counter.get_total_flops()) / len(pixels)


def compiled_rate(tower: TorchTower, batch: Any, seconds: float) -> float | None:
    """Of the tower through torch.compile; None where that does not work, which is said."""
    try:
        compiled = torch.compile(tower._visual, dynamic=False)
        with torch.inference_mode():
            return rate(lambda: compiled(batch), len(batch), seconds, tower.device)
    except Exception as error:
        print(f"  not compiled: {str(error).splitlines()[0][:100]}")
        return None


def measure(
    name: str,
    device: torch.device,
    batch_size: int,
    peak: float,
    photos: dict[str, list[DecodedImage]],
    decode_rates: dict[str, float],
    seconds: float,
    compile_too: bool,
) -> Row:
    """One model's row."""
    net = open_clip.create_model(
        name, load_weights=False, pretrained_image=False, pretrained_text=False
    ).eval()
    cfg = net.visual.preprocess_cfg
    side = cfg["size"] if isinstance(cfg["size"], int) else cfg["size"][0]
    geometry = ImageGeometry(
        side, side, cfg.get("resize_mode") or "shortest", cfg.get("interpolation") or "bicubic"
    )
    mean, std = (torch.tensor(cfg[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    tower = TorchTower(net.visual, mean, std, device, "bfloat16")
    gflop = flops_of_one(net.visual, torch.zeros(1, 3, side, side)) / 1e9
    del net
    pixels = np.random.default_rng(0).integers(0, 256, (batch_size, side, side, 3), dtype=np.uint8)
    there = torch.randn(batch_size, 3, side, side).to(device, torch.bfloat16)
    with torch.inference_mode():
        alone = rate(lambda: tower._visual(there), batch_size, seconds, device)
    compiled = compiled_rate(tower, there, seconds) if compile_too else None
    encoder = rate(lambda: tower.rows(pixels), batch_size, seconds, device)

    def from_jpegs(images: list[DecodedImage]) -> None:
        done = complete_jpegs(images, geometry, 320, device)
        tower.rows(np.stack([image.pixels for image in done if image is not None]))

    stored, limits = {}, {}
    for kind, images in photos.items():
        # Two at a time, as a run has them: one decodes while the other encodes.
        with ThreadPoolExecutor(2) as pool:
            both = [images, images]
            work = functools.partial(_all, pool, from_jpegs, both)
            stored[kind] = rate(work, 2 * len(images), seconds, device)
        limits[kind] = stored[kind] / min(decode_rates[kind], encoder)
    share = alone * gflop * 1e9 / peak
    return Row(name, batch_size, gflop, alone, compiled, share, encoder, stored, limits)


def _all(pool: ThreadPoolExecutor, work: Callable[[Any], None], parts: list[Any]) -> None:
    list(pool.map(work, parts))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    there = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=there)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--photos", type=int, default=64, help="of each kind, a call")
    parser.add_argument("--kinds", nargs="+", choices=list(PHOTOS), default=list(PHOTOS))
    parser.add_argument("--side", type=int, default=8192, help="of the matrices")
    parser.add_argument("--seconds", type=float, default=5.0, help="a measurement")
    parser.add_argument("--compile", action="store_true", help="the tower compiled, too")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)  # open_clip's, that the weights are random
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}, bf16")
    if not decodes_jpeg(str(device)):
        raise SystemExit(f"torchvision decodes no JPEG on {device}")
    peak = matrix_peak(device, options.side, options.seconds)
    print(f"matrix peak {peak / 1e12:.2f} TFLOP/s")
    photos, decode_rates = {}, {}
    for kind in options.kinds:
        count = options.photos if kind == "500 px" else max(1, options.photos // 8)
        some = [photo(PHOTOS[kind], seed) for seed in range(min(count, 8))]
        photos[kind] = [some[row % len(some)] for row in range(count)]
        files = [image.jpeg or b"" for image in photos[kind]]
        decode_rates[kind] = rate(
            functools.partial(decode_jpegs, files, device), count, options.seconds, device
        )
        print(f"decoding alone, {kind}: {decode_rates[kind]:.1f} images/s")
    print(f"{'model':<24}{'GFLOP':>7}{'tower':>9}{'of peak':>9}{'encoder':>9}", end="")
    print("".join(f"{kind:>10}{'of limit':>9}" for kind in photos))
    rows = []
    for model in options.models:
        row = measure(
            model,
            device,
            options.batch,
            peak,
            photos,
            decode_rates,
            options.seconds,
            options.compile,
        )
        rows.append(row)
        print(
            f"{model:<24}{row.gflop:7.1f}{row.tower:9.1f}{row.peak_share:9.0%}{row.encoder:9.1f}"
            + "".join(f"{row.stored[kind]:10.1f}{row.limits[kind]:9.0%}" for kind in photos)
            + (f"   compiled {row.compiled:.1f}" if row.compiled else "")
        )
    if options.json is not None:
        document = {
            "device": name,
            "torch": torch.__version__,
            "peak_flops": peak,
            "decode": decode_rates,
            "models": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
