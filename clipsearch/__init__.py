"""clipsearch: search, sort and name a collection of images with words.

>>> from clipsearch import open_index
>>> index = open_index("photos.index")
>>> for hit in index.search("two parrots on a branch", k=5):
...     print(f"{hit.score:.3f} {hit.path}")

Importing this package loads neither torch, faiss nor gradio; they come when first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from clipsearch.clusters import Cluster, Discovery
    from clipsearch.encoder import Encoder, ImageGeometry, Space, load_encoder
    from clipsearch.errors import ClipsearchError
    from clipsearch.image_index import ImageIndex, open_index
    from clipsearch.image_labels import ImageLabels, LabelProbability, label_images
    from clipsearch.query import Query
    from clipsearch.records import Classification, Hit, Hits, IndexStatus, LabelSummary

_HOME = {
    "Classification": "clipsearch.records",
    "ClipsearchError": "clipsearch.errors",
    "Cluster": "clipsearch.clusters",
    "Discovery": "clipsearch.clusters",
    "Encoder": "clipsearch.encoder",
    "Hit": "clipsearch.records",
    "Hits": "clipsearch.records",
    "ImageGeometry": "clipsearch.encoder",
    "ImageIndex": "clipsearch.image_index",
    "ImageLabels": "clipsearch.image_labels",
    "IndexStatus": "clipsearch.records",
    "LabelProbability": "clipsearch.image_labels",
    "LabelSummary": "clipsearch.records",
    "Query": "clipsearch.query",
    "Space": "clipsearch.encoder",
    "label_images": "clipsearch.image_labels",
    "load_encoder": "clipsearch.encoder",
    "open_index": "clipsearch.image_index",
}

__all__ = [
    "Classification",
    "ClipsearchError",
    "Cluster",
    "Discovery",
    "Encoder",
    "Hit",
    "Hits",
    "ImageGeometry",
    "ImageIndex",
    "ImageLabels",
    "IndexStatus",
    "LabelProbability",
    "LabelSummary",
    "Query",
    "Space",
    "label_images",
    "load_encoder",
    "open_index",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clipsearch' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
