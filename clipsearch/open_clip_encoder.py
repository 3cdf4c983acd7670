"""Encoders of open_clip: the only module that imports torch and open_clip.

Loading has two halves. The first finds files: in a folder, in the package, or in the Hugging Face
cache, and downloads what is missing only if that was allowed. The second builds the model from
those files with the hub switched off, so it cannot touch a network whatever a config asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported

import huggingface_hub
import numpy as np
import open_clip
import torch
from huggingface_hub import constants as hub_constants
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from clipsearch.encoder import Float32, ImageGeometry, Space, UInt8
from clipsearch.errors import (
    ClipsearchError,
    MissingExtraError,
    ModelLoadError,
    ModelNotHereError,
    OptionError,
    UnknownModelError,
)
from clipsearch.presets import (
    BUILT_IN,
    CONFIG_FILE,
    FOLDER_PREFIX,
    HUB_PREFIX,
    cached_hub_file,
    folder_of,
    hub_source,
    not_here_message,
    resolve_model_name,
    weights_in_folder,
)

_TEXT_BATCH = 256
_ASK_HUB_SECONDS = 8.0
_HASH_IS_QUICK = 64 * 2**20  # bytes; below this a stored checksum saves less than it costs
_TOKENIZER_FILES = ["*.json", "*.txt", "*.model"]
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

_loading = threading.RLock()
_loaded: dict[tuple[object, ...], OpenClipEncoder] = {}


@dataclass(frozen=True)
class _Source:
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


class OpenClipEncoder:
    """An open_clip model as an ``Encoder``. Safe to call from threads.

    Compare spaces by ``space.fingerprint``, never by ``space.id``: the same model in a folder of
    another name has the same fingerprint and another readable stem.
    """

    def __init__(
        self, net: Any, tokenizer: Any, space: Space, device: torch.device, weights: Path
    ) -> None:
        self.weights = weights
        self._net = net
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()  # tokenizers written in Rust refuse two threads
        self._space = space
        self._device = device
        cfg = net.visual.preprocess_cfg
        self._mean = _per_channel(cfg["mean"], device)
        self._std = _per_channel(cfg["std"], device)

    @property
    def space(self) -> Space:
        return self._space

    @property
    def recipe(self) -> dict[str, Any]:
        """How vectors are computed here: back-end, device, precision and versions."""
        name = str(self._device)
        if self._device.type == "cuda":
            name = f"{name} {torch.cuda.get_device_name(self._device)}"
        packages = ("open_clip_torch", "torch", "timm")
        return {
            "backend": "open_clip",
            "device": name,
            "precision": "float32",
            "versions": {package: version(package) for package in packages},
        }

    def encode_images(self, pixels: UInt8) -> Float32:
        """(n, height, width, 3) uint8 RGB of the space's geometry -> (n, dim) float32 unit rows.

        All n go through the model at once: the caller decides the batch. Raises ValueError for
        another shape or dtype.
        """
        geometry = self._space.geometry
        expected = (geometry.height, geometry.width, 3)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ValueError(
                f"expected uint8 pixels of shape (n, {geometry.height}, {geometry.width}, 3), "
                f"got {pixels.dtype} {pixels.shape}"
            )
        if len(pixels) == 0:
            return np.empty((0, self._space.dim), dtype=np.float32)
        with torch.inference_mode(), _full_precision(self._device):
            contiguous = np.ascontiguousarray(pixels)
            if not contiguous.flags.writeable:
                contiguous = contiguous.copy()  # torch warns about memory it may not write
            batch = torch.from_numpy(contiguous).to(self._device)
            batch = batch.permute(0, 3, 1, 2).to(
                torch.float32, memory_format=torch.contiguous_format
            )
            batch = batch.div_(255).sub_(self._mean).div_(self._std)
            return _rows(self._net.encode_image(batch, normalize=True))

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows; what is too long for the model is cut."""
        if isinstance(texts, str):
            raise ValueError("expected a sequence of texts, got one text")
        rows = [np.empty((0, self._space.dim), dtype=np.float32)]
        for start in range(0, len(texts), _TEXT_BATCH):
            part = list(texts[start : start + _TEXT_BATCH])
            with self._tokenizing:
                tokens = self._tokenizer(part)
            with torch.inference_mode(), _full_precision(self._device):
                rows.append(_rows(self._net.encode_text(tokens.to(self._device), normalize=True)))
        return np.concatenate(rows)


