"""Encode a random sample of images again, and compare with the vectors the index has."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipsearch.backends import BACKENDS, BARS, CLOSE, REFERENCE, STRICT, admission_of, backend_of
from clipsearch.encoder import Encoder, Space, UInt8, load_encoder
from clipsearch.errors import ImageError, ModelError, SpaceMismatchError
from clipsearch.file_kinds import container_of
from clipsearch.images import decode_image, read_image
from clipsearch.manifest import Manifest, ShardRef
from clipsearch.paths import PRESENT, place_text
from clipsearch.remote_urls import is_remote
from clipsearch.shards import Float16, Int64, as_numpy, read_tables
from clipsearch.spaces import shard_number
from clipsearch.store import LocalStore
from clipsearch.vectors import read_vectors
from indexer.check_shards import SoundShards
from indexer.check_tables import SoundTables
from indexer.config import IndexConfig
from indexer.containers import MemberReader
from indexer.findings import Progress, Tally
from indexer.presence import holds_anything, look_at

SAME_MACHINE_COSINE = 0.999  # decoded and computed as then: only the rounding to fp16 differs
ANY_MACHINE_COSINE = 0.99
IMPORTED_COSINE = 0.9  # resized by another program; what comes in has a mean of 0.95 or more
_BATCH = 32
_FURTHER = {name: 1 - BARS[CLOSE].min_cosine for name in BACKENDS if name != REFERENCE}
"""How much less alike the vectors of a back-end may be that was admitted as a close one."""
_LOOKS_PER_IMAGE = 20  # a disk that is not there must not be asked for each of its files

_HASHES = pa.schema(
    [pa.field("id", pa.int64(), nullable=False), pa.field("sha256", pa.binary(32), nullable=False)]
)


@dataclass(frozen=True)
class _Drawn:
    """An image of the sample: its file, its id, and the sha256 its content should have."""

    path: str
    id: int
    sha256: bytes


def compare_sample(
    tally: Tally,
    store: LocalStore,
    manifest: Manifest,
    shards: SoundShards,
    tables: SoundTables,
    sample: int,
    seed: int,
    device: str | None,
    model: str | None,
    on_progress: Progress,
) -> None:
    """Encode up to ``sample`` images whose files are as they were, and compare the vectors.

    model : where the index's model is now. Without it a note is all there is. Raises
    SpaceMismatchError when a model that was named is another one, OptionError for a device.
    """
    space_id = manifest.default_space
    if sample < 1 or space_id is None or space_id not in manifest.spaces or tables.paths is None:
        return
    refs = {
        shard_number(ref.name): ref
        for ref in shards.embeddings.get(space_id, [])
        if shard_number(ref.name) in shards.images
    }
    drawn = _draw(tally, store, manifest, shards, tables, refs, sample, seed)
    if not drawn:
        return
    encoder = _encoder(tally, manifest.spaces[space_id], model, device)
    if encoder is None:
        return
    config = IndexConfig.from_dict(manifest.config)
    done = 0
    members = MemberReader()
    for ref in refs.values():
        inside = [item for item in drawn if ref.first_id <= item.id <= ref.last_id]
        if not inside:
            continue
        ids, stored = read_vectors(store, ref, encoder.space.dim)
        for start in range(0, len(inside), _BATCH):
            part = inside[start : start + _BATCH]
            _compare(tally, encoder, ref, part, ids, stored, config, members, seed, sample)
            done += len(part)
            on_progress("images", done, len(drawn))


def _draw(
    tally: Tally,
    store: LocalStore,
    manifest: Manifest,
    shards: SoundShards,
    tables: SoundTables,
    refs: dict[str, ShardRef],
    sample: int,
    seed: int,
) -> list[_Drawn]:
    """A random sample of the files that have the size and time of change the index knows."""
    paths = tables.paths
    assert paths is not None
    known = [shards.images[stem][1] for stem in refs]
    ids = np.setdiff1d(
        np.concatenate([np.empty(0, np.int64), *known]),
        tables.deleted if tables.deleted is not None else np.empty(0, np.int64),
    )
    present = np.array([state == PRESENT for state in paths.column("state").to_pylist()], bool)
    rows = np.flatnonzero(present & np.isin(as_numpy(paths.column("id")), ids))
    rows = np.random.default_rng(seed).permutation(rows)
    silent = {
        root.id for root in manifest.roots if is_remote(root.path) and not holds_anything(root.path)
    }
    found: list[tuple[str, int]] = []
    taken: set[int] = set()
    for row in rows[: sample * _LOOKS_PER_IMAGE]:
        if len(found) == sample:
            break
        # One row at a time: a million rows as Python objects would be gigabytes.
        values = {name: paths.column(name)[int(row)].as_py() for name in _PATH_COLUMNS}
        path = place_text(manifest.root(values["root"]).path, values["path"])
        here = None
        # In object storage an image is asked after by itself; a bucket that is silent, not again.
        container = None if is_remote(path) else container_of(path)
        if values["root"] not in silent:
            with contextlib.suppress(OSError):
                here = look_at(container or path)
        if here is None:
            tally.not_there += 1
            continue
        size = here.st_size if container is None else values["size"]
        if (size, here.st_mtime_ns) != (values["size"], values["mtime_ns"]):
            tally.changed += 1
        elif values["id"] not in taken:
            taken.add(values["id"])
            found.append((path, values["id"]))
    hashes = _hashes(store, [shards.images[stem][0] for stem in refs], taken)
    return [_Drawn(path, image_id, hashes[image_id]) for path, image_id in found]


_PATH_COLUMNS = ("root", "path", "size", "mtime_ns", "id")


def _hashes(store: LocalStore, refs: list[ShardRef], ids: set[int]) -> dict[int, bytes]:
    """The sha256 of some images."""
    hashes: dict[int, bytes] = {}
    for ref in refs:
        wanted = [image_id for image_id in ids if ref.first_id <= image_id <= ref.last_id]
        if wanted:
            table = read_tables(store, [ref], _HASHES, ["id", "sha256"])
            rows = np.searchsorted(as_numpy(table.column("id")), wanted)
            column = table.column("sha256")
            hashes.update(
                (i, column[int(row)].as_py()) for i, row in zip(wanted, rows, strict=True)
            )
    return hashes


def _encoder(tally: Tally, space: Space, model: str | None, device: str | None) -> Encoder | None:
    try:
        encoder = load_encoder(model or space.model, device=device)
    except ModelError as error:
        if model is not None:
            raise
        tally.note(
            "no-model",
            space.model,
            f"the vectors were not compared: {str(error).splitlines()[0]}",
            f"clipsearch model get {space.model}, or name its folder with --model",
        )
        return None
    if encoder.space.fingerprint == space.fingerprint:
        return encoder
    if model is not None:
        raise SpaceMismatchError(
            f"the index was made with {space.model} (space {space.id}), and {model} gives space "
            f"{encoder.space.id}: name the model of the index"
        )
    tally.note("other-model", space.model, "the vectors were not compared: it is another model now")
    return None


def _compare(
    tally: Tally,
    encoder: Encoder,
    ref: ShardRef,
    part: list[_Drawn],
    ids: Int64,
    stored: Float16,
    config: IndexConfig,
    members: MemberReader,
    seed: int,
    sample: int,
) -> None:
    """Compare some images of one shard."""
    decode = str(ref.recipe.get("decode", config.decode))
    pixels: list[UInt8] = []
    kept: list[_Drawn] = []
    for item in part:
        try:
            container = container_of(item.path)
            read = (
                functools.partial(read_image, item.path)
                if container is None
                else functools.partial(
                    decode_image, members.read(container, Path(item.path)), item.path
                )
            )
            image = read(
                encoder.space.geometry,
                decode="fast" if decode == "device" else decode,
                max_megapixels=config.max_megapixels,
                # As then: a JPEG that is decoded small is not decoded below its thumbnail.
                thumbnail_side=config.thumbnail_side,
            )
        except ImageError:
            tally.not_there += 1
            continue
        if image.sha256 != item.sha256:
            _other_content(tally, item)
            continue
        pixels.append(image.pixels)
        kept.append(item)
    if not kept:
        return
    computed = encoder.encode_images(np.stack(pixels))
    rows = stored[np.searchsorted(ids, [item.id for item in kept])].astype(np.float32)
    cosines = np.einsum("ij,ij->i", computed, rows) / np.linalg.norm(rows, axis=1)
    tally.encoded += len(kept)
    before = [] if tally.lowest_cosine is None else [tally.lowest_cosine]
    tally.lowest_cosine = min([*before, *cosines.tolist()])
    least = _least_cosine(encoder.recipe, ref.recipe)
    for item, cosine in zip(kept, cosines, strict=True):
        if not cosine >= least:
            tally.error(
                "vector",
                ref.name,
                f"image {item.id} ({item.path}) has a vector that is not its own: cosine "
                f"{cosine:.4f}, expected {least} or more",
                f"{tally.repair} --sample {sample} --seed {seed}",
            )


def _other_content(tally: Tally, item: _Drawn) -> None:
    tally.changed += 1
    tally.note(
        "changed",
        item.path,
        "has another content than when it was indexed, although its size and time of change are "
        "the same",
        "touch it and run 'clipsearch index' if that is meant; else restore the photo",
    )


def _least_cosine(now: dict[str, Any], then: dict[str, Any]) -> float:
    """How alike a vector computed now has to be to the one computed then."""
    if "imported" in then:
        return IMPORTED_COSINE
    same = (
        then.get("decode", "device") != "device"
        and "backends" not in then
        and backend_of(now) == backend_of(then)
        and now.get("device") == then.get("device")
    )
    if same:
        return SAME_MACHINE_COSINE
    widest = max(
        (_FURTHER.get(name, 0.0) for name in then.get("backends", [backend_of(then)])),
        default=0.0,
    )
    admission = admission_of(then)
    if admission is not None and admission.level == STRICT:
        widest = 0.0
    return ANY_MACHINE_COSINE - widest
