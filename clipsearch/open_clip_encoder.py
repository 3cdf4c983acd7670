"""Encoders of open_clip: the only module that imports torch.

A model is built from files that ``model_source`` found, with the hub switched off, so that
building it cannot touch a network whatever a config asks for.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import importlib.util
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipsearch.admissions import with_admission
from clipsearch.backends import TORCH_PRECISIONS
from clipsearch.compiled_tower import CompiledTower
from clipsearch.device_queue import own_stream
from clipsearch.encoder import Float32, ImageGeometry, Space, UInt8
from clipsearch.errors import (
    ClipsearchError,
    MissingExtraError,
    ModelLoadError,
    ModelNotHereError,
    OptionError,
)
from clipsearch.fingerprint import fingerprint
from clipsearch.model_names import file_stamp, folder_of, not_here_message, resolve_model_name
from clipsearch.model_source import (
    ModelSource,
    fetch_tokenizer,
    find_model,
    hub_off,
    is_missing_file,
    one_line,
)
from clipsearch.text_side import TextSide, text_side
from clipsearch.torch_start import compiler_on_demand, no_random_weights
from clipsearch.torch_threads import computing_threads
from clipsearch.torch_tower import TorchTower, full_precision, normalised

with compiler_on_demand():
    import open_clip
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

_TEXT_BATCH = 256

_loading = threading.RLock()
_loaded: dict[tuple[object, ...], OpenClipEncoder] = {}


class OpenClipEncoder:
    """An open_clip model as an ``Encoder``. Safe to call from threads.

    Compare spaces by ``space.fingerprint``, never by ``space.id``: the same model in a folder of
    another name has the same fingerprint and another readable stem.
    """

    def __init__(
        self, net: Any, tokenizer: Any, space: Space, device: torch.device, weights: Path
    ) -> None:
        self.weights = weights
        self._net = net
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()  # tokenizers written in Rust refuse two threads
        self._space = space
        self._device = device
        cfg = net.visual.preprocess_cfg
        self._mean = _per_channel(cfg["mean"], device)
        self._std = _per_channel(cfg["std"], device)
        self._threads: int | None = None  # None: as many as torch takes
        self._tower: TorchTower | None = None  # None: the network's own, in float32
        self._compiled: CompiledTower | None = None
        self._all_compiled: dict[tuple[int, Any], CompiledTower] = {}  # shared by all views

    @property
    def space(self) -> Space:
        return self._space

    @property
    def recipe(self) -> dict[str, Any]:
        """How vectors are computed here: back-end, device, precision and versions."""
        device = self._device if self._tower is None else self._tower.device
        name = str(device)
        if device.type == "cuda":
            name = f"{name} {torch.cuda.get_device_name(device)}"
        packages = ("open_clip_torch", "torch", "timm")
        recipe: dict[str, Any] = {
            "backend": "torch",
            "device": name,
            "precision": "float32" if self._tower is None else self._tower.precision,
            "versions": {package: version(package) for package in packages},
        }
        if self._compiled is not None and self._compiled.is_compiled:
            recipe["compile"] = True
        return with_admission(recipe, self._space.fingerprint)

    def encode_images(self, pixels: UInt8) -> Float32:
        """(n, height, width, 3) uint8 RGB of the space's geometry -> (n, dim) float32 unit rows.

        All n go through the model at once: the caller decides the batch. Raises ValueError for
        another shape or dtype.
        """
        geometry = self._space.geometry
        expected = (geometry.height, geometry.width, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ValueError(
                f"expected uint8 pixels of shape (n, {geometry.height}, {geometry.width}, 3), "
                f"got {pixels.dtype} {pixels.shape}"
            )
        if len(pixels) == 0:
            return np.empty((0, self._space.dim), dtype=np.float32)
        device = self._device if self._tower is None else self._tower.device
        threads = self._threads if device.type == "cpu" else None
        with computing_threads(threads):
            if self._compiled is not None:
                return self._compiled.rows(pixels)
            if self._tower is not None:
                return self._tower.rows(pixels)
            return self._float_rows(pixels, self._float_features)

    def _float_rows(self, pixels: UInt8, features: Any) -> Float32:
        with (
            torch.inference_mode(),
            full_precision(self._device),
            own_stream(self._device),
        ):
            return _rows(features(normalised(pixels, self._mean, self._std)))

    def _float_features(self, batch: Any) -> Any:
        return self._net.encode_image(batch, normalize=True)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows; what is too long for the model is cut."""
        if isinstance(texts, str):
            raise ValueError("expected a sequence of texts, got one text")
        rows = [np.empty((0, self._space.dim), dtype=np.float32)]
        for start in range(0, len(texts), _TEXT_BATCH):
            part = list(texts[start : start + _TEXT_BATCH])
            with self._tokenizing:
                tokens = self._tokenizer(part)
            with torch.inference_mode(), full_precision(self._device):
                rows.append(_rows(self._net.encode_text(tokens.to(self._device), normalize=True)))
        return np.concatenate(rows)

    def with_threads(self, threads: int) -> OpenClipEncoder:
        """The same encoder, each of whose image calls computes on so many threads of a CPU.

        It shares the network, so it costs nothing. Raises ValueError below one thread.
        """
        if threads < 1:
            raise ValueError(f"expected at least one thread, got {threads}")
        view = copy.copy(self)
        view._threads = threads
        return view

    def compiled(self, batch_size: int, backend: Any = "inductor") -> OpenClipEncoder:
        """The same encoder, whose image tower torch compiles for batches of ``batch_size``, by
        the first call; see ``CompiledTower``. Once for all that are made from one encoder."""
        view = copy.copy(self)
        with _loading:
            key = (batch_size, backend)
            if key not in self._all_compiled:
                tower = self._tower
                rows = self._float_rows if tower is None else tower.rows
                features = self._float_features if tower is None else tower.features
                self._all_compiled[key] = CompiledTower(rows, features, batch_size, backend)
            view._compiled = self._all_compiled[key]
        return view

    @property
    def compile_error(self) -> str | None:
        """Why torch could not compile the image tower, once it was tried."""
        return None if self._compiled is None else self._compiled.error

    def in_precision(self, precision: str, device: str | None = None) -> OpenClipEncoder:
        """The same encoder with a copy of its image tower in "bfloat16" or "float16" on
        ``device``; texts are encoded as here."""
        view = copy.copy(self)
        where = _pick_device(device)
        view._tower = TorchTower(self._net.visual, self._mean, self._std, where, precision)
        view._compiled, view._all_compiled = None, {}
        return view

    def text_side(self) -> TextSide | None:
        """What encodes texts here, for ``text_tower_export``; None where it is not the standard
        one."""
        return text_side(self._net, self._tokenizer)

    def image_parts(self) -> tuple[Any, Any, Any]:
        """The image tower in float32, not to be changed, and the mean and standard deviation
        (1, 3, 1, 1) that pixels between 0 and 1 are normalised with."""
        return self._net.visual, self._mean.clone(), self._std.clone()

    def parts(self) -> tuple[Any, Any]:
        """A copy of the open_clip network, for whoever means to change it, and the tokenizer."""
        return copy.deepcopy(self._net), self._tokenizer