def load_open_clip_encoder(
    model: str,
    *,
    device: str | None = None,
    allow_download: bool = False,
    cache_dir: Path | None = None,
) -> OpenClipEncoder:
    """Load an encoder; arguments and errors are those of ``clipsearch.encoder.load_encoder``.

    The process keeps one encoder per model, weights file and device. While a model is built
    (seconds) the Hugging Face hub is switched off in the whole process.

    cache_dir : where checksums of large weights files are kept; None takes the user's cache.
    """
    name = resolve_model_name(model)
    where = _pick_device(device)
    with _loading:
        source = _find(name, allow_download)
        stamp = _stamp(source.weights)
        key = (source.model, *stamp, json.dumps(source.model_cfg, sort_keys=True), str(where))
        if key not in _loaded:
            _loaded[key] = _build(source, where, allow_download, cache_dir)
        return _loaded[key]


def fetch_model(model: str) -> Path:
    """Download a model if it is not here, load it, encode one picture and one text with it.

    Returns its weights file. Raises what ``load_encoder`` raises.
    """
    encoder = load_open_clip_encoder(model, device="cpu", allow_download=True)
    geometry = encoder.space.geometry
    grey = np.full((1, geometry.height, geometry.width, 3), 127, dtype=np.uint8)
    rows = np.concatenate([encoder.encode_images(grey), encoder.encode_texts(["a photo"])])
    if not np.isfinite(rows).all():
        raise ModelLoadError(
            f"{model!r} gives numbers that are not finite: its weights are damaged"
        )
    return encoder.weights


# Finding files


