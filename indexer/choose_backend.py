"""Which back-end a run encodes with: the one that was asked for, or the best that is sure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipsearch.backend_memory import fastest_backend
from clipsearch.backends import (
    AUTO,
    ONLY_ASKED_FOR,
    ONNX_PRECISIONS,
    REFERENCE,
    STRICT,
    Admission,
    backend_of,
)
from clipsearch.encoder import Encoder, load_encoder
from clipsearch.errors import MissingExtraError, ModelLoadError, OptionError
from indexer.admission import SAMPLE_IMAGES, Sample, admit, known_admission
from indexer.report import BackendPreparing

WORTH_SECONDS = 60.0
"""A run that the reference takes longer for pays for the comparison of another back-end."""
WORTH_IMAGES_ON_GPU = 2000
"""The same beside a GPU, where the reference itself would have to be loaded twice."""
_TIMED_IMAGES = 4


Tell = Callable[[BackendPreparing], object]


def _nobody(event: BackendPreparing) -> None:
    """For who does not listen."""


@dataclass(frozen=True)
class ChosenBackend:
    """The encoder to use, the name of its back-end, and a line for people where it is not the
    reference, else ""."""

    encoder: Encoder
    name: str
    line: str = ""


def choose_backend(
    asked: str,
    model: str,
    sample: Sample,
    images: int,
    *,
    device: str | None = None,
    allow_download: bool = False,
    cache_dir: Path | None = None,
    tell: Tell = _nobody,
    begun_with: str | None = None,
) -> ChosenBackend:
    """Load the encoder of ``model`` with the back-end ``asked`` for, admitted.

    asked : a name of ``BACKEND_CHOICES``. sample : pixels of the run's photos. images : how many
    the run encodes. "auto" takes what was measured fastest on this machine, and else a half
    precision that the hardware computes natively, if its admission is strict; never int8.
    begun_with : what a run that was cut short encoded with, which "auto" goes on with.
    tell : hears of what takes a while before it begins.

    Raises OptionError for a back-end asked for by name that is too far from the reference, and
    the errors of ``load_encoder``.
    """
    if asked != AUTO:
        return _by_name(asked, model, sample, device, allow_download, cache_dir, tell)
    remembered = begun_with or fastest_backend(model, device, cache_dir)
    if remembered == REFERENCE:  # nothing else was faster, or near enough
        encoder = load_encoder(model, device=device, allow_download=allow_download)
        return ChosenBackend(encoder, REFERENCE)
    if remembered is not None and remembered not in ONLY_ASKED_FOR:
        found = _strictly(remembered, model, sample, device, allow_download, cache_dir, tell)
        if found is not None:
            return found
    if _best_device(device).startswith("cuda"):
        return _on_cuda(model, sample, images, device, allow_download, cache_dir, tell)
    reference = load_encoder(model, device=device, allow_download=allow_download)
    if str(reference.recipe["device"]) != "cpu" or not _has_matrix_units():
        return ChosenBackend(reference, REFERENCE)
    # Also where it is admitted already: what a few new photos get must not depend on what else
    # this machine has encoded.
    if not _takes_longer(reference, images):
        return ChosenBackend(reference, REFERENCE)
    found = _strictly("torch-bf16", model, sample, device, False, cache_dir, tell)
    return found or ChosenBackend(reference, REFERENCE)


def _by_name(
    name: str,
    model: str,
    sample: Sample,
    device: str | None,
    allow_download: bool,
    cache_dir: Path | None,
    tell: Tell,
) -> ChosenBackend:
    _announce_export(name, model, cache_dir, tell)
    encoder = load_encoder(model, device=device, allow_download=allow_download, backend=name)
    if name == REFERENCE:
        return ChosenBackend(encoder, name)
    admission = _admitted(encoder, name, model, sample, cache_dir, tell)
    if admission.level is None:
        raise OptionError(
            f"{name} is refused for {model}, too far from the reference: {admission.text}; use "
            f"--backend {REFERENCE} or auto"
        )
    return ChosenBackend(encoder, name, _line(name, admission))


def _strictly(
    name: str,
    model: str,
    sample: Sample,
    device: str | None,
    allow_download: bool,
    cache_dir: Path | None,
    tell: Tell,
) -> ChosenBackend | None:
    """The back-end, if nobody could tell its vectors from the reference's."""
    try:
        _announce_export(name, model, cache_dir, tell)
        encoder = load_encoder(model, device=device, allow_download=allow_download, backend=name)
    except (OptionError, MissingExtraError, ModelLoadError):  # not on this device, or not any more
        return None
    admission = _admitted(encoder, name, model, sample, cache_dir, tell)
    if admission.level != STRICT:
        return None
    return ChosenBackend(encoder, name, _line(name, admission))


