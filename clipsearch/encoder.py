"""The encoder seam: what turns pixels and words into unit vectors of one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageGeometry:
    """The pixels an encoder wants.

    height, width : pixels of the final picture.
    resize_mode : "shortest" (short side to size, centre crop), "longest" (long side to size,
        padded with ``fill``) or "squash" (both sides to size).
    interpolation : "bicubic" or "bilinear".
    """

    height: int
    width: int
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill: int = 0


@dataclass(frozen=True)
class Space:
    """An embedding space: weights, architecture, tokenizer and preprocessing geometry.

    id : folder-safe name, a readable stem and the first 12 digits of ``fingerprint``.
    fingerprint : sha256 (hex) over everything that decides what a vector means.
    model : the name the encoder is loaded by ("mini", "ViT-B-32-256/datacomp_s34b_b86k",
        "hf-hub:org/name", or the absolute path of a model folder).
    dim : length of a vector. logit_scale, logit_bias : what turns a cosine into a logit.
    """

    id: str
    fingerprint: str
    model: str
    dim: int
    logit_scale: float
    logit_bias: float | None
    geometry: ImageGeometry


class Encoder(Protocol):
    """Turns pixels and words into float32 unit rows of ``space``. Safe to call from threads."""

    @property
    def space(self) -> Space: ...

    @property
    def recipe(self) -> dict[str, Any]:
        """How vectors are computed here: device, precision, back-end and their versions."""
        ...

    def encode_images(self, pixels: UInt8) -> Float32:
        """(n, height, width, 3) uint8 RGB -> (n, dim) float32 unit rows."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows."""
        ...

    def with_threads(self, threads: int) -> Encoder:
        """The same encoder, each of whose image calls computes on so many threads of a CPU.

        For a caller that encodes from several threads at once. Weights are shared. Raises
        ValueError below one thread.
        """
        ...


def load_encoder(
    model: str,
    *,
    device: str | None = None,
    allow_download: bool = False,
    backend: str = "torch",
) -> Encoder:
    """Load the encoder called ``model``.

    model : a preset ("fast", "balanced", "best", "multilingual", "mini"), an open_clip
        "MODEL/PRETRAINED" pair, "hf-hub:ORG/NAME", a well-known Hugging Face id, or a folder
        with ``open_clip_config.json`` and safetensors weights.
    device : "cpu", "cuda", "cuda:1", "mps"; None takes the fastest that is there.
    allow_download : False (the default) never touches a network.
    backend : one of ``clipsearch.backends.BACKENDS``, what computes the vectors of images. Texts
        are encoded alike by all of them.

    Raises UnknownModelError, ModelNotHereError, ModelLoadError, MissingExtraError, OptionError.
    """
    if backend in ("onnx", "onnx-int8"):
        from clipsearch.onnx_encoder import load_onnx_encoder

        return load_onnx_encoder(
            model, backend=backend, device=device, allow_download=allow_download
        )
    from clipsearch.backends import BACKENDS, TORCH_PRECISIONS
    from clipsearch.errors import OptionError

    if backend not in TORCH_PRECISIONS:
        raise OptionError(f"no back-end {backend!r}: expected one of {', '.join(BACKENDS)}")
    from clipsearch.open_clip_encoder import load_open_clip_encoder

    return load_open_clip_encoder(
        model, device=device, allow_download=allow_download, backend=backend
    )
