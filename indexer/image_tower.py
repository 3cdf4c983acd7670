"""The image tower of a model while it is trained: beside the encoder, all that imports torch.

Every photo is pulled to the text vector of its class: cross-entropy over the classes, at the
model's own logit scale. The text tower stays as it is, so that words mean what they meant. At first
the last layer alone is trained, a linear probe on frozen features, so that the features are not
distorted by a layer that does not suit them yet (Kumar et al., "Fine-Tuning can Distort Pretrained
Features", ICLR 2022); then the whole tower. Batch normalisation keeps its running statistics, and
dropout is off.

Chance is drawn from the seed and the number of the step alone: a training that goes on from a
checkpoint ends where one that was never interrupted does.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from clipsearch.encoder import Float32, UInt8
from clipsearch.errors import ClipsearchError
from clipsearch.open_clip_encoder import OpenClipEncoder
from clipsearch.records import Int32
from clipsearch.shards import Int64
from indexer.fine_tuning_records import Recipe
from indexer.training_checkpoint import Checkpoint

_WARM_UP = 0.1  # of all steps
_LARGEST_GRADIENT = 1.0
_ENCODED_AT_ONCE = 64
_LAST_LAYERS = ("proj", "head.proj", "head.mlp", "attnpool.c_proj")
"""Of the towers of open_clip: its own transformer, timm's, and its own ResNet."""

Weights = Mapping[str, Any]
"""Tensors of an image tower by name."""


