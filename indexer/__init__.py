"""The offline indexer: folders of images in, shards of embeddings out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexer.build import build_index
    from indexer.config import IndexConfig
    from indexer.fine_tuning import fine_tune
    from indexer.fine_tuning_records import FineTuned, FineTuning
    from indexer.report import BuildReport

__all__ = ["BuildReport", "FineTuned", "FineTuning", "IndexConfig", "build_index", "fine_tune"]

_HOME = {
    "BuildReport": "indexer.report",
    "FineTuned": "indexer.fine_tuning_records",
    "FineTuning": "indexer.fine_tuning_records",
    "IndexConfig": "indexer.config",
    "build_index": "indexer.build",
    "fine_tune": "indexer.fine_tuning",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'indexer' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
