"""The fingerprint of an embedding space: everything that decides what a vector means."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipsearch.encoder import ImageGeometry
from clipsearch.model_names import file_stamp
from clipsearch.model_source import ModelSource

_HASH_IS_QUICK = 64 * 2**20  # bytes; below this a stored checksum saves less than it costs
_PROBE_TEXTS = ["a photo of a dog.", "Zwei Hunde im Schnee", "deux chats, trois oiseaux", "犬と猫"]
_NOT_MEANING = {  # config keys that do not change what a vector means
    "custom_text",
    "hf_model_name",
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "init_logit_bias",
    "init_logit_scale",
    "output_dict",
    "patch_dropout",
    "timm_drop",
    "timm_drop_path",
    "timm_model_pretrained",
    "tokenizer_kwargs",
    "tokenizer_mode",
}


def fingerprint(
    source: ModelSource,
    geometry: ImageGeometry,
    mean: list[float],
    std: list[float],
    tokenizer: Any,
    defaults: Mapping[str, Mapping[str, Any]],
    cache_dir: Path | None,
) -> str:
    """sha256 (hex) over weights, architecture, tokenizer and preprocessing.

    The same model has the same fingerprint wherever its files lie and by whatever name it goes.
    defaults : open_clip's default settings of "vision_cfg" and "text_cfg".
    cache_dir : where checksums of large weights files are kept; None takes the user's cache.
    """
    meaning = {
        "weights": _weights_sha256(source.weights, cache_dir),
        "model": _meaning_of(source.model_cfg, defaults),
        "tokenizer": _tokenizer_identity(source.model_cfg["text_cfg"], tokenizer),
        "geometry": dataclasses.asdict(geometry),
        "mean": mean,
        "std": std,
    }
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _meaning_of(
    model_cfg: dict[str, Any], defaults: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The config without what does not change a vector: such keys, and values that are defaults.

    Leaving defaults out keeps a fingerprint when open_clip learns new settings, and makes a
    config that spells a default out equal to one that does not.
    """
    kept = _without(model_cfg, {"quick_gelu": False})
    for part, usual in defaults.items():
        kept[part] = _without(model_cfg[part], usual)
    return kept


def _without(cfg: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in cfg.items()
        if key not in _NOT_MEANING and value is not None and defaults.get(key) != value
    }


def _tokenizer_identity(text_cfg: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    identity = {
        "kind": type(tokenizer).__name__,
        "context_length": tokenizer.context_length,
        "kwargs": text_cfg.get("tokenizer_kwargs") or {},
        "mode": text_cfg.get("tokenizer_mode") or "",
    }
    if identity["kind"] != "SimpleTokenizer":
        # Its vocabulary comes from files and goes by many names: what it does is what it is.
        identity["probe"] = tokenizer(_PROBE_TEXTS).tolist()
    return identity


def _weights_sha256(path: Path, cache_dir: Path | None) -> str:
    """sha256 of a weights file. That of a large one is kept in one small JSON of the cache."""
    real, size, mtime_ns = file_stamp(path)
    if size < _HASH_IS_QUICK:
        return _sha256(path)
    if cache_dir is None:
        import platformdirs

        cache_dir = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    store = cache_dir / "weights-sha256.json"
    try:
        known = json.loads(store.read_text(encoding="utf-8"))
        if known[real][:2] == [size, mtime_ns]:
            return str(known[real][2])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        known = {}
    digest = _sha256(path)
    known = known if isinstance(known, dict) else {}
    known[real] = [size, mtime_ns, digest]
    with contextlib.suppress(OSError):  # a cache that cannot be written costs a second next time
        store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = store.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(known), encoding="utf-8")
        part.replace(store)
    return digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
