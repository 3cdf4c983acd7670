"""Encoders whose images go through ONNX Runtime: the only module that imports it.

The network is one of ``onnx_files``, so that a run whose tower is in the cache does without
torch. Texts are encoded as ever: by the text tower there is, else by torch.
"""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch.admissions import with_admission
from clipsearch.backends import ONNX_PRECISIONS
from clipsearch.encoder import Encoder, Float32, Space, UInt8
from clipsearch.errors import MissingExtraError, ModelLoadError, OptionError
from clipsearch.model_names import resolve_model_name
from clipsearch.model_source import one_line
from clipsearch.onnx_export import INPUT, INSTALL, OUTPUT, export_tower, quantise_tower
from clipsearch.onnx_files import (
    NETWORK,
    OnnxTower,
    find_tower,
    is_current,
    model_files,
    probe_pixels,
    write_tower,
)

_SAME_PROBE = 0.9999  # the same network; another processor rounds otherwise
_FLOAT_PROBE = 0.99  # what an export has to reach before real images are asked
_LARGE = 1_800_000_000  # bytes; a file of ONNX ends at two gigabytes

_loading = threading.RLock()
_loaded: dict[tuple[object, ...], OnnxEncoder] = {}
_unkept: dict[tuple[object, ...], OnnxTower] = {}  # those that the cache has no place for


class OnnxEncoder:
    """An image tower in ONNX Runtime as an ``Encoder``. Safe to call from threads."""

    def __init__(self, tower: OnnxTower, precision: str, threads: int | None = None) -> None:
        self.tower = tower
        self.weights = Path(tower.files[0][0])
        self._space = tower.space
        self._precision = precision
        self._session = open_session(tower.network, threads)
        self._views: dict[int, Any] = {}  # sessions by their threads, shared by all views
        self._opening = threading.Lock()

    @property
    def space(self) -> Space:
        return self._space

    @property
    def recipe(self) -> dict[str, Any]:
        """How vectors are computed here: back-end, device, precision and versions."""
        packages = ("onnxruntime", "open_clip_torch")
        recipe = {
            "backend": "onnxruntime",
            "device": "cpu",
            "precision": self._precision,
            "versions": {package: version(package) for package in packages},
        }
        return with_admission(recipe, self._space.fingerprint)

    def encode_images(self, pixels: UInt8) -> Float32:
        """(n, height, width, 3) uint8 RGB of the space's geometry -> (n, dim) float32 unit rows.

        Raises ValueError for another shape or dtype.
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
        return _run(self._session, pixels)

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows."""
        from clipsearch.text_tower_files import open_text_tower

        tower = open_text_tower(self._space)
        return (tower or self.reference()).encode_texts(texts)

    def with_threads(self, threads: int) -> OnnxEncoder:
        """The same encoder with so many threads for each call. Raises ValueError below one."""
        if threads < 1:
            raise ValueError(f"expected at least one thread, got {threads}")
        with self._opening:
            if threads not in self._views:
                self._views[threads] = open_session(self.tower.network, threads)
        view = copy.copy(self)
        view._session = self._views[threads]
        return view

    def reference(self) -> Encoder:
        """The float32 encoder in torch of the same space, loaded when it is asked for."""
        from clipsearch.open_clip_encoder import load_open_clip_encoder

        return load_open_clip_encoder(self._space.model, device="cpu")

    def text_side(self) -> Any:
        """As of the reference, for ``text_tower_export``."""
        side: Any = getattr(self.reference(), "text_side", None)
        return side() if side is not None else None