def load_open_clip_encoder(
    model: str,
    *,
    device: str | None = None,
    allow_download: bool = False,
    cache_dir: Path | None = None,
    backend: str = "torch",
) -> OpenClipEncoder:
    """Load an encoder; arguments and errors are those of ``clipsearch.encoder.load_encoder``.

    backend : "torch", "torch-bf16" or "torch-fp16". In these the whole float32 network stays on
    the CPU, for texts, and only the image tower goes to the device.

    The process keeps one encoder per model, weights file and device. While a model is built
    (seconds) the Hugging Face hub is switched off in the whole process.

    cache_dir : where checksums of large weights files are kept; None takes the user's cache.
    """
    precision = TORCH_PRECISIONS[backend]
    if precision != "float32":
        where = _pick_device(device)
        with _loading:
            whole = load_open_clip_encoder(
                model, device="cpu", allow_download=allow_download, cache_dir=cache_dir
            )
            cast = (whole.space.fingerprint, str(whole.weights), str(where), precision)
            if cast not in _loaded:
                _loaded[cast] = whole.in_precision(precision, str(where))
            return _loaded[cast]
    name = resolve_model_name(model)
    where = _pick_device(device)
    with _loading:
        source = find_model(name, allow_download)
        stamp = file_stamp(source.weights)
        key = (source.model, *stamp, json.dumps(source.model_cfg, sort_keys=True), str(where))
        if key not in _loaded:
            _loaded[key] = _build(source, where, allow_download, cache_dir)
        return _loaded[key]


def fetch_model(model: str) -> Path:
    """Download a model if it is not here, load it, encode one picture and one text with it.

    Returns its weights file. Raises what ``load_encoder`` raises.
    """
    encoder = load_open_clip_encoder(model, device="cpu", allow_download=True)
    geometry = encoder.space.geometry
    grey = np.full((1, geometry.height, geometry.width, 3), 127, dtype=np.uint8)
    rows = np.concatenate([encoder.encode_images(grey), encoder.encode_texts(["a photo"])])
    if not np.isfinite(rows).all():
        raise ModelLoadError(
            f"{model!r} gives numbers that are not finite: its weights are damaged"
        )
    return encoder.weights


