"""A better model in the same index: its vectors beside the old ones, and then the move to it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from clipsearch.carried_labels import CarriedSet, carry_over
from clipsearch.encoder import Space, load_encoder
from clipsearch.errors import OptionError
from clipsearch.generation import cache_folder, user_cache_folder
from clipsearch.image_index import open_index
from clipsearch.manifest import Manifest
from clipsearch.spaces import lacking_ids, space_named
from clipsearch.vectors import read_vectors
from indexer.background_texts import remember_background
from indexer.commit import Committer, remove_leftovers
from indexer.config import IndexConfig
from indexer.fill_spaces import fill_space
from indexer.report import Event, SpaceFilled
from indexer.runner import Runner
from indexer.writing import writing

PathName = str | os.PathLike[str]


@dataclass(frozen=True)
class ModelUsed:
    """What ``use_model`` did: the model and space that answer now, and those that did before;
    how many images the new one lacks, the models whose vectors were dropped, and what became of
    the saved label sets."""

    model: str
    space: str
    before: str
    space_before: str
    lacking: int
    dropped: tuple[str, ...] = ()
    labels: tuple[CarriedSet, ...] = ()


def add_model(
    index: PathName,
    model: str,
    *,
    device: str | None = None,
    backend: str | None = None,
    allow_download: bool = False,
    runner: Runner | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> SpaceFilled:
    """Encode the images that the index knows with ``model`` too; or go on with that.

    Ids, labels and everything else stay as they are, and the index answers as before until
    ``use_model``. What is finished is committed part by part and stays when the run is cut
    short. Images whose files are not there now are left for another time; every later run of
    ``build_index`` gives its new images, and those, the vectors of all models of the index.

    backend : one of ``BACKEND_CHOICES``; None is what the index was set to.

    Raises as ``writing`` and ``load_encoder`` do, OptionError for an index without images.
    """
    tell = on_event or (lambda event: None)
    with writing(index) as committer:
        _refuse_empty(committer.manifest, index)
        # What a space is, and its texts, the reference says; which back-end encodes its images
        # is settled once it is known which they are.
        encoder = load_encoder(model, device="cpu", allow_download=allow_download)
        remove_leftovers(committer.store, committer.manifest)
        space = _known_as(committer.manifest, encoder.space)
        if committer.manifest.spaces.get(space.id) != space:  # new, or its folder has moved
            known = {**committer.manifest.spaces, space.id: space}
            embeddings = {space.id: (), **committer.manifest.embeddings}
            committer.commit(spaces=known, embeddings=embeddings)
        config = IndexConfig.from_dict(committer.manifest.config)
        if backend is not None:
            config = dataclasses.replace(config, backend=backend)
        filled = fill_space(committer, space, config, device, tell, runner, is_asked=True)
        # Also where nothing was left to encode: the run before may have come no further.
        remember_background(encoder, tell)  # what searches, and its index, are measured with
        committer.bring_up_cache()
        remove_leftovers(committer.store, committer.manifest)
    return filled


def use_model(
    index: PathName,
    model: str,
    *,
    force: bool = False,
    drop: bool = False,
    carry: bool = True,
    device: str | None = None,
    on_used: Callable[[ModelUsed], None] | None = None,
    on_set: Callable[[CarriedSet], None] | None = None,
) -> ModelUsed:
    """Answer with ``model`` from now on, whose vectors ``add_model`` has brought in, and carry
    the saved label sets over to it.

    force : also when images have no vector of it; they are found no more until they get one.
    drop : remove the vectors of the other models. carry : whether sets are carried over; those
    that were not are so when the same model is used again.
    on_used : hears when the index answers with the model; what follows can be cut short, and
    done again. device, on_set : for ``carry_over``.

    Raises OptionError for a model that the index has no vectors of or not of every image,
    IndexFormatError where they are damaged, and as ``writing``; nothing has changed then.
    """
    with writing(index) as committer:
        manifest = committer.manifest
        _refuse_empty(manifest, index)
        space = space_named(manifest, model, str(index))
        before = space_named(manifest, None, str(index))
        lacking = _lacking(committer, space)
        if lacking and drop:
            raise OptionError(_incomplete(lacking, space, "nothing was dropped"))
        if lacking and not force and space != before:
            raise OptionError(
                _incomplete(lacking, space, "the index answers with the model it had")
                + ", --force does without them"
            )
        others = [other for other in manifest.spaces.values() if other != space] if drop else []
        if space != before or others:
            _refuse_damaged(committer, space)
            committer.commit(default_space=space.id, **_without(manifest, others))
            committer.bring_up_cache()
        if drop:
            _clear(committer)
    dropped = tuple(other.model for other in others)
    used = ModelUsed(space.model, space.id, before.model, before.id, lacking, dropped)
    if on_used is not None:
        on_used(used)
    if not carry:
        return used
    labels = carry_over(open_index(index, device=device), on_set)
    return dataclasses.replace(used, labels=tuple(labels))


def drop_model(index: PathName, model: str) -> Space:
    """Remove the vectors of a model that the index does not answer with; its space.

    Raises OptionError for the model that it answers with, for one that it has no vectors of,
    and while images lack a vector of the one that stays; and as ``writing``.
    """
    with writing(index) as committer:
        manifest = committer.manifest
        _refuse_empty(manifest, index)
        space = space_named(manifest, model, str(index))
        default = space_named(manifest, None, str(index))
        if space == default:
            raise OptionError(
                f"the index answers with {space.model}: first 'clipsearch model use' another one"
            )
        lacking = _lacking(committer, default)
        if lacking:
            raise OptionError(_incomplete(lacking, default, "nothing was dropped"))
        _refuse_damaged(committer, default)
        committer.commit(**_without(manifest, [space]))
        _clear(committer)
    return space


def _known_as(manifest: Manifest, space: Space) -> Space:
    """A space as the index is to know it: one that is there keeps its id, which comes of the name
    that its model had then."""
    for known in manifest.spaces.values():
        if known.fingerprint == space.fingerprint:
            return dataclasses.replace(known, model=space.model)
    return space


def _refuse_empty(manifest: Manifest, index: PathName) -> None:
    if manifest.default_space is None or not manifest.images:
        raise OptionError(
            f"the index at {os.fspath(index)} holds no images yet: add some with "
            f"'clipsearch index FOLDER --index {os.fspath(index)}'"
        )


def _lacking(committer: Committer, space: Space) -> int:
    deleted = committer.deleted()
    found = lacking_ids(committer.store, committer.manifest, space.id, deleted)
    return sum(map(len, found.values()))


def _refuse_damaged(committer: Committer, space: Space) -> None:
    """Read every vector of a space that is to answer, or to answer alone. Raises IndexFormatError,
    IndexReadError."""
    for ref in committer.manifest.embeddings.get(space.id, ()):
        read_vectors(committer.store, ref, space.dim)


def _incomplete(lacking: int, space: Space, so: str) -> str:
    images = "1 image has" if lacking == 1 else f"{lacking:,} images have"
    return (
        f"{images} no vector of {space.model}, so {so}: 'clipsearch index' encodes them when "
        "their files are there, 'clipsearch prune' forgets missing files"
    )


def _without(manifest: Manifest, gone: list[Space]) -> dict[str, Any]:
    """The fields of a manifest that knows nothing of some spaces."""
    ids = {space.id for space in gone}
    return {
        name: {key: value for key, value in getattr(manifest, name).items() if key not in ids}
        for name in ("spaces", "embeddings", "searches")
    }


def _clear(committer: Committer) -> None:
    """Remove the files of spaces that the manifest does not name any more, and what was cached of
    them: also those that a run left which was killed before it came to this."""
    remove_leftovers(committer.store, committer.manifest)
    caches = (cache_folder(committer.index), user_cache_folder(committer.manifest.uuid))
    folders = [committer.index / "embeddings", *(cache / "vectors" for cache in caches)]
    names = {place.name for folder in folders for place in folder.glob("*") if place.is_dir()}
    for name in names - committer.manifest.spaces.keys():
        for cache in caches:
            for part in cache.glob(f"*/{name}"):
                shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):  # a reader may still have something open
            (committer.index / "embeddings" / name).rmdir()
