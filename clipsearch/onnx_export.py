"""An image tower written as ONNX: uint8 pixels in, float32 unit rows out.

The preprocessing that comes after resizing is part of the network, so what runs it needs no
other numbers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipsearch.errors import MissingExtraError, ModelLoadError
from clipsearch.model_source import hub_off, one_line

INPUT, OUTPUT = "pixels", "vectors"
INSTALL = (
    "ONNX Runtime needs an extra: pip install 'clipsearch[onnx]'; without it, use --backend auto"
)


def export_tower(encoder: Any, path: Path) -> None:
    """Write the image tower of an ``OpenClipEncoder`` on the CPU to ``path``, its weights beside
    it as ``path`` + ".data".

    Takes about ten seconds. Raises MissingExtraError, ModelLoadError for a tower that cannot be
    written so, OSError.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 (what torch writes with)
    except ImportError:
        raise MissingExtraError(INSTALL) from None
    import torch

    geometry = encoder.space.geometry
    shape = (2, geometry.height, geometry.width, 3)  # two: of one, torch would make a constant
    try:
        with _quiet(), hub_off():
            program = torch.onnx.export(
                _module(encoder),
                (torch.zeros(shape, dtype=torch.uint8),),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes={INPUT: {0: torch.export.Dim("n", min=1)}},
                verbose=False,
            )
            assert program is not None
            proto = program.model_proto
            # Shapes of what the exporter folded are left behind, and the quantiser stumbles.
            del proto.graph.value_info[:]
            onnx.save(
                proto,
                str(path),
                save_as_external_data=True,
                location=f"{path.name}.data",
                size_threshold=1024,
            )
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise ModelLoadError(
            f"cannot write the image tower of {encoder.space.model!r} as ONNX: {one_line(error)}"
        ) from error


def quantise_tower(source: Path, target: Path, has_large_weights: bool) -> None:
    """Write the network at ``source`` with the weights of its products in int8, a scale for each
    column; what flows between them is quantised as it comes. Raises as ``export_tower``."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError:
        raise MissingExtraError(INSTALL) from None
    try:
        with _quiet():
            quantize_dynamic(
                str(source),
                str(target),
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=True,
                use_external_data_format=has_large_weights,
            )
    except (MemoryError, OSError):
        raise
    except Exception as error:
        raise ModelLoadError(f"cannot quantise {source.name}: {one_line(error)}") from error


def _module(encoder: Any) -> Any:
    import torch

    class Tower(torch.nn.Module):  # type: ignore[misc]
        """Pixels as they are decoded, to unit rows."""

        def __init__(self) -> None:
            super().__init__()
            self.visual, mean, std = encoder.image_parts()
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

        def forward(self, pixels: Any) -> Any:
            batch = pixels.permute(0, 3, 1, 2).to(torch.float32) / 255
            features = self.visual((batch - self.mean) / self.std)
            if isinstance(features, tuple):
                features = features[0]
            return torch.nn.functional.normalize(features, dim=-1)

    return Tower().eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the remarks of the exporter and the quantiser off a user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
