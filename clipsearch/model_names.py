"""Names of encoders: what a name means, and whether its weights are on this machine.

Imports neither torch nor open_clip, and touches no network: "here" means a file in a folder or
in the Hugging Face cache.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from clipsearch.errors import ModelLoadError, ModelNotChosenError, UnknownModelError
from clipsearch.presets import BUILT_IN, PRESETS, RECOMMENDED, find_preset

HUB_PREFIX = "hf-hub:"
FOLDER_PREFIX = "local-dir:"
CONFIG_FILE = "open_clip_config.json"
HUB_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_BUILT_IN_FOLDER = Path(__file__).parent / "models" / BUILT_IN

# OpenAI's weights were trained with QuickGELU. The plain architectures load them without a word
# and give wrong vectors, so every way to ask for them ends at the QuickGELU architecture.
_ALIASES = {
    "openai/clip-vit-base-patch32": "ViT-B-32-quickgelu/openai",
    "openai/clip-vit-base-patch16": "ViT-B-16-quickgelu/openai",
    "openai/clip-vit-large-patch14": "ViT-L-14-quickgelu/openai",
    "openai/clip-vit-large-patch14-336": "ViT-L-14-336-quickgelu/openai",
    # Google's own repositories hold no open_clip config; open_clip names the same weights.
    "google/siglip-base-patch16-224": "ViT-B-16-SigLIP/webli",
    "google/siglip-base-patch16-256": "ViT-B-16-SigLIP-256/webli",
    "google/siglip-base-patch16-384": "ViT-B-16-SigLIP-384/webli",
    "google/siglip-base-patch16-512": "ViT-B-16-SigLIP-512/webli",
    "google/siglip-large-patch16-256": "ViT-L-16-SigLIP-256/webli",
    "google/siglip-large-patch16-384": "ViT-L-16-SigLIP-384/webli",
    "google/siglip-so400m-patch14-224": "ViT-SO400M-14-SigLIP/webli",
    "google/siglip-so400m-patch14-384": "ViT-SO400M-14-SigLIP-384/webli",
    "google/siglip2-base-patch32-256": "ViT-B-32-SigLIP2-256/webli",
    "google/siglip2-base-patch16-224": "ViT-B-16-SigLIP2/webli",
    "google/siglip2-base-patch16-256": "ViT-B-16-SigLIP2-256/webli",
    "google/siglip2-large-patch16-256": "ViT-L-16-SigLIP2-256/webli",
    "google/siglip2-so400m-patch14-224": "ViT-SO400M-14-SigLIP2/webli",
    "google/siglip2-so400m-patch16-256": "ViT-SO400M-16-SigLIP2-256/webli",
    # The presets by their repository: one name, so one entry in every cache.
    **{preset.hub_repo.lower(): preset.model for preset in PRESETS if preset.hub_repo},
}
_HUB_OWNERS = frozenset({"apple", "facebook", "google", "laion", "openai", "timm", "ucsc-vlaa"})


def resolve_model_name(text: str) -> str:
    """The canonical name of what ``text`` means.

    Takes a preset, an alias, "MODEL/PRETRAINED", "hf-hub:ORG/NAME" or a folder ("local-dir:" may
    stand before it). Returns "mini", "MODEL/PRETRAINED", "hf-hub:ORG/NAME" or the absolute path
    of a folder. Whether a pretrained tag exists shows only when it is loaded.

    Raises UnknownModelError for a name nobody knows, ModelLoadError for a path without a model.
    """
    name = text.strip()
    if name.startswith(FOLDER_PREFIX):
        return _folder_name(name.removeprefix(FOLDER_PREFIX))
    preset = find_preset(name.lower()) or find_preset(name)
    if preset is not None:
        return preset.model
    repo = name.removeprefix(HUB_PREFIX)
    if repo.lower() in _ALIASES:
        return _ALIASES[repo.lower()]
    if name.startswith(HUB_PREFIX):
        if re.fullmatch(r"[\w.-]+/[\w.-]+", repo) is None:
            raise UnknownModelError(f"expected hf-hub:ORG/NAME, got {text!r}")
        return name
    if _looks_like_path(name) or (Path(name).expanduser() / CONFIG_FILE).is_file():
        return _folder_name(name)
    architecture, slash, tag = name.partition("/")
    if slash and tag and architecture.lower() in _HUB_OWNERS and "/" not in tag:
        return HUB_PREFIX + name
    if slash and tag and "/" not in tag and architecture in _architectures():
        return _with_quick_gelu(architecture, tag)
    if name and Path(name).is_dir():
        return _folder_name(name)
    raise UnknownModelError(_unknown(text, architecture))


def folder_of(model: str) -> Path | None:
    """The folder of the built-in encoder or of a folder's canonical name, else None."""
    if model == BUILT_IN:
        return _BUILT_IN_FOLDER
    return Path(model) if Path(model).is_absolute() else None


