"""The back-ends that encode images, and when their vectors count as those of the reference.

Vectors of one space mix in an index whatever computed them. So a back-end other than the
reference counts only after it was *admitted*: its vectors of real images were compared with
those of the reference, and are as near as a bar asks. What was measured goes into the recipe of
every shard that it encodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from clipsearch.errors import OptionError

REFERENCE = "torch"
"""float32 in torch: what the others are compared with."""

BACKENDS = ("torch", "torch-bf16", "torch-fp16", "onnx", "onnx-int8")
"""What can encode images: torch in three precisions, ONNX Runtime in two."""

AUTO = "auto"
"""Whichever of them suits the machine and the run."""

ONLY_ASKED_FOR = ("onnx-int8",)
"""What ``auto`` never takes, however near it is to the reference."""

BACKEND_CHOICES = (AUTO, *BACKENDS)
"""What ``--backend`` takes."""

TORCH_PRECISIONS = {"torch": "float32", "torch-bf16": "bfloat16", "torch-fp16": "float16"}
ONNX_PRECISIONS = {"onnx": "float32", "onnx-int8": "int8"}

_BY_RECIPE = {
    **{("torch", precision): name for name, precision in TORCH_PRECISIONS.items()},
    **{("onnxruntime", precision): name for name, precision in ONNX_PRECISIONS.items()},
    ("open_clip", "float32"): REFERENCE,  # what shards of older versions say
}

STRICT = "strict"
"""The vectors are the reference's for every purpose: ``auto`` may take such a back-end."""
CLOSE = "close"
"""The vectors are near the reference's, and may be asked for by name."""


@dataclass(frozen=True)
class Bar:
    """What a back-end's vectors have to reach: their mean and lowest cosine to the reference's,
    and how often both find the same background word nearest."""

    mean_cosine: float
    min_cosine: float
    top1: float


BARS = {STRICT: Bar(0.9995, 0.998, 0.95), CLOSE: Bar(0.99, 0.97, 0.85)}
"""Each level's bar, the highest first."""

LEAST_IMAGES = 8
"""Fewer images say nothing of a back-end."""


@dataclass(frozen=True)
class Admission:
    """How near a back-end's vectors of real images are to the reference's.

    images : how many were compared. top1 : the share of them whose nearest background word is
    the same. versions : of what computed both. processor : what they were computed on.
    """

    mean_cosine: float
    min_cosine: float
    top1: float
    images: int
    versions: Mapping[str, str] = field(default_factory=dict)
    processor: str = ""

    @property
    def level(self) -> str | None:
        """The highest bar that these numbers reach; None below all of them."""
        if not self.images >= LEAST_IMAGES:
            return None
        for name, bar in BARS.items():
            if (
                self.mean_cosine >= bar.mean_cosine
                and self.min_cosine >= bar.min_cosine
                and self.top1 >= bar.top1
            ):
                return name
        return None

    @property
    def text(self) -> str:
        """What was measured, in words."""
        return (
            f"cosine {self.mean_cosine:.5f} to the reference over {self.images} images (lowest "
            f"{self.min_cosine:.5f}), the same nearest word for {self.top1:.0%}"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON keeps it."""
        return {**asdict(self), "versions": dict(self.versions)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Admission:
        """The reverse of ``to_dict``. Raises KeyError, TypeError and ValueError."""
        return cls(
            mean_cosine=float(document["mean_cosine"]),
            min_cosine=float(document["min_cosine"]),
            top1=float(document["top1"]),
            images=int(document["images"]),
            versions=dict(document.get("versions", {})),
            processor=str(document.get("processor", "")),
        )


def check_backend_name(name: str) -> None:
    """Raises OptionError for what is no back-end's name, nor "auto"."""
    if name not in BACKEND_CHOICES:
        raise OptionError(f"backend is one of {', '.join(BACKEND_CHOICES)}, got {name!r}")


def backend_of(recipe: Mapping[str, Any]) -> str | None:
    """The back-end that a shard's recipe tells of; None for none that is known."""
    return _BY_RECIPE.get((str(recipe.get("backend")), str(recipe.get("precision"))))


def admission_of(recipe: Mapping[str, Any]) -> Admission | None:
    """The admission in a shard's recipe; None where there is none, or none that can be read."""
    try:
        return Admission.from_dict(recipe["admission"])
    except (KeyError, TypeError, ValueError):
        return None


def why_not(recipe: Mapping[str, Any]) -> str | None:
    """Why vectors of this recipe may not join those of an index, in half a line; None if they
    may. Imported vectors were held against the model by the import itself, and of a shard that
    was computed in two goes each part was looked at when it came."""
    if "imported" in recipe:
        return None
    several = recipe.get("backends")  # of a shard that was computed in two goes
    if several is not None:
        unknown = sorted(set(map(str, several)) - set(BACKENDS))
        return f"no back-end is called {unknown[0]!r}" if unknown else None
    name = backend_of(recipe)
    if name is None:
        return f"no back-end computes as its recipe says ({recipe.get('backend')!r})"
    if name == REFERENCE:
        return None
    admission = admission_of(recipe)
    if admission is None:
        return f"{name} was not compared with the reference"
    if admission.level is None:
        return f"{name} is too far from the reference: {admission.text}"
    return None
