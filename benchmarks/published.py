"""The published accuracy of the recommended models, and how to come by it oneself.

    python benchmarks/published.py table
    python benchmarks/published.py cifar10 [--model balanced ...] [--into FOLDER]
    python benchmarks/published.py imagenet VAL_FOLDER [--model balanced ...]

``cifar10`` and ``cifar100`` fetch the 10,000 test images through torchvision, write them as PNGs
into a folder a class, and hand that to ``clipsearch evaluate``; both need a network the first time
(the weights of the models too, 0.6 to 1.7 GB). ``imagenet`` takes the validation images in folders
named as ImageNet names them (n01440764 ...), 50,000 images; the names of its classes are those of
open_clip. Templates and other names are those of CLIP_benchmark where it is installed
(``pip install --no-deps clip_benchmark``); without it CIFAR is asked by open_clip's 80 templates
for ImageNet, which is told, and the result is then not quite the published protocol. Underscores
in the names of CIFAR-100's classes (aquarium_fish) are spaces here.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipsearch.presets import PRESETS, RECOMMENDED

# Zero-shot top-1 in percent: ImageNet-1k, CIFAR-10, CIFAR-100. Source: docs/openclip_results.csv of
# https://github.com/mlfoundations/open_clip.
PUBLISHED = {
    "ViT-B-32/datacomp_xl_s13b_b90k": (69.17, 95.61, 80.31),
    "ViT-B-32-256/datacomp_s34b_b86k": (72.81, 96.53, 82.87),
    "ViT-L-14/datacomp_xl_s13b_b90k": (79.21, 98.24, 87.36),
    "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k": (62.36, 93.66, 76.54),
}
COLUMNS = ("ImageNet", "CIFAR-10", "CIFAR-100")
_CIFAR = {"cifar10": "CIFAR10", "cifar100": "CIFAR100"}


class PublishedError(Exception):
    """What keeps the figures from being reproduced, in one line."""


def table() -> str:
    """The published figures of the presets, in Markdown."""
    lines = [
        f"| preset | model | {' | '.join(f'{name}, published' for name in COLUMNS)} |",
        "|" + "---|" * (2 + len(COLUMNS)),
    ]
    for preset in PRESETS:
        if preset.model in PUBLISHED:
            figures = " | ".join(f"{figure:.1f} %" for figure in PUBLISHED[preset.model])
            lines.append(f"| `{preset.name}` | {preset.model} | {figures} |")
    return "\n".join(lines)


def of_clip_benchmark(file: str) -> Mapping[str, Any] | None:
    """A data file of the package, which is not imported; None where it is not installed."""
    spec = importlib.util.find_spec("clip_benchmark")
    if spec is None or not spec.submodule_search_locations:
        return None
    place = Path(next(iter(spec.submodule_search_locations))) / "datasets" / file
    try:
        content: Mapping[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def prompts_of(dataset: str, into: Path) -> str:
    """What ``evaluate --prompts`` takes: a file of CLIP_benchmark's templates, or "openai"."""
    known = of_clip_benchmark("en_zeroshot_classification_templates.json") or {}
    if dataset not in known:
        return "openai"
    file = into / f"{dataset}-templates.txt"
    texts = [text.replace("{c}", "{}") for text in known[dataset]]
    file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(file)


def write_names(names: Mapping[str, str], file: Path) -> Path:
    """The CSV that ``evaluate --names`` reads."""
    with open(file, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["folder", "name"])
        writer.writerows(names.items())
    return file


def write_images(dataset: Any, folder: Path) -> int:
    """A PNG an image, in a folder a class; how many. Nothing is left where that fails.

    dataset : pairs of a PIL image and the number of its class, with ``classes``.
    """
    if folder.is_dir():
        return sum(1 for _ in folder.glob("*/*.png"))
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in dataset.classes:
        (unfinished / name).mkdir(parents=True)
    for number, (image, truth) in enumerate(dataset):
        image.save(unfinished / dataset.classes[truth] / f"{number:05}.png")
    unfinished.rename(folder)
    return len(dataset)


def cifar(name: str, into: Path) -> Path:
    """The test images of CIFAR in a folder a class."""
    from torchvision import datasets

    folder = into / f"{name}-test"
    if not folder.is_dir():
        into.mkdir(parents=True, exist_ok=True)
        try:
            fetched = getattr(datasets, _CIFAR[name])(into / "download", train=False, download=True)
        except (OSError, RuntimeError) as error:  # no network, or a page in place of the file
            cause = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PublishedError(
                f"cannot fetch {name} ({cause}): connect to a network, or put the archive "
                f"of torchvision.datasets.{_CIFAR[name]} into {into / 'download'}"
            ) from None
        write_images(fetched, folder)
    return folder


def imagenet_names(folder: Path) -> dict[str, str]:
    """n01440764 -> tench, in the words of open_clip."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    synsets = ImageNetInfo("imagenet-1k").label_names()
    names = dict(zip(synsets, IMAGENET_CLASSNAMES, strict=True))
    there = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    if not there & set(names):
        raise PublishedError(
            f"expected folders such as n01440764 in {folder}: the validation images of ImageNet, "
            "a folder a class"
        )
    return names


def evaluate(folder: Path, prompts: str, names: Path | None, models: Sequence[str]) -> int:
    """Run ``clipsearch evaluate``; its exit code."""
    command = [sys.executable, "-c", "from clipsearch.cli import main; main()", "evaluate"]
    command += [str(folder), "--prompts", prompts]
    for model in models:
        command += ["--model", model]
    if names is not None:
        command += ["--names", str(names)]
    return subprocess.run(command, check=False).returncode


def get_models(models: Sequence[str]) -> None:
    """Fetch the weights that are not here; ``model get`` says what it does."""
    for model in models:
        command = [sys.executable, "-c", "from clipsearch.cli import main; main()", "model", "get"]
        if subprocess.run([*command, model], check=False).returncode:
            raise PublishedError(f"the weights of {model} are not here and cannot be fetched")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("table", *_CIFAR, "imagenet"))
    parser.add_argument("folder", nargs="?", type=Path, help="of ImageNet's validation images")
    parser.add_argument("--model", action="append", help="a preset or a model; may repeat")
    parser.add_argument("--into", type=Path, default=Path("published"), help="for what is fetched")
    given = parser.parse_args()
    if given.what == "table":
        print(table())
        return 0
    names: Path | None = None
    models = given.model or [RECOMMENDED]
    if given.what == "imagenet":
        if given.folder is None:
            raise PublishedError("expected the folder of the validation images: imagenet FOLDER")
        words, folder, prompts = imagenet_names(given.folder), given.folder, "openai"
        given.into.mkdir(parents=True, exist_ok=True)
        names = write_names(words, given.into / "imagenet-names.csv")
    else:
        folder = cifar(given.what, given.into)
        prompts = prompts_of(given.what, given.into)
        if prompts == "openai":
            print(
                "CLIP_benchmark is not installed: asked by the 80 templates of ImageNet, not by "
                "the 18 for CIFAR, so that the figures may differ from the published ones.",
                file=sys.stderr,
            )
    get_models([model for model in models if not Path(model).exists() and model != "mini"])
    for model in models:
        full = next((preset.model for preset in PRESETS if preset.name == model), model)
        column = ("imagenet", *_CIFAR).index(given.what)
        if full in PUBLISHED:
            print(f"published for {model}: {PUBLISHED[full][column]:.2f} %", flush=True)
    return evaluate(folder, prompts, names, models)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PublishedError as error:
        raise SystemExit(f"Error: {error}") from None
