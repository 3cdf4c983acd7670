"""Training a classifier on labelled pixels: a sensible recipe for hundreds to thousands of photos.

Random crops of 35 to 100 % of the picture, flips, changes of light and colour; smoothed labels;
one cycle of the learning rate (Smith & Topin 2018) of SGD with momentum, or of AdamW. A part of
the training photos, of every class as many, is held out; the weights that did best there are
kept, and training ends when that was long ago. Every epoch can be written down and gone on from:
the result is that of one go. The same photos, settings and seed give the same weights on the
same machine and number of threads.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as nnf
from cnn_networks import Network, make_network, middle

from clipsearch.encoder import UInt8
from clipsearch.records import Int32

OPTIMISERS = ("adamw", "sgd")
_RATES = {("adamw", False): 2e-3, ("adamw", True): 3e-4, ("sgd", False): 0.05, ("sgd", True): 0.01}
_WITHOUT_NORMS = 0.05  # of those rates, for networks that would diverge with them
_DECAY = {"adamw": 0.05, "sgd": 5e-4}
_FEWEST_TO_HOLD_OUT = 8  # photos of a class, below which none is spared
_MARGIN = 9 / 8  # what is kept of a photo beside what the network sees, as 256 is to 224


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    epochs : rounds over all photos; at most. steps : the fewest steps, which few photos get by
    more rounds. rate : the highest learning rate, None for what suits the optimiser.
    patience : epochs without gain on the photos held out, None for half of all.
    precision : "bfloat16", "float32", "auto" for the first where the processor has it.
    """

    network: str = "resnet18"
    side: int = 112
    weights: str = "none"
    epochs: int = 30
    steps: int = 150
    batch: int = 32
    optimiser: str = "adamw"
    rate: float | None = None
    patience: int | None = None
    held_out: float = 0.1
    smoothing: float = 0.1
    precision: str = "auto"
    device: str = "cpu"
    seed: int = 0

    @property
    def kept_side(self) -> int:
        """Pixels that photos are kept with for training."""
        return round(self.side * _MARGIN)


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to. right : share of the held out photos, None where there are none."""

    number: int
    of: int
    loss: float
    right: float | None
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A trained network.

    seconds : of training, over all its goes. epochs : how many there were; best : the one whose
    weights these are. photos : that it learned from; held_out : that it was chosen by.
    images : passed through it, forward and back.
    """

    network: Network
    seconds: float
    epochs: int
    best: int
    photos: int
    held_out: int
    images: int
    right_held_out: float | None


Tell = Callable[[Epoch], None]


