"""Where a model's files are: in a folder, in the package, or in the Hugging Face cache.

What is missing is downloaded only where that was allowed. Imports torch only through
open_clip's table of pretrained weights, and only for a MODEL/PRETRAINED name.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported

import huggingface_hub
from huggingface_hub import constants as hub_constants

from clipsearch.errors import ClipsearchError, ModelLoadError, ModelNotHereError, UnknownModelError
from clipsearch.model_names import (
    CONFIG_FILE,
    FOLDER_PREFIX,
    HUB_PREFIX,
    cached_hub_file,
    folder_of,
    hub_source,
    not_here_message,
    weights_in_folder,
)
from clipsearch.presets import BUILT_IN

_ASK_HUB_SECONDS = 8.0
_TOKENIZER_FILES = ["*.json", "*.txt", "*.model"]


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from: its name, config and files, all on this machine.

    open_clip_name : what ``open_clip.create_model`` takes to find the config.
    tokenizer_name : what ``open_clip.get_tokenizer`` takes.
    preprocess : overrides of the preprocessing that belong to a pretrained tag.
    """

    model: str
    slug: str
    model_cfg: dict[str, Any]
    weights: Path
    open_clip_name: str
    tokenizer_name: str
    preprocess: dict[str, Any]
    quick_gelu: bool


def find_model(name: str, allow_download: bool) -> ModelSource:
    """The files of the model with this canonical name.

    Raises ModelNotHereError, ModelLoadError and UnknownModelError.
    """
    folder = folder_of(name)
    if folder is not None:
        slug = BUILT_IN if name == BUILT_IN else _slug(folder.name)
        return _in_folder(name, slug, folder, f"{FOLDER_PREFIX}{folder}")
    if name.startswith(HUB_PREFIX):
        repo = name.removeprefix(HUB_PREFIX)
        source = hub_source(name)
        assert source is not None
        config = _hub_file(name, repo, (CONFIG_FILE,), allow_download)
        weights = _hub_file(name, *source, allow_download)
        return _in_folder(name, _slug(repo), config.parent, name, weights)
    return _by_tag(name, allow_download)


def _in_folder(
    name: str, slug: str, folder: Path, tokenizer_name: str, weights: Path | None = None
) -> ModelSource:
    config = folder / CONFIG_FILE
    try:
        model_cfg = json.loads(config.read_text(encoding="utf-8"))["model_cfg"]
        if not all(isinstance(model_cfg[key], dict) for key in ("vision_cfg", "text_cfg")):
            raise ValueError("vision_cfg or text_cfg is no table")
    except FileNotFoundError:
        raise ModelLoadError(f"expected {CONFIG_FILE} in the model folder {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"cannot read {config}: {one_line(error)}") from error
    weights = weights or weights_in_folder(folder)
    if weights is None:
        raise ModelLoadError(
            f"expected weights (open_clip_model.safetensors) in the model folder {folder}"
        )
    if (model_cfg["text_cfg"].get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise ModelLoadError(f"{config} asks to run code that comes with its tokenizer: refused")
    return ModelSource(
        model=name,
        slug=slug,
        model_cfg=model_cfg,
        weights=weights,
        open_clip_name=f"{FOLDER_PREFIX}{folder}",
        tokenizer_name=tokenizer_name,
        preprocess={},
        quick_gelu=False,
    )


def _by_tag(name: str, allow_download: bool) -> ModelSource:
    from clipsearch.torch_start import compiler_on_demand

    with compiler_on_demand():
        import open_clip

    architecture, tag = name.split("/", 1)
    model_cfg = open_clip.get_model_config(architecture)
    pretrained = open_clip.get_pretrained_cfg(architecture, tag)
    if model_cfg is None or not pretrained:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        known = ", ".join(tags) if tags else "none"
        raise UnknownModelError(
            f"{architecture!r} has no weights called {tag!r}: expected one of {known}"
        )
    # Weights trained with QuickGELU load into a plain architecture without a word and then give
    # wrong vectors. The architecture follows the weights. (The other way round open_clip's own
    # config is right: some architectures have it on, and their tags do not repeat it.)
    quick_gelu = bool(pretrained.get("quick_gelu", False))
    if quick_gelu and not model_cfg.get("quick_gelu", False):
        variant = f"{architecture}-quickgelu"
        if open_clip.get_model_config(variant) is not None:
            architecture, name = variant, f"{variant}/{tag}"
        model_cfg["quick_gelu"] = True
    source = hub_source(name)
    if source is None:
        raise UnknownModelError(f"open_clip names no place to fetch {name!r} from")
    return ModelSource(
        model=name,
        slug=_slug(name),
        model_cfg=model_cfg,
        weights=_hub_file(name, *source, allow_download),
        open_clip_name=architecture,
        tokenizer_name=architecture,
        preprocess=dict(pretrained),
        quick_gelu=quick_gelu,
    )


def _hub_file(name: str, repo: str, names: Sequence[str], allow_download: bool) -> Path:
    """One of ``names`` from the Hugging Face cache, else downloaded if that is allowed."""
    cached = cached_hub_file(repo, names)
    if cached is not None:
        return cached
    if not allow_download or hub_constants.is_offline_mode():
        raise ModelNotHereError(not_here_message(name))
    with _hub_errors(name, repo):
        # Asked first because it fails at once without a network, where a download tries for
        # half a minute; and because it says which of the names there is.
        info = huggingface_hub.HfApi().model_info(repo, timeout=_ASK_HUB_SECONDS)
        there = {file.rfilename for file in info.siblings or ()}
        wanted = next((file for file in names if file in there), None)
        if wanted is None:
            raise ModelLoadError(f"the repository {repo} holds none of {', '.join(names)}")
        return Path(huggingface_hub.hf_hub_download(repo, wanted, library_name="clipsearch"))


def fetch_tokenizer(name: str, repo: str) -> None:
    """Download the tokenizer files of a repository into the Hugging Face cache."""
    with _hub_errors(name, repo):
        huggingface_hub.HfApi().model_info(repo, timeout=_ASK_HUB_SECONDS)
        huggingface_hub.snapshot_download(
            repo, allow_patterns=_TOKENIZER_FILES, ignore_patterns=["*/*"]
        )


@contextlib.contextmanager
def _hub_errors(name: str, repo: str) -> Iterator[None]:
    try:
        yield
    except ClipsearchError:
        raise
    except huggingface_hub.errors.RepositoryNotFoundError:
        raise UnknownModelError(
            f"the Hugging Face hub has no model {repo!r}, or it wants a login"
        ) from None
    except Exception as error:
        raise ModelNotHereError(
            f"cannot fetch {name!r} from {hub_constants.ENDPOINT}: {one_line(error)}\n"
            f"check the network and try again; without one, bring a model folder or use "
            f"`--model {BUILT_IN}`"
        ) from error


@contextlib.contextmanager
def hub_off() -> Iterator[None]:
    """No request of huggingface_hub or transformers leaves this process meanwhile."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    before = {name: os.environ.get(name) for name in names}
    was_off = hub_constants.HF_HUB_OFFLINE
    os.environ.update(dict.fromkeys(names, "1"))
    hub_constants.HF_HUB_OFFLINE = True  # read at each request; the variables only at import
    hub_constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = was_off
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-._")[:60].rstrip("-._") or "model"


def one_line(error: Exception) -> str:
    """The first line of an error, at most 200 characters."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (first or type(error).__name__)[:200]


def is_missing_file(error: BaseException | None) -> bool:
    """Whether an error comes down to a file that is not on this machine."""
    while error is not None:
        if isinstance(error, OSError | huggingface_hub.errors.OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False
