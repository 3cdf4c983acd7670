"""Train a classifier of torchvision on a folder of photos a class, and test it on another.

    python benchmarks/cnn_baseline.py TRAIN [TEST] [--network resnet18] [--weights auto|none|FILE]

From nothing, or from ImageNet's weights where torch's cache, or a file, has them (nothing is
downloaded). --keep FILE writes a checkpoint after every epoch; the same command goes on from it.
The trained weights go into --out FILE as safetensors. What it is compared with, and how, is
`cnn_comparison.py`'s part.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from cnn_networks import Network, NetworkError
from cnn_training import OPTIMISERS, Epoch, Recipe, train
from labelled_photos import PhotosError, read_labelled_photos

from clipsearch.encoder import Float32, ImageGeometry, UInt8


def geometry_of(recipe: Recipe) -> ImageGeometry:
    """What photos are read as for training and testing by a recipe."""
    return ImageGeometry(recipe.kept_side, recipe.kept_side, "shortest", "bilinear")


def probabilities(network: Network, pixels: UInt8) -> Float32:
    """(n, C) float32 probabilities of the classes."""
    scores = network.scores(network.features(pixels))
    odds: Float32 = np.exp(scores - scores.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    return odds


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a number from ``least``."""

    def number(text: str) -> int:
        if (found := int(text)) < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {text}")
        return found

    return number


def recipe_options(parser: argparse.ArgumentParser) -> None:
    """The options that make a recipe."""
    usual = Recipe()
    add = parser.add_argument
    add("--network", default=usual.network, help="any classifier of torchvision (resnet18)")
    add("--weights", default="auto", help="auto (ImageNet's, where they are on disk), none, a file")
    add("--side", type=at_least(32), default=usual.side, help=f"pixels it sees ({usual.side})")
    add("--epochs", type=at_least(1), default=usual.epochs, help=f"at the most ({usual.epochs})")
    add("--batch", type=at_least(2), default=usual.batch, help=f"photos a step ({usual.batch})")
    add("--optimiser", choices=OPTIMISERS, default=usual.optimiser)
    add("--rate", type=float, help="highest learning rate (what suits the optimiser)")
    add("--patience", type=at_least(1), help="epochs without gain before it stops (half of all)")
    add("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    add("--device", default=usual.device, help="cpu, cuda, mps (cpu)")
    add("--seed", type=int, default=usual.seed)


def recipe_of(given: argparse.Namespace) -> Recipe:
    """The recipe that options say."""
    return Recipe(
        network=given.network, side=given.side, weights=given.weights, epochs=given.epochs,
        batch=given.batch, optimiser=given.optimiser, rate=given.rate, patience=given.patience,
        precision=given.precision, device=given.device, seed=given.seed,
    )  # fmt: skip


def told(epoch: Epoch) -> str:
    """One line about an epoch."""
    right = "" if epoch.right is None else f", {epoch.right:.1%} of those held out"
    left = epoch.seconds / epoch.number * (epoch.of - epoch.number)
    return (
        f"epoch {epoch.number} of {epoch.of}: loss {epoch.loss:.3f}{right}; "
        f"{epoch.seconds:.0f} s, at most {left:.0f} s more"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path, nargs="?")
    recipe_options(parser)
    parser.add_argument("--keep", type=Path, metavar="FILE", help="checkpoint, to go on from")
    parser.add_argument("--out", type=Path, metavar="FILE.safetensors", help="the trained weights")
    given = parser.parse_args(arguments)
    recipe = recipe_of(given)
    try:
        photos, pixels = read_labelled_photos(given.train, geometry_of(recipe))
        for line in photos.skipped:
            print(f"left out: {line}", file=sys.stderr)
        trained = train(
            recipe, pixels, photos.truth, len(photos.classes), checkpoint=given.keep,
            tell=lambda epoch: print(told(epoch), file=sys.stderr, flush=True),
        )  # fmt: skip
        network = trained.network
        speed = trained.images / max(trained.seconds, 1e-9)
        print(
            f"{network.name}: {network.parameters / 1e6:.1f} million parameters, "
            f"{network.megabytes:.1f} MB; {trained.photos} photos of {len(photos.classes)} "
            f"classes, {trained.epochs} epochs in {trained.seconds:.0f} s "
            f"({speed:.0f} images/s); epoch {trained.best} kept"
        )
        if given.test is not None:
            found, seen = read_labelled_photos(given.test, geometry_of(recipe), photos.classes)
            right = probabilities(network, seen).argmax(axis=1) == found.truth
            per_class = [right[found.truth == label].mean() for label in np.unique(found.truth)]
            print(f"test: {right.mean():.2%} of {len(found)} right, {np.mean(per_class):.2%} mean")
        if given.out is not None:
            from safetensors.torch import save_file

            state = {key: value.contiguous() for key, value in network.net.state_dict().items()}
            save_file(state, given.out, {"classes": "\n".join(photos.classes)})
    except (PhotosError, NetworkError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = f": the same command goes on from {given.keep}" if given.keep else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