class ImageTower:
    """A copy of a model, of which the image tower can be trained. The encoder stays as it is."""

    def __init__(self, encoder: OpenClipEncoder) -> None:
        self.space = encoder.space
        self.net, self.tokenizer = encoder.parts()
        self.net.eval()
        self._device = next(self.net.parameters()).device
        config = self.net.visual.preprocess_cfg
        self._mean, self._std = (
            torch.tensor(config[key], dtype=torch.float32, device=self._device).view(1, -1, 1, 1)
            for key in ("mean", "std")
        )
        self._parameters: dict[str, Any] = dict(self.net.visual.named_parameters())
        self.original: Weights = self.weights()

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda:0"."""
        return str(self._device)

    @property
    def size(self) -> int:
        """How many weights the tower has."""
        return sum(parameter.numel() for parameter in self._parameters.values())

    def weights(self) -> Weights:
        """A copy of the tower's weights as they are now."""
        return {name: tensor.detach().clone() for name, tensor in self._parameters.items()}

    def mix(self, trained: Weights, alpha: float) -> None:
        """Set every weight to (1 - alpha) * original + alpha * trained (Wortsman et al., "Robust
        fine-tuning of zero-shot models", CVPR 2022)."""
        with torch.no_grad():
            for name, tensor in self._parameters.items():
                tensor.copy_(torch.lerp(self.original[name], trained[name], alpha))

    def encode(self, pixels: UInt8, rows: Int64) -> Float32:
        """The photos at ``rows`` of (n, height, width, 3) uint8 -> (len(rows), dim) unit rows."""
        found = [np.empty((0, self.space.dim), np.float32)]
        with torch.inference_mode(), _full_precision():
            for start in range(0, len(rows), _ENCODED_AT_ONCE):
                batch = self._batch(pixels, rows[start : start + _ENCODED_AT_ONCE])
                vectors = self.net.encode_image(self._normalised(batch), normalize=True)
                found.append(vectors.float().cpu().numpy())
        return np.concatenate(found)

    def train(
        self,
        pixels: UInt8,
        rows: Int64,
        targets: Int32,
        classes: Float32,
        recipe: Recipe,
        checkpoint: Checkpoint,
        on_step: Callable[[int, int, float], None],
    ) -> Weights:
        """Train from the original weights, or go on from where ``checkpoint`` has come to.

        pixels : (n, height, width, 3) uint8. rows : those to train on. targets : (len(rows),), the
        class of each. classes : (C, dim) unit vectors. on_step : told the step, of how many, and
        the loss of its photos. Raises ClipsearchError where the loss is no number any more.
        """
        last = [name for name in self._parameters if _is_last(name)]
        of_probe, of_tower = recipe.steps(len(rows))
        of_probe = of_probe if last else 0
        steps, each_epoch = of_probe + of_tower, of_tower // recipe.epochs
        self.mix(self.original, 0)
        optimiser = torch.optim.AdamW(self._parameters.values(), weight_decay=0.0)
        goals = torch.from_numpy(np.ascontiguousarray(classes)).to(self._device)
        truth = torch.from_numpy(targets.astype(np.int64)).to(self._device)
        first = checkpoint.load(self._parameters, optimiser)
        for step in range(first, steps):
            is_probe = step < of_probe
            epoch, place = divmod(step, each_epoch)
            order = np.random.default_rng((recipe.seed, 0, epoch)).permutation(len(rows))
            drawn = order[place * recipe.batch_size : (place + 1) * recipe.batch_size]
            chance = np.random.default_rng((recipe.seed, 1, step))
            batch = _windows(self._batch(pixels, rows[drawn]), chance, recipe.least_crop)
            optimiser.zero_grad()
            with self._learning(last if is_probe else list(self._parameters)), _full_precision():
                vectors = self.net.encode_image(self._normalised(batch), normalize=True)
                logits = self.space.logit_scale * vectors @ goals.T
                loss = torch.nn.functional.cross_entropy(logits, truth[drawn])
                loss.backward()
            value = float(loss.detach())
            highest = recipe.probe_rate if is_probe else recipe.rate
            if not math.isfinite(value):
                raise ClipsearchError(
                    f"the training went astray at step {step + 1:,} of {steps:,}, with a loss that "
                    f"is no number: take a lower rate than {recipe.rate:g}"
                )
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), _LARGEST_GRADIENT)
            pace = _pace(step, of_probe) if is_probe else _pace(step - of_probe, of_tower)
            for group in optimiser.param_groups:
                group["lr"] = highest * pace
            optimiser.step()
            checkpoint.keep(step + 1, steps, self._parameters, optimiser)
            on_step(step + 1, steps, value)
        return self.weights()

    @contextlib.contextmanager
    def _learning(self, names: list[str]) -> Iterator[None]:
        """These weights get gradients meanwhile, and no others."""
        for name in names:
            self._parameters[name].requires_grad_(True)
        try:
            yield
        finally:
            for name in names:
                self._parameters[name].requires_grad_(False)

    def _batch(self, pixels: UInt8, rows: Int64) -> Any:
        """(b, 3, height, width) float32 from 0 to 1."""
        batch = torch.from_numpy(np.asarray(pixels[rows])).to(self._device).permute(0, 3, 1, 2)
        return batch.to(torch.float32, memory_format=torch.contiguous_format).div_(255)

    def _normalised(self, batch: Any) -> Any:
        return (batch - self._mean) / self._std


def _is_last(name: str) -> bool:
    return any(name == layer or name.startswith(f"{layer}.") for layer in _LAST_LAYERS)


def _pace(step: int, steps: int) -> float:
    """The share of the highest rate that a step is made with."""
    warm = max(1, round(_WARM_UP * steps))
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _windows(batch: Any, chance: np.random.Generator, least: float) -> Any:
    """Every picture through a window of its own, of a share of its area from ``least`` to 1, half
    of them mirrored, at the size it had."""
    count = len(batch)
    side = np.sqrt(chance.uniform(least, 1, count))
    mirrored = np.where(chance.random(count) < 0.5, -1.0, 1.0)
    maps = np.zeros((count, 2, 3), np.float32)
    maps[:, 0, 0], maps[:, 1, 1] = side * mirrored, side
    maps[:, :, 2] = chance.uniform(-1, 1, (count, 2)) * (1 - side)[:, None]
    grid = torch.nn.functional.affine_grid(
        torch.from_numpy(maps).to(batch.device), list(batch.shape), align_corners=False
    )
    return torch.nn.functional.grid_sample(
        batch, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def _full_precision() -> Any:
    """float32 means float32: cuDNN would run convolutions in TF32 by default."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False, deterministic=True)
