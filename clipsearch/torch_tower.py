"""The image tower of an open_clip model in torch, in the precision that is asked for.

The tower is cast outright. Autocast would cast weights anew at each call, which is slower than
float32 on a CPU. Pixels are normalised, and vectors made unit, in float32.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from clipsearch.device_queue import own_stream, to_device
from clipsearch.encoder import Float32, UInt8

PRECISIONS: dict[str, Any] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_setting = threading.Lock()
_precise = 0  # threads within ``full_precision``
_usual_tf32 = True


class TorchTower:
    """Pixels to unit vectors. Safe to call from threads.

    visual : open_clip's image tower, which is left as it is; the tower here is a copy on
        ``device`` in ``precision``, a key of ``PRECISIONS``.
    mean, std : (1, 3, 1, 1) float32, of pixels between 0 and 1.
    """

    def __init__(self, visual: Any, mean: Any, std: Any, device: Any, precision: str) -> None:
        self.device = device
        self.precision = precision
        self._dtype = PRECISIONS[precision]
        self._visual = copy.deepcopy(visual).to(device=device, dtype=self._dtype).eval()
        # Convolutions want the channels of a pixel beside each other; a ViT's one does not care.
        is_convolutional = convolutions(visual) > 1
        self._layout = torch.channels_last if is_convolutional else torch.contiguous_format
        self._visual = self._visual.to(memory_format=self._layout)
        self._mean, self._std = mean.to(device), std.to(device)

    def rows(self, pixels: UInt8, features: Any = None) -> Float32:
        """(n, height, width, 3) uint8 RGB -> (n, dim) float32 unit rows.

        features : what takes the place of ``features`` here, as when it is compiled.
        """
        with torch.inference_mode(), full_precision(self.device), own_stream(self.device):
            batch = normalised(pixels, self._mean, self._std)
            batch = batch.to(self._dtype, memory_format=self._layout)
            rows: Float32 = (features or self.features)(batch).cpu().numpy()
        return rows

    def features(self, batch: Any) -> Any:
        """(n, 3, height, width) normalised pixels in the tower's precision -> (n, dim) float32
        unit rows, both on its device."""
        features = self._visual(batch)
        if isinstance(features, tuple):  # a tower that gives its patches too
            features = features[0]
        return torch.nn.functional.normalize(features.float(), dim=-1)


def normalised(pixels: UInt8, mean: Any, std: Any) -> Any:
    """(n, height, width, 3) uint8 -> (n, 3, height, width) float32 on the device of ``mean``."""
    contiguous = np.ascontiguousarray(pixels)
    if mean.device.type == "cuda":
        # Through pinned memory, as one picture that is n times as high.
        (tall,) = to_device([contiguous.reshape(-1, *pixels.shape[2:])], mean.device)
        batch = tall.permute(1, 2, 0).view(pixels.shape)
    else:
        if not contiguous.flags.writeable:
            contiguous = contiguous.copy()  # torch warns about memory it may not write
        batch = torch.from_numpy(contiguous).to(mean.device)
    batch = batch.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return batch.div_(255).sub_(mean).div_(std)


def convolutions(visual: Any) -> int:
    """How many layers of a tower are convolutions: 1 of a ViT, dozens of a ResNet."""
    return sum(isinstance(layer, torch.nn.Conv2d) for layer in visual.modules())


@contextlib.contextmanager
def full_precision(device: Any) -> Iterator[None]:
    """float32 means float32: cuDNN would run convolutions in TF32 by default.

    The setting is the whole process's: it goes back when the last thread has left. (torch's own
    ``cudnn.flags`` goes back with the first one, and switches cuDNN off unless it is told not to.)
    """
    global _precise, _usual_tf32
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with _setting:
        if _precise == 0:
            _usual_tf32 = cudnn.allow_tf32
            cudnn.allow_tf32 = False
        _precise += 1
    try:
        yield
    finally:
        with _setting:
            _precise -= 1
            if _precise == 0:
                cudnn.allow_tf32 = _usual_tf32


def has_matrix_units() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in units of their own (AMX)."""
    query = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(query()) if query is not None else False


def native_half() -> str:
    """The half precision that the GPU here computes fastest: "bfloat16" where it has units for it,
    else "float16"."""
    has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_units else "float16"