def load_onnx_encoder(
    model: str,
    *,
    backend: str = "onnx",
    device: str | None = None,
    allow_download: bool = False,
    cache_dir: Path | None = None,
) -> OnnxEncoder:
    """Load an encoder whose images go through ONNX Runtime; what is not in the cache is made.

    backend : "onnx" or "onnx-int8". Arguments and errors are those of ``load_encoder``. Where
    the cache cannot be written, the network lives as long as the process.
    """
    if device not in (None, "cpu"):
        raise OptionError(f"{backend} computes on the CPU, not on {device!r}: leave --device out")
    precision = ONNX_PRECISIONS[backend]
    with _loading:
        name = resolve_model_name(model)
        tower = find_tower(name, precision, cache_dir)
        if tower is None:
            tower = _unkept_tower(name, precision, cache_dir)
        if tower is None:  # torch knows best what a name means, and is needed anyway
            from clipsearch.open_clip_encoder import load_open_clip_encoder

            reference = load_open_clip_encoder(
                model, device="cpu", allow_download=allow_download, cache_dir=cache_dir
            )
            tower = find_tower(reference.space.model, precision, cache_dir)
            if tower is None or tower.space != reference.space:
                tower = _make(reference, precision, cache_dir)
        key = (tower.space.fingerprint, tower.space.model, tower.files, precision)
        if key not in _loaded:
            encoder = _sound(tower, precision)
            if encoder is None:  # damaged: once more, from the weights
                from clipsearch.open_clip_encoder import load_open_clip_encoder

                reference = load_open_clip_encoder(
                    model, device="cpu", allow_download=allow_download, cache_dir=cache_dir
                )
                tower = _make(reference, precision, cache_dir)
                encoder = _sound(tower, precision)
            if encoder is None:
                raise ModelLoadError(
                    f"ONNX Runtime does not give the vectors of {name!r} that torch gives: "
                    "use --backend torch"
                )
            _loaded[key] = encoder
        return _loaded[key]


def _unkept_tower(name: str, precision: str, cache_dir: Path | None) -> OnnxTower | None:
    """One that this process made before and could not keep, if it still is the model's."""
    tower = _unkept.get((name, precision, cache_dir))
    return tower if tower is not None and is_current(tower) else None


def _sound(tower: OnnxTower, precision: str) -> OnnxEncoder | None:
    """An encoder of the tower, if its probe still has the vector it had."""
    try:
        encoder = OnnxEncoder(tower, precision)
        again = encoder.encode_images(probe_pixels(tower.space.geometry))[0]
    except MissingExtraError:
        raise
    except Exception:  # whatever a damaged file brings about
        return None
    return encoder if float(again @ tower.probe) >= _SAME_PROBE else None


def _make(reference: Any, precision: str, cache_dir: Path | None) -> OnnxTower:
    space, files = reference.space, model_files(reference.space, reference.weights)
    size = reference.weights.stat().st_size

    def make(folder: Path) -> Float32:
        network = folder / NETWORK
        if precision == "float32":
            export_tower(reference, network)
        else:
            with tempfile.TemporaryDirectory(dir=folder, prefix="float32-") as between:
                source = Path(between) / NETWORK
                # The float32 network is made anew: to keep both would double the disk.
                export_tower(reference, source)
                data = source.with_name(f"{NETWORK}.data")
                large = data.exists() and data.stat().st_size > _LARGE
                quantise_tower(source, network, large)
        probe = probe_pixels(space.geometry)
        rows: Float32 = _run(open_session(network, None), probe)[0]
        expected = reference.encode_images(probe)[0]
        if precision == "float32" and not float(rows @ expected) >= _FLOAT_PROBE:
            raise ModelLoadError(
                f"ONNX Runtime does not give the vectors of {space.model!r} that torch gives: "
                "use --backend torch"
            )
        return rows

    try:
        return write_tower(space, precision, files, 3 * size, make, cache_dir)
    except OSError:
        own = Path(tempfile.mkdtemp(prefix="clipsearch-onnx-"))
        import atexit

        atexit.register(shutil.rmtree, own, ignore_errors=True)
        try:
            tower = write_tower(space, precision, files, 3 * size, make, own)
        except OSError as error:
            raise ModelLoadError(
                f"the network of {space.model!r} as ONNX finds no place, neither in the cache nor "
                f"in {own.parent}: {one_line(error)}; use --backend torch"
            ) from error
        _unkept[space.model, precision, cache_dir] = tower
        return tower


def open_session(network: Path, threads: int | None) -> Any:
    """A session of ONNX Runtime. threads : within a call; None for every processor.

    Raises MissingExtraError.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError(INSTALL) from None
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.inter_op_num_threads = 1
    if threads is not None:
        options.intra_op_num_threads = threads
    else:
        from clipsearch.threads import worker_count

        options.intra_op_num_threads = worker_count()
    # Threads that spin while they wait keep the processors from those that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(network), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelLoadError(f"ONNX Runtime cannot read {network}: {one_line(error)}") from error


def _run(session: Any, pixels: UInt8) -> Float32:
    rows: Float32 = session.run([OUTPUT], {INPUT: np.ascontiguousarray(pixels)})[0]
    return rows