def _build(
    source: ModelSource, device: torch.device, allow_download: bool, cache_dir: Path | None
) -> OpenClipEncoder:
    text_cfg = source.model_cfg["text_cfg"]
    repos = {text_cfg.get(key) for key in ("hf_tokenizer_name", "hf_model_name")} - {None, ""}
    if repos and importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(
            f"{source.model!r} reads text with transformers, which is not installed: "
            f'pip install "clipsearch[multilingual]"'
        )
    try:
        return _assemble(source, device, cache_dir)
    except ModelNotHereError:
        if not allow_download:
            raise
    for repo in sorted(repos):
        fetch_tokenizer(source.model, repo)
    return _assemble(source, device, cache_dir)


def _assemble(source: ModelSource, device: torch.device, cache_dir: Path | None) -> OpenClipEncoder:
    """The encoder from files alone; ModelNotHereError if the tokenizer's are missing."""
    uses_hub_tokenizer = bool(source.model_cfg["text_cfg"].get("hf_tokenizer_name"))
    try:
        with _quiet(), hub_off():
            # The weights are loaded by a call of our own, so that the file that is loaded is the
            # file that was found and hashed; no tower may fetch weights of its own.
            with no_random_weights():  # every one is replaced by the next call, or that raises
                net = open_clip.create_model(
                    source.open_clip_name,
                    load_weights=False,
                    pretrained_image=False,
                    pretrained_text=False,
                    force_quick_gelu=source.quick_gelu,
                    force_preprocess_cfg=source.preprocess,
                )
            open_clip.load_checkpoint(net, str(source.weights), weights_only=True)
            tokenizer = open_clip.get_tokenizer(source.tokenizer_name)
            net = net.to(device).eval().requires_grad_(False)
            space = _describe(source, net, tokenizer, cache_dir)
    except (ClipsearchError, MemoryError):
        raise
    except Exception as error:
        if folder_of(source.model) is None and is_missing_file(error):
            raise ModelNotHereError(not_here_message(source.model)) from error
        parts = (
            f"{source.weights.name} and its tokenizer"
            if uses_hub_tokenizer
            else source.weights.name
        )
        raise ModelLoadError(
            f"cannot load {source.model!r} from {parts}: {one_line(error)}"
        ) from error
    return OpenClipEncoder(net, tokenizer, space, device, source.weights)


def _describe(source: ModelSource, net: Any, tokenizer: Any, cache_dir: Path | None) -> Space:
    cfg = net.visual.preprocess_cfg
    size = cfg["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    geometry = ImageGeometry(
        height=height,
        width=width,
        resize_mode=cfg["resize_mode"] or "shortest",
        interpolation="bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
        fill=int(cfg["fill_color"]),
    )
    sign = fingerprint(
        source,
        geometry,
        _three(cfg["mean"]),
        _three(cfg["std"]),
        tokenizer,
        {
            "vision_cfg": dataclasses.asdict(CLIPVisionCfg()),
            "text_cfg": dataclasses.asdict(CLIPTextCfg()),
        },
        cache_dir,
    )
    bias = getattr(net, "logit_bias", None)
    return Space(
        id=f"{source.slug}-{sign[:12]}",
        fingerprint=sign,
        model=source.model,
        dim=int(source.model_cfg["embed_dim"]),
        logit_scale=float(net.logit_scale.detach().exp().cpu()),
        logit_bias=None if bias is None else float(bias.detach().cpu()),
        geometry=geometry,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's remarks off a user's terminal.

    It logs to the root logger, and its first remark would give the root a handler on stderr.
    """
    root = logging.getLogger()
    silent = logging.NullHandler()

    def foreign(record: logging.LogRecord) -> bool:
        return f"{os.sep}open_clip{os.sep}" not in record.pathname

    root.addHandler(silent)
    root.addFilter(foreign)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(foreign)
        root.removeHandler(silent)


def devices() -> list[str]:
    """What can compute here, the fastest first: "cuda:0", "mps", "cpu"."""
    mps = torch.backends.mps.is_available()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [*(f"cuda:{i}" for i in range(count)), *(["mps"] if mps else []), "cpu"]


def _pick_device(device: str | None) -> torch.device:
    there = devices()
    if device is None:
        return torch.device(there[0])
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in there:
        raise OptionError(f"no device {device!r} here: expected one of {', '.join(there)}")
    return torch.device(wanted)


def _per_channel(values: Any, device: torch.device) -> Any:
    return torch.tensor(_three(values), dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _three(values: Any) -> list[float]:
    if isinstance(values, int | float):
        return [float(values)] * 3
    return [float(value) for value in values]


def _rows(tensor: Any) -> Float32:
    rows: Float32 = tensor.float().cpu().numpy()
    return rows