def _on_cuda(
    model: str,
    sample: Sample,
    images: int,
    device: str | None,
    allow_download: bool,
    cache_dir: Path | None,
    tell: Tell,
) -> ChosenBackend:
    from clipsearch.torch_tower import native_half

    name = "torch-bf16" if native_half() == "bfloat16" else "torch-fp16"
    encoder = load_encoder(model, device=device, allow_download=allow_download, backend=name)
    if images >= WORTH_IMAGES_ON_GPU or known_admission(encoder, name, cache_dir) is not None:
        found = _strictly(name, model, sample, device, allow_download, cache_dir, tell)
        if found is not None:
            return found
    del encoder
    return ChosenBackend(load_encoder(model, device=device), REFERENCE)


def _announce_export(name: str, model: str, cache_dir: Path | None, tell: Tell) -> None:
    if name not in ONNX_PRECISIONS:
        return
    from clipsearch.model_names import resolve_model_name
    from clipsearch.onnx_files import find_tower

    if find_tower(resolve_model_name(model), ONNX_PRECISIONS[name], cache_dir) is None:
        line = f"Making the network of {name} from the model's weights, once: half a minute or so."
        tell(BackendPreparing(name, line))


def _admitted(
    encoder: Encoder,
    name: str,
    model: str,
    sample: Sample,
    cache_dir: Path | None,
    tell: Tell,
) -> Admission:
    if known_admission(encoder, name, cache_dir) is None:
        tell(BackendPreparing(name, f"Comparing {name} with {REFERENCE} on some photos, once."))
    return admit(encoder, name, lambda: _reference_of(encoder, model), sample, cache_dir)


def _reference_of(encoder: Encoder, model: str) -> Encoder:
    """The float32 encoder to compare with: on the same device as the one that is compared, and
    there only as long as it is needed."""
    device = str(encoder.recipe["device"]).split(" ")[0]
    whole = load_encoder(model, device="cpu")
    in_precision = getattr(whole, "in_precision", None)
    if device == "cpu" or in_precision is None:
        return whole
    there: Encoder = in_precision("float32", device)
    return there


def _line(name: str, admission: Admission) -> str:
    return (
        f"Encoding with {name}: cosine {admission.mean_cosine:.5f} to the reference over "
        f"{admission.images} images."
    )


def _takes_longer(reference: Encoder, images: int) -> bool:
    """Whether the reference takes longer for so many images than a comparison is worth."""
    if images <= 2 * SAMPLE_IMAGES:  # the comparison would be most of the run
        return False
    geometry = reference.space.geometry
    pixels = np.zeros((_TIMED_IMAGES, geometry.height, geometry.width, 3), np.uint8)
    reference.encode_images(pixels)
    begin = time.perf_counter()
    reference.encode_images(pixels)
    each = (time.perf_counter() - begin) / len(pixels)
    return each * images > WORTH_SECONDS


def _best_device(device: str | None) -> str:
    if device is not None:
        return device
    from clipsearch.open_clip_encoder import devices

    return devices()[0]


def _has_matrix_units() -> bool:
    from clipsearch.torch_tower import has_matrix_units

    return has_matrix_units()


def backend_name(encoder: Encoder) -> str:
    """The name of the back-end of a loaded encoder."""
    return backend_of(encoder.recipe) or REFERENCE