def train(
    recipe: Recipe,
    pixels: UInt8,
    truth: Int32,
    classes: int,
    *,
    checkpoint: Path | None = None,
    tell: Tell | None = None,
) -> Trained:
    """Train on (n, kept_side, kept_side, 3) pixels and their (n,) classes, 0..classes-1.

    checkpoint : a file that is written after every epoch, and gone on from where it is of the
    same photos and recipe. Raises NetworkError.
    """
    network = make_network(
        recipe.network, classes, recipe.side,
        weights=recipe.weights, device=recipe.device, seed=recipe.seed,
    )  # fmt: skip
    learned, held = split(truth, recipe.held_out, recipe.seed)
    # As many in every batch, and never one alone, which batch normalisation cannot take.
    per_epoch = max(1, round(len(learned) / recipe.batch))
    epochs = max(recipe.epochs, -(-recipe.steps // per_epoch))
    patience = recipe.patience or max(2, epochs // 2)
    run = _Run(recipe, network, per_epoch * epochs)
    sign = _sign(recipe, pixels, truth, classes)
    if checkpoint is not None:
        run.resume(checkpoint, sign)
    inputs = network.tensor(pixels)
    targets = torch.from_numpy(truth.astype(np.int64)).to(network.device)
    while run.epoch < epochs and run.epoch - run.best < patience:
        began = time.perf_counter()
        loss = run.learn(inputs, targets, learned, per_epoch)
        right = run.keep_best(inputs, targets, held)
        run.epoch += 1
        run.seconds += time.perf_counter() - began
        if checkpoint is not None:
            run.write(checkpoint, sign)
        if tell is not None:
            tell(Epoch(run.epoch, epochs, loss, right, run.seconds))
    if run.weights is not None:
        network.net.load_state_dict(run.weights)
    network.net.eval()
    return Trained(
        network, run.seconds, run.epoch, run.best, len(learned), len(held),
        run.epoch * len(learned), run.right if len(held) else None,
    )  # fmt: skip


def split(
    truth: Int32, share: float, seed: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Places to learn from, and places held out: a share of every class that has enough."""
    chance = np.random.default_rng(seed)
    held = []
    for label in np.unique(truth):
        places = chance.permutation(np.flatnonzero(truth == label))
        if len(places) >= _FEWEST_TO_HOLD_OUT:
            held.append(places[: max(1, round(share * len(places)))])
    out = np.sort(np.concatenate(held)) if held else np.empty(0, np.intp)
    return np.setdiff1d(np.arange(len(truth)), out), out


class _Run:
    """A training that is under way: all that a checkpoint has to hold."""

    def __init__(self, recipe: Recipe, network: Network, steps: int) -> None:
        self.recipe, self.network = recipe, network
        usual = _RATES[recipe.optimiser, network.loaded]
        rate = recipe.rate or (usual if network.normalises else usual * _WITHOUT_NORMS)
        weights = list(network.net.parameters())
        decay = _DECAY[recipe.optimiser]
        # Biases and the scales of normalisation are not drawn to zero.
        groups = [
            {"params": [one for one in weights if one.ndim > 1], "weight_decay": decay},
            {"params": [one for one in weights if one.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser: torch.optim.Optimizer
        if recipe.optimiser == "sgd":
            self.optimiser = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
        else:
            self.optimiser = torch.optim.AdamW(groups, lr=rate)
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, max_lr=rate, total_steps=steps + 1, pct_start=0.2
        )
        self.half = _takes_bfloat16(recipe)
        self.epoch, self.best, self.seconds = 0, 0, 0.0
        self.right, self.loss = -1.0, np.inf
        self.weights: dict[str, torch.Tensor] | None = None

    def learn(
        self,
        inputs: torch.Tensor,
        targets: torch.Tensor,
        learned: npt.NDArray[np.intp],
        batches: int,
    ) -> float:
        """One epoch; the mean loss."""
        net = self.network.net
        net.train()
        # Of the epoch, so that one that is gone on with is no other.
        torch.manual_seed(self.recipe.seed * 100_003 + self.epoch)
        order = torch.from_numpy(learned)[torch.randperm(len(learned))]
        total = 0.0
        for places in order.tensor_split(batches):
            seen = changed(inputs[places], self.recipe.side)
            with self._precision():
                logits = self.network.logits(self.network.normalised(seen))
            loss = nnf.cross_entropy(
                logits.float(), targets[places], label_smoothing=self.recipe.smoothing
            )
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.cycle.step()
            total += loss.item() * len(places)
        return total / len(learned)

    def keep_best(
        self, inputs: torch.Tensor, targets: torch.Tensor, held: npt.NDArray[np.intp]
    ) -> float | None:
        """Look at the photos held out; the share that is right."""
        if not len(held):
            self.best = self.epoch + 1
            return None
        self.network.net.eval()
        right, lost = 0, 0.0
        with torch.inference_mode(), self._precision():
            for places in torch.from_numpy(held).split(16):
                seen = middle(inputs[places], self.recipe.side)
                logits = self.network.logits(self.network.normalised(seen)).float()
                right += int((logits.argmax(dim=1) == targets[places]).sum())
                lost += float(nnf.cross_entropy(logits, targets[places], reduction="sum"))
        found = right / len(held)
        if (found, -lost) > (self.right, -self.loss):
            self.right, self.loss, self.best = found, lost, self.epoch + 1
            self.weights = copy.deepcopy(self.network.net.state_dict())
        return found

    def _precision(self) -> Any:
        kind = self.network.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.half)

    def write(self, place: Path, sign: str) -> None:
        """All of it at once, or nothing."""
        state = {
            "sign": sign,
            "numbers": [self.epoch, self.best, self.seconds, self.right, self.loss],
            "net": self.network.net.state_dict(),
            "best": self.weights,
            "optimiser": self.optimiser.state_dict(),
            "cycle": self.cycle.state_dict(),
        }
        new = place.with_name(place.name + ".new")
        torch.save(state, new)
        os.replace(new, place)

    def resume(self, place: Path, sign: str) -> None:
        """Go on from a checkpoint of this very training; leave any other alone."""
        try:
            state = torch.load(place, map_location=self.network.device, weights_only=True)
            if state["sign"] != sign:
                return
        except Exception:  # none there, or none that can be read: it begins anew
            return
        self.network.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.cycle.load_state_dict(state["cycle"])
        self.epoch, self.best, self.seconds, self.right, self.loss = state["numbers"]
        self.weights = state["best"]


def changed(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """(n, 3, h, w) pixels of 0..255, each cut, turned over, lit and coloured by chance:
    (n, 3, side, side) float32."""
    count = len(pixels)
    area = torch.empty(count).uniform_(0.35, 1.0)
    shape = torch.empty(count).uniform_(-0.2877, 0.2877).exp()  # 3:4 to 4:3
    wide, tall = (area * shape).sqrt().clamp(max=1), (area / shape).sqrt().clamp(max=1)
    left = (torch.rand(count) * 2 - 1) * (1 - wide)
    top = (torch.rand(count) * 2 - 1) * (1 - tall)
    flip = 1.0 - 2.0 * (torch.rand(count) < 0.5).float()
    zero = torch.zeros(count)
    where = torch.stack([wide * flip, zero, left, zero, tall, top], dim=1).view(count, 2, 3)
    grid = nnf.affine_grid(where, [count, 3, side, side], align_corners=False)
    seen = nnf.grid_sample(
        pixels.float(), grid.to(pixels.device), padding_mode="reflection", align_corners=False
    )
    light, contrast, colour = (
        torch.empty(count, 1, 1, 1).uniform_(0.6, 1.4).to(pixels.device) for _ in range(3)
    )
    seen = seen * light
    grey = seen.mean(dim=1, keepdim=True)
    seen = grey + colour * (seen - grey)
    level = grey.mean(dim=(2, 3), keepdim=True)
    return (level + contrast * (seen - level)).clamp(0, 255)


def _takes_bfloat16(recipe: Recipe) -> bool:
    if recipe.precision != "auto":
        return recipe.precision == "bfloat16"
    if recipe.device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    there = torch.cpu.get_capabilities()
    return recipe.device == "cpu" and bool(there.get("avx512_bf16") or there.get("amx_bf16"))


def _sign(recipe: Recipe, pixels: UInt8, truth: Int32, classes: int) -> str:
    """What a checkpoint has to be of."""
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(recipe), classes]).encode())
    digest.update(truth.tobytes())
    digest.update(np.ascontiguousarray(pixels))
    return digest.hexdigest()