def weights_in_folder(folder: Path) -> Path | None:
    """The weights file open_clip would take from a model folder, safetensors first, or None."""
    for name in (HUB_WEIGHTS[0], "open_clip_pytorch_model.safetensors", HUB_WEIGHTS[1]):
        if (folder / name).is_file():
            return folder / name
    for pattern in ("*.safetensors", "*.bin", "*.pth", "*.pt"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    return None


def file_stamp(path: Path) -> tuple[str, int, int]:
    """The real path of a file, its bytes and its time of change in nanoseconds."""
    real = path.resolve()
    status = real.stat()
    return str(real), status.st_size, status.st_mtime_ns


def hub_source(model: str) -> tuple[str, tuple[str, ...]] | None:
    """The hub repository of a canonical name and the file names to try, or None.

    Knows presets and ``hf-hub:`` names by heart; any other name needs open_clip's table, and
    with it the import of torch (2 to 4 s).
    """
    preset = find_preset(model)
    if preset is not None:
        return (preset.hub_repo, HUB_WEIGHTS) if preset.hub_repo else None
    if model.startswith(HUB_PREFIX):
        return model.removeprefix(HUB_PREFIX), HUB_WEIGHTS
    if folder_of(model) is not None:
        return None
    from clipsearch.torch_start import compiler_on_demand

    with compiler_on_demand():
        from open_clip.pretrained import get_pretrained_cfg

    where = str(get_pretrained_cfg(*model.split("/", 1)).get("hf_hub", ""))
    repo, _, file = where.rpartition("/")
    if not repo:
        return None
    safe = re.sub(r"\.(bin|pth)$", ".safetensors", file)
    return repo, (HUB_WEIGHTS if not file else (safe, file))


def cached_hub_file(repo: str, names: Sequence[str]) -> Path | None:
    """The first of ``names`` that is in the Hugging Face cache for ``repo``, or None."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        found = try_to_load_from_cache(repo, name)
        if isinstance(found, str) and os.path.exists(found):
            return Path(found)
    return None


def weights_here(model: str) -> Path | None:
    """The weights file of ``model`` if everything to load it is on this machine, else None.

    Takes what ``resolve_model_name`` takes and raises what it raises. No network.
    """
    name = resolve_model_name(model)
    folder = folder_of(name)
    if folder is not None:
        return weights_in_folder(folder)
    source = hub_source(name)
    if source is None:
        return None
    weights = cached_hub_file(*source)
    if name.startswith(HUB_PREFIX) and cached_hub_file(source[0], (CONFIG_FILE,)) is None:
        return None
    preset = find_preset(name)
    text_repo = preset.text_repo if preset is not None else None
    if text_repo is not None and not all(
        cached_hub_file(text_repo, (file,)) for file in ("config.json", "tokenizer.json")
    ):
        return None
    return weights


def choose_model() -> str:
    """The name of the encoder to use when none was named.

    The recommended preset if its weights are here, else another preset whose weights are here.
    The built-in encoder is never chosen: its answers would pass for those of a real one.

    Raises ModelNotChosenError, whose two lines name both ways out.
    """
    recommended = next(p for p in PRESETS if p.name == RECOMMENDED)
    for preset in (recommended, *PRESETS):
        if preset.name == BUILT_IN:
            continue
        if preset.text_repo is not None and importlib.util.find_spec("transformers") is None:
            continue
        if weights_here(preset.model) is not None:
            return preset.model
    raise ModelNotChosenError(
        f"no model is on this machine: fetch the recommended one with "
        f"`clipsearch model get {recommended.name}` ({recommended.download_mb:.0f} MB),\n"
        f"or try things out with the small built-in one: `--model {BUILT_IN}`"
    )


def not_here_message(model: str) -> str:
    """Two lines for a ModelNotHereError: the name, its size if known, and both ways out."""
    preset = find_preset(model)
    name = preset.name if preset is not None else model
    size = f" ({preset.download_mb:.0f} MB)" if preset is not None else ""
    return (
        f"the weights of {name!r} are not on this machine: "
        f"fetch them with `clipsearch model get {name}`{size},\n"
        f"or try things out with the small built-in model: `--model {BUILT_IN}`"
    )


def _with_quick_gelu(architecture: str, tag: str) -> str:
    tag = tag.lower().replace("-", "_")  # as open_clip reads it
    quick = f"{architecture}-quickgelu"
    if tag == "openai" and quick in _architectures():
        architecture = quick
    return f"{architecture}/{tag}"


@lru_cache(maxsize=1)
def _architectures() -> frozenset[str]:
    # The names of open_clip's config files: its registry without importing it, and so torch.
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return frozenset()
    return frozenset(p.stem for p in (Path(spec.origin).parent / "model_configs").glob("*.json"))


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "./", "../", "~", "\\", ".\\", "..\\")) or (
        name in (".", "..") or re.match(r"[A-Za-z]:[\\/]", name) is not None
    )


def _folder_name(text: str) -> str:
    folder = Path(text).expanduser()
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise ModelLoadError(f"expected a model folder at {text!r}, found {what} there")
    return str(folder.resolve())


def _unknown(text: str, architecture: str) -> str:
    names = [p.name for p in PRESETS]
    close = difflib.get_close_matches(text.strip().lower(), names, n=2, cutoff=0.6)
    by_lower = {known.lower(): known for known in sorted(_architectures())}
    near = difflib.get_close_matches(architecture.lower(), list(by_lower), n=3, cutoff=0.5)
    close += [by_lower[name] for name in near]
    if architecture in _architectures():
        return f"{text!r} lacks the name of its weights: expected {architecture}/PRETRAINED"
    meant = f"; did you mean {', '.join(close)}?" if close else ""
    return (
        f"no model is called {text!r}{meant}\n"
        f"expected one of {', '.join(names)}, MODEL/PRETRAINED, hf-hub:ORG/NAME or a model folder"
    )
