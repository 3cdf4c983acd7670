"""Photos to be evaluated, brought into an index of their own that the user's cache folder keeps:
a second evaluation encodes nothing, and nothing is written where the photos are."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipsearch.encoder import Space, load_encoder
from clipsearch.errors import (
    IndexFormatError,
    IndexNotFoundError,
    ModelError,
    OptionError,
    SourceError,
    SpaceMismatchError,
)
from clipsearch.image_index import ImageIndex, open_index
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.model_names import choose_model, folder_of, resolve_model_name
from clipsearch.presets import BUILT_IN
from clipsearch.spaces import lacking_ids, space_named
from clipsearch.store import open_store
from indexer.build import build_index, saved_config
from indexer.lock import writer_lock
from indexer.model_spaces import add_model
from indexer.report import BuildReport, Event, Finished
from indexer.scan import is_passed_over

_SHARD_SECONDS = 15.0  # of work that an interruption costs at most
_STEM = 40  # characters of a folder's name in that of its index
_KEPT_BAD = (ModelError, SpaceMismatchError, IndexFormatError)


@dataclass(frozen=True)
class EvaluationIndex:
    """An index whose images are to be evaluated.

    opened : by the name a model is told by, the index that answers with it. rates : by the same
    names, images a second while they were encoded just now, None where nothing was.
    report : of the run that brought it up to date; None for an index that somebody keeps.
    """

    place: Path
    opened: Mapping[str, ImageIndex]
    rates: Mapping[str, float | None] = field(default_factory=dict)
    report: BuildReport | None = None


def kept_place(source: Path) -> Path:
    """Where the index of an absolute folder or table is kept."""
    import platformdirs

    digest = hashlib.sha256(os.fsencode(source)).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]+", "-", source.stem, flags=re.ASCII).strip("-.")[:_STEM] or "photos"
    cache = Path(platformdirs.user_cache_dir("clipsearch", appauthor=False))
    return cache / "evaluations" / f"{stem}-{digest}.index"


def class_folders(top: Path) -> list[str]:
    """The names of the folders in ``top`` that may each be a class: hidden ones, and indexes, are
    none. Raises SourceError for a folder that cannot be listed."""
    try:
        with os.scandir(top) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise SourceError(f"cannot read {top}: {error.strerror or error}") from None
    return [name for name in names if not is_passed_over(top / name, top, ())]


def keep_index(
    source: Path,
    models: Sequence[str] = (),
    *,
    listed: Sequence[Path] | None = None,
    fresh: bool = False,
    device: str | None = None,
    allow_download: bool = False,
    on_event: Callable[[Event], None] | None = None,
) -> EvaluationIndex:
    """Bring what is kept of a folder up to date, with the vectors of every one of ``models``.

    source : an absolute folder; or, with ``listed``, a table, and the files that it names.
    models : () for the recommended one. fresh : encode everything anew.

    What is encoded is kept when the run is cut short. Raises as ``build_index`` and
    ``add_model``.
    """
    place = kept_place(source)
    names = [resolve_model_name(model) for model in models] or [choose_model()]
    tell = on_event or (lambda event: None)

    def build(model: str | None) -> BuildReport:
        return build_index(
            [source] if listed is None else [],
            place,
            listed=listed or (),
            encoder=model,
            device=device,
            # Exactly: its figures are laid beside published ones.
            config=dataclasses.replace(
                saved_config(place), decode="exact", shard_seconds=_SHARD_SECONDS
            ),
            # Of what was named, and not of what is kept of another time.
            allow_download=allow_download and (model or kept_model) in names,
            on_event=tell,
        )

    _make_room(place.parent)
    if fresh:
        _discard(place)
    kept_model, was_there = None, place.is_dir()
    try:
        kept = _default_space(place)
        kept_model = None if kept is None else kept.model
        report = build(names[0] if kept is None else None)
    except _KEPT_BAD:
        # It is damaged, or the model that it was begun with is another one now, or gone: what
        # is kept can always be made anew.
        if not was_there:
            raise
        _discard(place)
        report = build(names[0])
    rates: dict[str, float | None] = {}
    if report.new:
        default = _default_space(place)
        if default is not None:
            rates[default.id] = report.new / max(report.encode_seconds, 1e-9)
    for filled in report.spaces:
        if filled.encoded:
            rates[filled.space] = filled.encoded / max(filled.seconds, 1e-9)
    spaces = []
    for name in dict.fromkeys(names):
        space = _complete_space(place, name, device)
        if space is None:
            done = add_model(
                place, name, device=device, allow_download=allow_download, on_event=tell
            )
            space = _manifest(place).spaces[done.space]
            if done.encoded:
                rates[space.id] = done.encoded / max(done.seconds, 1e-9)
        spaces.append(space)
    tell(Finished(report))
    opened = {
        told: open_index(place, device=device, space=space.id)
        for told, space in zip(told_names(spaces), spaces, strict=True)
    }
    of_model = {
        told: rates.get(space.id) for told, space in zip(opened, spaces, strict=True)
    }  # fmt: skip
    return EvaluationIndex(place, opened, of_model, report)


def existing_evaluation_index(
    place: Path, models: Sequence[str] = (), *, every: bool = False, device: str | None = None
) -> EvaluationIndex:
    """An index that somebody has, as it is. models : of those that it has the vectors of; () for
    the one that it answers with, or with ``every`` for all of them.

    Raises as ``open_index``.
    """
    try:
        manifest = _manifest(place)
    except NotADirectoryError:
        raise IndexNotFoundError(f"no index at {place}: it is a file") from None
    if every and not models:
        spaces = sorted(manifest.spaces.values(), key=lambda s: s.id != manifest.default_space)
    else:
        asked = [space_named(manifest, name, str(place)) for name in models or (None,)]
        spaces = list({space.id: space for space in asked}.values())
    opened = {
        told: open_index(place, device=device, space=space.id)
        for told, space in zip(told_names(spaces), spaces, strict=True)
    }
    return EvaluationIndex(place, opened, dict.fromkeys(opened))


def told_names(spaces: Sequence[Space]) -> list[str]:
    """What the models of some spaces are called beside their figures: a folder by its name, unless
    two have the same."""
    short = [
        Path(space.model).name if folder_of(space.model) is not None else space.model
        for space in spaces
    ]
    models = [space.model for space in spaces]
    return [
        name if short.count(name) == 1 else model if models.count(model) == 1 else space.id
        for name, model, space in zip(short, models, spaces, strict=True)
    ]


def _manifest(place: Path) -> Manifest:
    return read_manifest(open_store(place), str(place))


def _default_space(place: Path) -> Space | None:
    """The space of what is kept; None where nothing is yet."""
    try:
        manifest = _manifest(place)
    except IndexNotFoundError:
        return None
    return None if manifest.default_space is None else space_named(manifest, None, str(place))


def _complete_space(place: Path, model: str, device: str | None) -> Space | None:
    """The space of a model in which every image has a vector; None where there is none."""
    store, manifest = open_store(place), _manifest(place)
    found = [space for space in manifest.spaces.values() if space.model == model]
    if folder_of(model) is not None and model != BUILT_IN:
        # Another model may be in the folder by now, as after training goes on.
        now = load_encoder(model, device=device).space.fingerprint
        found = [space for space in manifest.spaces.values() if space.fingerprint == now]
    for space in found:
        deleted = open_index(place, space=space.id).state().vectors.deleted
        if not lacking_ids(store, manifest, space.id, deleted):
            return space
    return None


def _make_room(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"cannot keep vectors at {folder}: {error.strerror or error}; index the photos with "
            "'clipsearch index' and evaluate that with --index"
        ) from error


def _discard(place: Path) -> None:
    """Clear what is kept of a source. Raises IndexLockedError while another process uses it."""
    if not place.is_dir():
        return
    try:
        with writer_lock(place):
            shutil.rmtree(place, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)  # the lock itself, where it was in the way
    except OSError as error:
        raise OptionError(f"cannot clear {place}: {error.strerror or error}") from error
