"""Encoders compiled for a run, where its plan asks for that."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipsearch.encoder import Encoder
from clipsearch.errors import OptionError
from indexer.encode_plan import EncodePlan


def check_can_compile(backend: str) -> None:
    """Raise OptionError for a back-end that is no torch's."""
    if backend.startswith("onnx"):
        raise OptionError(
            f"--compile is for the torch back-ends, and this run encodes with {backend}: leave it "
            "out, or add --backend torch"
        )


def compiled_for(encoder: Encoder, plan: EncodePlan) -> Encoder:
    """``encoder``, compiled for the batches of ``plan`` if that says so; its recipe tells whether
    it came to that. It is compiled by the first batch, once in a process."""
    compiled = getattr(encoder, "compiled", None)
    if not plan.compile or compiled is None:
        return encoder
    view: Encoder = compiled(plan.batch_size)
    return view


def compile_ahead(encoder: Encoder, plan: EncodePlan) -> str | None:
    """Compile ``encoder`` for ``plan`` now, with a blank batch, as its streams will call it. Why
    that cannot be done, or None."""
    view: Any = compiled_for(encoder, plan)
    if view is encoder:
        return "this encoder has nothing to compile"
    geometry = encoder.space.geometry
    blank = np.zeros((plan.batch_size, geometry.height, geometry.width, 3), np.uint8)
    (view if plan.threads is None else view.with_threads(plan.threads)).encode_images(blank)
    error: str | None = view.compile_error
    return error
