"""Give the images of an index the vectors they lack in one of its spaces, part by part.

Every part is committed as it is done, so a run that is killed loses about a minute of work and
the next one goes on; readers see a space grow, and the other spaces answer as ever.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from clipsearch.backends import REFERENCE, backend_of
from clipsearch.encoder import Encoder, Float32, Space
from clipsearch.errors import ClipsearchError, OptionError, SpaceMismatchError
from clipsearch.manifest import ShardRef
from clipsearch.shards import Int64, embedding_table, write_shard
from clipsearch.spaces import lacking_ids, shard_number
from clipsearch.vectors import read_vectors
from indexer.admission import Sample, sample_of
from indexer.choose_backend import backend_name, choose_backend
from indexer.commit import Committer
from indexer.config import IndexConfig
from indexer.device_runner import parse_devices, runner_for
from indexer.encode_plan import EncodePlan, default_plan
from indexer.estimate import remembered_plan
from indexer.pace import PaceTeller, clock_for
from indexer.report import BackendChosen, Committed, Encoded, Event, FillingSpace, SpaceFilled
from indexer.runner import FarRunner, Runner, closed_at_the_end

if TYPE_CHECKING:
    from indexer.lacking import Encodable
    from indexer.vector_task import TaskVectors, VectorTask

_FIRST_PART = 64
_PART_IMAGES = (32, 8_192)  # what a part keeps in memory has a bound


def fill_known_spaces(
    committer: Committer,
    config: IndexConfig,
    device: str | None,
    tell: Callable[[Event], None],
    runner: Runner | None = None,
    loaded: Encoder | None = None,
) -> tuple[SpaceFilled, ...]:
    """Bring every space of the index up to all its images; what was done, of the spaces that
    lacked some. A model that cannot be loaded is no error: its space waits for another run."""
    done = []
    for space in committer.manifest.spaces.values():
        encoder = loaded if loaded is not None and _is_of(loaded, space) else None
        filled = fill_space(committer, space, config, device, tell, runner, encoder)
        if filled.encoded or filled.lacking:
            done.append(filled)
    return tuple(done)


def _is_of(encoder: Encoder, space: Space) -> bool:
    return encoder.space.fingerprint == space.fingerprint


def fill_space(
    committer: Committer,
    space: Space,
    config: IndexConfig,
    device: str | None,
    tell: Callable[[Event], None],
    runner: Runner | None = None,
    encoder: Encoder | None = None,
    is_asked: bool = False,
) -> SpaceFilled:
    """Encode the images that have no vector in ``space`` and a file that is there, and commit
    them; the caller brings up the cache.

    encoder : of the space, where it is loaded already. is_asked : the user asked for this very
    space, so a model that cannot be loaded is an error. Raises OptionError when the disk has no
    room, IndexFormatError, IndexReadError.
    """
    devices = parse_devices(device)
    device = devices[0]
    store, manifest = committer.store, committer.manifest
    lacking = lacking_ids(store, manifest, space.id, committer.deleted())
    total = sum(map(len, lacking.values()))

    def filled(encoded: int, seconds: float = 0.0, why: str = "") -> SpaceFilled:
        return SpaceFilled(space.model, space.id, encoded, total - encoded, seconds, why)

    if not total:
        return filled(0)
    from indexer.lacking import KnownPlaces, encodable

    found = encodable(store, manifest, lacking, KnownPlaces(store, manifest))
    first = next(found, None)
    if first is None:  # nothing to load a model for
        return filled(0)
    try:
        if encoder is None:
            asked = config.backend
            if isinstance(runner, FarRunner):
                asked = runner.backend_for(asked)
            chosen_backend = choose_backend(
                asked,
                space.model,
                _sample(committer, first, config),
                total,
                device=device,
                tell=tell,
            )
            encoder = chosen_backend.encoder
            if chosen_backend.line:
                tell(BackendChosen(chosen_backend.name, chosen_backend.line))
        if not _is_of(encoder, space):
            raise SpaceMismatchError(f"{space.model} is another model now ({encoder.space.id})")
    except ClipsearchError as error:
        if is_asked:
            raise
        return filled(0, why=str(error).splitlines()[0])
    from indexer.vector_task import embed_vectors  # and with it Pillow, only when needed

    _refuse_full_disk(committer, total * 2 * space.dim)
    tell(FillingSpace(total, space.model, str(encoder.recipe["device"])))
    begin = time.perf_counter()
    fallback = default_plan(config, str(encoder.recipe["device"]), backend_name(encoder))
    plan = remembered_plan(encoder, config, fallback, total)
    filling = _Filling(committer, space, config, device, plan)
    clock = clock_for(encoder)
    pace = PaceTeller(clock, plan, tell, len(devices))

    far = runner if isinstance(runner, FarRunner) else None

    def told(count: int) -> None:
        tell(Encoded(count))
        if far is None:
            pace.tick()

    chosen = runner or runner_for(devices, told, clock)
    if far is not None:
        chosen = far.listened_to(told, clock)
    tasks = filling.tasks(chain([first], found))
    with closed_at_the_end(chosen.run(embed_vectors, tasks)) as parts:
        for part in parts:
            if runner is not None and far is None:
                tell(Encoded(len(part.task.images)))
            with clock.busy("write"):
                filling.take(part)
            tell(Committed(filling.encoded))
    filling.commit()
    tell(Encoded(total - filling.tried))  # no file is there that holds the others
    failed = far.failed if far is not None else []
    why = failed[-1].reason if failed and filling.encoded < total else ""
    return filled(filling.encoded, time.perf_counter() - begin, why)


def _sample(committer: Committer, some: Encodable, config: IndexConfig) -> Sample:
    """Photos of the first shard that lacks vectors, to compare back-ends with."""
    roots = {root.id: root.path for root in committer.manifest.roots}
    files = [image.files[0] for image in some.images]
    return sample_of(files, roots, decode=config.decode, max_megapixels=config.max_megapixels)


def _refuse_full_disk(committer: Committer, needed: int) -> None:
    free = shutil.disk_usage(committer.index).free
    if needed > free:
        raise OptionError(
            f"the vectors need about {needed / 1e6:,.0f} MB at {committer.index}, and only "
            f"{free / 1e6:,.0f} MB are free: make room first"
        )


class _Filling:
    """One space being filled: cuts the work into tasks and commits what they bring."""

    def __init__(
        self,
        committer: Committer,
        space: Space,
        config: IndexConfig,
        device: str | None,
        plan: EncodePlan,
    ) -> None:
        self._plan = plan
        self._committer = committer
        self._space = space
        self._config = config
        self._device = device
        self._pending: list[TaskVectors] = []
        self._begin = self._committed_at = time.perf_counter()
        self.tried = 0
        self.encoded = 0

    def tasks(self, found: Iterable[Encodable]) -> Iterator[VectorTask]:
        """Parts of about as much work as a shard holds, by what was measured so far."""
        from indexer.vector_task import VectorTask

        roots = {root.id: root.path for root in self._committer.manifest.roots}
        for shard in found:
            start = 0
            while start < len(shard.images):
                stop = start + self._part_images()
                yield VectorTask(
                    number=shard.number,
                    images=shard.images[start:stop],
                    roots=roots,
                    model=self._space.model,
                    device=self._device,
                    fingerprint=self._space.fingerprint,
                    space_id=self._space.id,
                    config=self._config,
                    plan=self._plan,
                )
                start = stop

    def _part_images(self) -> int:
        if not self.tried:
            return _FIRST_PART
        each = (time.perf_counter() - self._begin) / self.tried
        least, most = _PART_IMAGES
        return min(max(int(self._config.shard_seconds / max(each, 1e-6)), least), most)

    def take(self, part: TaskVectors) -> None:
        """Take in what a task brought, and commit when that is worth it."""
        self.tried += len(part.task.images)
        if len(part.ids):
            self.encoded += len(part.ids)
            self._pending.append(part)
        waited = time.perf_counter() - self._committed_at
        held = sum(len(waiting.ids) for waiting in self._pending)
        if waited >= self._config.shard_seconds or held >= _PART_IMAGES[1]:
            self.commit()

    def commit(self) -> None:
        """Make what waits part of the index: every shard that grows is written anew."""
        if self._pending:
            self._committer.commit(embeddings=self._grown())
        self._pending = []
        self._committed_at = time.perf_counter()

    def _grown(self) -> dict[str, tuple[ShardRef, ...]]:
        manifest = self._committer.manifest
        space_id = self._space.id
        of_number = {shard_number(ref.name): ref for ref in manifest.embeddings.get(space_id, ())}
        for number in dict.fromkeys(part.task.number for part in self._pending):
            parts = [part for part in self._pending if part.task.number == number]
            of_number[number] = self._revised(number, of_number.get(number), parts)
        refs = sorted(of_number.values(), key=lambda ref: ref.first_id)
        return {**manifest.embeddings, space_id: tuple(refs)}

    def _revised(self, number: str, before: ShardRef | None, parts: list[TaskVectors]) -> ShardRef:
        """Write the shard that holds the rows of ``before`` and those of ``parts``."""
        store, manifest = self._committer.store, self._committer.manifest
        ids = [part.ids for part in parts]
        vectors: list[Any] = [part.vectors for part in parts]
        recipe = parts[0].recipe
        if before is not None:
            old_ids, old_vectors = read_vectors(store, before, self._space.dim)
            ids, vectors = [old_ids, *ids], [old_vectors, *vectors]
            recipe = _common(before.recipe, recipe)
        name = f"embeddings/{self._space.id}/{number}-{manifest.generation + 1:07d}.parquet"
        name = store.unused(name)
        table = embedding_table(*_in_order(ids, vectors))
        return write_shard(
            store, name, table, kind="embeddings", index_uuid=manifest.uuid, recipe=recipe
        )


def _in_order(ids: list[Int64], vectors: list[Any]) -> tuple[Int64, Float32]:
    every = np.concatenate(ids)
    order = np.argsort(every)
    # fp16 rows come back as they were: float32 holds each of their numbers.
    return every[order], np.concatenate(vectors).astype(np.float32, copy=False)[order]


def _common(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The recipe of a shard that was computed in two goes: what both have in common, so that
    nobody takes it for the work of one of them, and the back-ends of both where they differ. An
    imported shard stays one."""
    both = {key: value for key, value in now.items() if before.get(key) == value}
    imported = {key: before[key] for key in ("imported",) if key in before}
    of_one = {*_backends(before), *_backends(now)}
    if len(of_one) > 1:
        both["backends"] = sorted(of_one)
    elif not imported:
        both.update({key: now[key] for key in ("backend", "precision") if key in now})
    return {**both, **imported}


def _backends(recipe: dict[str, Any]) -> list[str]:
    if "imported" in recipe:
        return []
    return list(recipe.get("backends", [backend_of(recipe) or REFERENCE]))
