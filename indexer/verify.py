"""Check an index from end to end: every byte of it, and a sample of what it means."""

from __future__ import annotations

import os
import secrets

from clipsearch.errors import IndexFormatError, IndexNotFoundError, OptionError
from clipsearch.manifest import Manifest, read_manifest
from clipsearch.store import LocalStore, index_folder, open_store
from indexer.check_cache import cache_checks, check_all_thumbnails
from indexer.check_clusters import check_discoveries
from indexer.check_exports import check_export_records
from indexer.check_labels import check_label_sets
from indexer.check_places import check_places
from indexer.check_searches import check_saved_searches
from indexer.check_shards import check_shards
from indexer.check_tables import check_manifests, check_tables, read_deleted
from indexer.findings import Progress, Tally, Verification
from indexer.reencode import compare_sample

_ATTEMPTS = 3  # a writer may commit while we read; then what we read is no longer named


def verify_index(
    index: str | os.PathLike[str],
    *,
    sample: int = 32,
    seed: int | None = None,
    device: str | None = None,
    model: str | None = None,
    on_progress: Progress | None = None,
) -> Verification:
    """Check an index against its manifest, its cache against it, and a sample of the photos.

    sample : how many images to encode again; 0 for none. seed : draws the same sample again.
    model : where the index's own model is now, for a folder that moved; a model that is not
    here is a note. Nothing is written.

    Raises IndexNotFoundError, IndexFormatError for a newer format, OptionError,
    SpaceMismatchError when ``model`` is another one.
    """
    if sample < 0:
        raise OptionError(f"the sample must be 0 or more images, got {sample}")
    place = index_folder(index)
    store = open_store(place)
    seed = secrets.randbelow(2**31) if seed is None else seed
    for attempt in range(_ATTEMPTS):
        tally = Tally(place)
        manifest = check_manifests(tally, store)
        if manifest is None:
            break
        verify_manifest(
            tally,
            store,
            manifest,
            sample=sample,
            seed=seed,
            device=device,
            model=model,
            on_progress=on_progress,
        )
        if not tally.findings or attempt + 1 == _ATTEMPTS or not _moved_on(store, manifest):
            break
    return Verification(
        index=store.place,
        uuid=manifest.uuid if manifest is not None else "",
        generation=manifest.generation if manifest is not None else -1,
        findings=tuple(tally.findings),
        files=tally.files,
        bytes=tally.bytes,
        rows=tally.rows,
        compared=tally.compared,
        encoded=tally.encoded,
        not_there=tally.not_there,
        changed=tally.changed,
        lowest_cosine=tally.lowest_cosine,
        seed=seed,
    )


def _moved_on(store: LocalStore, manifest: Manifest) -> bool:
    try:
        now = read_manifest(store, str(store.root))
    except (IndexFormatError, IndexNotFoundError):
        return False
    return (now.uuid, now.generation) > (manifest.uuid, manifest.generation)


def verify_manifest(
    tally: Tally,
    store: LocalStore,
    manifest: Manifest,
    *,
    sample: int,
    seed: int,
    device: str | None = None,
    model: str | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Check what one manifest names, and fill in ``tally``; see ``verify_index``."""
    hear = on_progress or (lambda what, done, total: None)
    total = max(1, sum(ref.bytes for ref in manifest.files()))

    def done() -> None:
        hear("bytes", min(tally.bytes, total), total)

    _check_spaces(tally, manifest)
    store.look_again(ref.name for ref in manifest.files())
    deleted = read_deleted(tally, store, manifest, done)
    caches = cache_checks(tally, manifest, deleted)
    shards = check_shards(tally, store, manifest, caches, done, deleted)
    check_all_thumbnails(tally, manifest, shards)
    tables = check_tables(tally, store, manifest, shards, deleted, done)
    if tables.paths is not None:
        check_places(tally, store, manifest)
    check_label_sets(tally)
    check_discoveries(tally, manifest.uuid)
    check_saved_searches(tally)
    check_export_records(tally)
    compare_sample(tally, store, manifest, shards, tables, sample, seed, device, model, hear)


def _check_spaces(tally: Tally, manifest: Manifest) -> None:
    space = manifest.default_space
    if manifest.images and (space is None or space not in manifest.embeddings):
        tally.error(
            "space",
            "manifest.json",
            f"names the space {space}, of which it holds no vectors",
            "restore the index from a backup, or index the photos into a new folder",
        )
