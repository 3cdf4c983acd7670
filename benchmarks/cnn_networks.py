"""torchvision's classifiers by name: with weights from disk or without, and their features.

Nothing is ever downloaded. Weights are those of torch's own cache (TORCH_HOME), or of a file.
The features of a network are what its last layer sees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from clipsearch.encoder import Float32, UInt8

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet's photos, 0..1: what networks trained on them expect."""


class NetworkError(Exception):
    """A network that there is not, or weights that do not fit it, in one line."""


class Network:
    """A classifier of C classes on a device.

    net : the module, from (n, 3, side, side) normalised pixels to (n, C) logits.
    side : pixels of the square that it sees. loaded : whether it began with weights.
    """

    def __init__(self, name: str, net: nn.Module, side: int, device: str, loaded: bool) -> None:
        self.name, self.side, self.loaded = name, side, loaded
        self.device = torch.device(device)
        self.net = net.to(self.device, memory_format=torch.channels_last)
        self.head = _head(net)
        self._mean = torch.tensor(MEAN, device=self.device).view(1, 3, 1, 1) * 255
        self._spread = torch.tensor(SPREAD, device=self.device).view(1, 3, 1, 1) * 255

    @property
    def parameters(self) -> int:
        return sum(weights.numel() for weights in self.net.parameters())

    @property
    def normalises(self) -> bool:
        """Whether it has layers that keep what passes them in bounds; VGG and AlexNet do not."""
        return any("Norm" in type(part).__name__ for part in self.net.modules())

    @property
    def megabytes(self) -> float:
        """Of its weights as they are kept, float32."""
        kept = self.net.state_dict().values()
        return sum(part.numel() * part.element_size() for part in kept) / 1e6

    def normalised(self, pixels: torch.Tensor) -> torch.Tensor:
        """(n, 3, h, w) of 0..255 -> as the network wants them."""
        scaled = (pixels.float() - self._mean) / self._spread
        return scaled.contiguous(memory_format=torch.channels_last)

    def tensor(self, pixels: UInt8) -> torch.Tensor:
        """(n, h, w, 3) uint8 -> (n, 3, h, w) on the device."""
        rows = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        return rows.permute(0, 3, 1, 2)

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """Of normalised pixels; only the main ones of networks that have more than one kind."""
        found = self.net(pixels)
        return found if isinstance(found, torch.Tensor) else found.logits

    def features(self, pixels: UInt8, batch: int = 16) -> Float32:
        """(n, h, w, 3) pixels, of which the middle is taken -> (n, d) float32, what the last
        layer sees."""
        rows = [
            self._seen_by_head(self.tensor(pixels[start : start + batch]))
            for start in range(0, len(pixels), batch)
        ]
        return np.concatenate(rows)

    def _seen_by_head(self, pixels: torch.Tensor) -> Float32:
        seen: list[torch.Tensor] = []
        watch = self.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            self.net.eval()
            with torch.inference_mode():
                self.net(self.normalised(middle(pixels, self.side)))
        finally:
            watch.remove()
        found: Float32 = seen[0].float().cpu().numpy()
        return found

    def scores(self, features: Float32) -> Float32:
        """(n, d) features -> (n, C) float32 logits of the last layer."""
        with torch.inference_mode():
            found: Float32 = self.head(torch.from_numpy(features).to(self.device)).cpu().numpy()
        return found


def make_network(
    name: str,
    classes: int,
    side: int,
    *,
    weights: str = "none",
    device: str = "cpu",
    seed: int = 0,
) -> Network:
    """A network whose last layer is new.

    weights : "none" begins from nothing; "auto" takes ImageNet's where torch's cache has them;
    else the file of a state dict.
    Raises NetworkError.
    """
    torch.manual_seed(seed)
    found = _weights_file(name, weights)
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"init_weights": True, "aux_logits": False}
    if name.startswith(("vit_", "maxvit")):
        if name.startswith("maxvit"):
            options["input_size"] = (side, side)
        else:
            options["image_size"] = side
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise NetworkError(f"torchvision has no classifier {name!r}")
    try:
        net = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    except (TypeError, ValueError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise NetworkError(f"cannot make {name} for {side} pixels: {why}") from error
    if found is not None:
        _load(net, found)
    try:
        return Network(name, net, side, device, loaded=found is not None)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise NetworkError(f"cannot use the device {device!r}: {why}") from error


def middle(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """The middle square of (n, 3, h, w) pixels."""
    top, left = (pixels.shape[2] - side) // 2, (pixels.shape[3] - side) // 2
    return pixels[:, :, top : top + side, left : left + side]


def _weights_file(name: str, weights: str) -> Path | None:
    if weights == "none":
        return None
    if weights != "auto":
        if not Path(weights).is_file():
            raise NetworkError(f"there is no file {weights} with weights")
        return Path(weights)
    place = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        known = list(torchvision.models.get_model_weights(name))
    except ValueError:
        return None
    files = [place / kind.url.rsplit("/", 1)[-1] for kind in known]
    return next((file for file in files if file.is_file()), None)


def _load(net: nn.Module, file: Path) -> None:
    """All weights but those of the last layer, which is for other classes."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise NetworkError(
            f"cannot read weights from {file.name}: {type(error).__name__}"
        ) from error
    head = _head_name(net)
    own = net.state_dict()
    kept = {
        key: value
        for key, value in state.items()
        if not key.startswith((head + ".", "AuxLogits.", "aux1.", "aux2."))
    }
    missing = [key for key in own if not key.startswith(head + ".") and key not in kept]
    wrong = [key for key in kept if key not in own or kept[key].shape != own[key].shape]
    # Counters that old files have not.
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or wrong:
        raise NetworkError(f"{file.name} has other weights than {(missing + wrong)[0]!r} of it")
    net.load_state_dict(kept, strict=False)


def _head_name(net: nn.Module) -> str:
    linear = [name for name, part in net.named_modules() if isinstance(part, nn.Linear)]
    if not linear:
        raise NetworkError("expected a classifier whose last layer is linear, got one without any")
    return linear[-1]


def _head(net: nn.Module) -> nn.Linear:
    head = net.get_submodule(_head_name(net))
    assert isinstance(head, nn.Linear)
    return head
