"""A training kept in a file from time to time, so that an interruption costs little of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from indexer.tensor_file import save_tensors


class Checkpoint:
    """The file, and what the training depends on.

    key : what is trained, on what, and how; a file with another key is of no use and is written
    over. seconds : at the most, it is written so often. share : at the most, so much of the time
    goes into writing: a large model takes long to write.
    """

    def __init__(self, path: Path, key: str, seconds: float = 60.0, share: float = 0.05) -> None:
        self._path = path
        self._key = key
        self._seconds = seconds
        self._share = share
        self._kept_at = time.monotonic()

    def load(self, weights: Mapping[str, Any], optimiser: Any) -> int:
        """Put what is kept into the tensors ``weights``, and what the optimiser remembers of each;
        returns how many steps were made, 0 where nothing fitting is kept."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path, framework="pt") as file:
                about = file.metadata() or {}
                if about.get("key") != self._key:
                    return 0
                step = int(about["step"])
                kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, KeyError):
            return 0
        if not {f"weight {name}" for name in weights} <= set(kept):
            return 0
        for name, tensor in weights.items():
            tensor.data.copy_(kept.pop(f"weight {name}"))
        for name, remembered in kept.items():
            part, of = name.split(" ", 1)
            where = remembered if part == "step" else remembered.to(weights[of].device)
            optimiser.state[weights[of]][part] = where
        return step

    def keep(self, step: int, steps: int, weights: Mapping[str, Any], optimiser: Any) -> None:
        """Write the file if it is time to, or the training has ended."""
        began = time.monotonic()
        if step < steps and began - self._kept_at < self._seconds:
            return
        kept = {}
        for name, tensor in weights.items():
            kept[f"weight {name}"] = tensor.detach().cpu().clone().contiguous()
            for part, remembered in optimiser.state.get(tensor, {}).items():
                kept[f"{part} {name}"] = remembered.detach().cpu().clone().contiguous()
        save_tensors(kept, self._path, {"key": self._key, "step": str(step)})
        self._kept_at = time.monotonic()
        took = self._kept_at - began
        self._seconds = max(self._seconds, took / self._share - took)