def _find(name: str, allow_download: bool) -> _Source:
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
) -> _Source:
    config = folder / CONFIG_FILE
    try:
        model_cfg = json.loads(config.read_text(encoding="utf-8"))["model_cfg"]
        if not all(isinstance(model_cfg[key], dict) for key in ("vision_cfg", "text_cfg")):
            raise ValueError("vision_cfg or text_cfg is no table")
    except FileNotFoundError:
        raise ModelLoadError(f"expected {CONFIG_FILE} in the model folder {folder}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelLoadError(f"cannot read {config}: {_one_line(error)}") from error
    weights = weights or weights_in_folder(folder)
    if weights is None:
        raise ModelLoadError(
            f"expected weights (open_clip_model.safetensors) in the model folder {folder}"
        )
    if (model_cfg["text_cfg"].get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise ModelLoadError(f"{config} asks to run code that comes with its tokenizer: refused")
    return _Source(
        model=name,
        slug=slug,
        model_cfg=model_cfg,
        weights=weights,
        open_clip_name=f"{FOLDER_PREFIX}{folder}",
        tokenizer_name=tokenizer_name,
        preprocess={},
        quick_gelu=False,
    )


def _by_tag(name: str, allow_download: bool) -> _Source:
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
    return _Source(
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


def _fetch_tokenizer(name: str, repo: str) -> None:
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
            f"cannot fetch {name!r} from {hub_constants.ENDPOINT}: {_one_line(error)}\n"
            f"check the network and try again; without one, bring a model folder or use "
            f"`--model {BUILT_IN}`"
        ) from error


# Building


def _build(
    source: _Source, device: torch.device, allow_download: bool, cache_dir: Path | None
) -> OpenClipEncoder:
    text_cfg = source.model_cfg["text_cfg"]
    repos = {text_cfg.get(key) for key in ("hf_tokenizer_name", "hf_model_name")} - {None, ""}
    if repos and importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(
            f"{source.model!r} reads text with transformers, which is not installed: "
            f'pip install "clipsearch[multilingual]"'
        )
    try:
        return _assemble(source, device, cache_dir)
    except ModelNotHereError:
        if not allow_download:
            raise
    for repo in sorted(repos):
        _fetch_tokenizer(source.model, repo)
    return _assemble(source, device, cache_dir)


def _assemble(source: _Source, device: torch.device, cache_dir: Path | None) -> OpenClipEncoder:
    """The encoder from files alone; ModelNotHereError if the tokenizer's are missing."""
    uses_hub_tokenizer = bool(source.model_cfg["text_cfg"].get("hf_tokenizer_name"))
    try:
        with _quiet(), _hub_off():
            # The weights are loaded by a call of our own, so that the file that is loaded is the
            # file that was found and hashed; no tower may fetch weights of its own.
            net = open_clip.create_model(
                source.open_clip_name,
                load_weights=False,
                pretrained_image=False,
                pretrained_text=False,
                force_quick_gelu=source.quick_gelu,
                force_preprocess_cfg=source.preprocess,
            )
            open_clip.load_checkpoint(net, str(source.weights), weights_only=True)
            tokenizer = open_clip.get_tokenizer(source.tokenizer_name)
            net = net.to(device).eval().requires_grad_(False)
            space = _describe(source, net, tokenizer, cache_dir)
    except (ClipsearchError, MemoryError):
        raise
    except Exception as error:
        if folder_of(source.model) is None and _is_missing_file(error):
            raise ModelNotHereError(not_here_message(source.model)) from error
        parts = (
            f"{source.weights.name} and its tokenizer"
            if uses_hub_tokenizer
            else source.weights.name
        )
        raise ModelLoadError(
            f"cannot load {source.model!r} from {parts}: {_one_line(error)}"
        ) from error
    return OpenClipEncoder(net, tokenizer, space, device, source.weights)


def _describe(source: _Source, net: Any, tokenizer: Any, cache_dir: Path | None) -> Space:
    cfg = net.visual.preprocess_cfg
    size = cfg["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    geometry = ImageGeometry(
        height=height,
        width=width,
        resize_mode=cfg["resize_mode"] or "shortest",
        interpolation="bilinear" if cfg["interpolation"] == "bilinear" else "bicubic",
        fill=int(cfg["fill_color"]),
    )
    meaning = {
        "weights": _weights_sha256(source.weights, cache_dir),
        "model": _meaning_of(source.model_cfg),
        "tokenizer": _tokenizer_identity(source.model_cfg["text_cfg"], tokenizer),
        "geometry": dataclasses.asdict(geometry),
        "mean": _three(cfg["mean"]),
        "std": _three(cfg["std"]),
    }
    text = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    bias = getattr(net, "logit_bias", None)
    return Space(
        id=f"{source.slug}-{fingerprint[:12]}",
        fingerprint=fingerprint,
        model=source.model,
        dim=int(source.model_cfg["embed_dim"]),
        logit_scale=float(net.logit_scale.detach().exp().cpu()),
        logit_bias=None if bias is None else float(bias.detach().cpu()),
        geometry=geometry,
    )


def _meaning_of(model_cfg: dict[str, Any]) -> dict[str, Any]:
    """The config without what does not change a vector: such keys, and values that are defaults.

    Leaving defaults out keeps a fingerprint when open_clip learns new settings, and makes a
    config that spells a default out equal to one that does not.
    """
    kept = _without(model_cfg, {"quick_gelu": False})
    for part, defaults in (("vision_cfg", CLIPVisionCfg()), ("text_cfg", CLIPTextCfg())):
        kept[part] = _without(model_cfg[part], dataclasses.asdict(defaults))
    return kept


def _without(cfg: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
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
    if not isinstance(tokenizer, open_clip.SimpleTokenizer):
        # Its vocabulary comes from files and goes by many names: what it does is what it is.
        identity["probe"] = tokenizer(_PROBE_TEXTS).tolist()
    return identity


def _weights_sha256(path: Path, cache_dir: Path | None) -> str:
    """sha256 of a weights file. That of a large one is kept in one small JSON of the cache."""
    real, size, mtime_ns = _stamp(path)
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


def _stamp(path: Path) -> tuple[str, int, int]:
    real = path.resolve()
    status = real.stat()
    return str(real), status.st_size, status.st_mtime_ns


# The surroundings of a load


@contextlib.contextmanager
def _hub_off() -> Iterator[None]:
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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep open_clip's remarks off a user's terminal.

    It logs to the root logger, and its first remark would give the root a handler on stderr.
    """
    root = logging.getLogger()
    silent = logging.NullHandler()

    def foreign(record: logging.LogRecord) -> bool:
        return f"{os.sep}open_clip{os.sep}" not in record.pathname

    root.addHandler(silent)
    root.addFilter(foreign)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(foreign)
        root.removeHandler(silent)


@contextlib.contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """float32 means float32: cuDNN would run convolutions in TF32 by default."""
    if device.type != "cuda":
        yield
        return
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def _pick_device(device: str | None) -> torch.device:
    mps = torch.backends.mps.is_available()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = [*(f"cuda:{i}" for i in range(count)), *(["mps"] if mps else []), "cpu"]
    if device is None:
        return torch.device(there[0])
    wanted = "cuda:0" if device == "cuda" else device
    if wanted not in there:
        raise OptionError(f"no device {device!r} here: expected one of {', '.join(there)}")
    return torch.device(wanted)


def _per_channel(values: Any, device: torch.device) -> Any:
    return torch.tensor(_three(values), dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _three(values: Any) -> list[float]:
    if isinstance(values, int | float):
        return [float(values)] * 3
    return [float(value) for value in values]


def _rows(tensor: Any) -> Float32:
    rows: Float32 = tensor.float().cpu().numpy()
    return rows


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._]+", "-", name.lower()).strip("-._")[:60].rstrip("-._") or "model"


def _one_line(error: Exception) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return (first or type(error).__name__)[:200]


def _is_missing_file(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError | huggingface_hub.errors.OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False
