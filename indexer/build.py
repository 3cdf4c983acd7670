"""Build or update an index: scan, plan, encode shard by shard, commit each."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from clipsearch import __version__
from clipsearch.encoder import Encoder, Space, load_encoder
from clipsearch.errors import (
    ImageError,
    IndexNotFoundError,
    OptionError,
    SourceError,
    SpaceMismatchError,
)
from clipsearch.images import read_image
from clipsearch.manifest import Manifest, new_manifest, read_for_writing, read_manifest
from clipsearch.model_names import choose_model, resolve_model_name
from clipsearch.paths import PRESENT, relative_bytes
from clipsearch.store import LocalStore
from indexer.commit import Committer, remove_leftovers
from indexer.config import IndexConfig
from indexer.decode import default_threads
from indexer.lock import writer_lock
from indexer.place import make_folder, taken_away_if_nothing_came
from indexer.plan import (
    RETRIED_REASONS,
    Plan,
    absolute,
    make_plan,
    read_known,
    read_skipped,
)
from indexer.report import BuildReport, Committed, Encoded, Event, Planned
from indexer.runner import LocalRunner, Runner
from indexer.scan import Scan, assign_roots, resolve_sources, scan, spelled_as_known
from indexer.shard_task import ShardTask, embed_shard

PathName = str | os.PathLike[str]

_PROBE_IMAGES = 16
_EXAMPLES = 5
_SHARD_ROWS = (32, 8_192)  # what a shard keeps in memory, thumbnails above all, has a bound
_SHARD_ROWS_UNMEASURED = 256
_THUMBNAIL_BYTES = 18_000
_METADATA_BYTES = 1_500


def saved_config(index: PathName) -> IndexConfig:
    """The settings an index was built with; the defaults when there is no index yet."""
    try:
        manifest = read_manifest(LocalStore(Path(index)), str(index))
    except IndexNotFoundError:
        return IndexConfig()
    return IndexConfig.from_dict(manifest.config)


def build_index(
    sources: PathName | Sequence[PathName],
    index: PathName,
    *,
    encoder: str | None = None,
    device: str | None = None,
    config: IndexConfig | None = None,
    allow_download: bool = False,
    runner: Runner | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> BuildReport:
    """Make or update the index at ``index`` from folders of images.

    encoder : a model's name (see ``load_encoder``); None is the model of the index, or for a
        new index the recommended one if its weights are here. The model of an index never
        changes. config : None is what the index was built with.

    What is finished is committed shard by shard and stays when the run is interrupted.

    Raises SourceError, IndexLockedError, OptionError, SpaceMismatchError, IndexFormatError
    and the errors of ``load_encoder``.
    """
    folders = resolve_sources([sources] if isinstance(sources, str | os.PathLike) else sources)
    if not folders:
        raise SourceError("no folder of images was named")
    place = Path(os.path.abspath(index))
    config = config or saved_config(place)
    is_ours = make_folder(place)
    try:
        with writer_lock(place), taken_away_if_nothing_came(place, is_ours):
            run = _Run(place, folders, config, device, on_event or (lambda event: None))
            run.look()
            run.choose_encoder(encoder, allow_download)
            return run.carry_out(runner)
    finally:
        if is_ours:
            with contextlib.suppress(OSError):  # only when it is empty, the lock gone too
                place.rmdir()


class _Run:
    """One run over one index, holding the writer's lock."""

    def __init__(
        self,
        place: Path,
        folders: list[Path],
        config: IndexConfig,
        device: str | None,
        tell: Callable[[Event], None],
    ) -> None:
        self.place = place
        self.folders = folders
        self.config = config
        self.device = device
        self.tell = tell
        self.store = LocalStore(place)
        self.threads = config.decode_threads or default_threads()
        self.manifest: Manifest
        self.scan: Scan
        self.plan: Plan
        self.space: Space
        self.model: str
        self.loaded: Encoder | None = None
        self.has_moved = False

    def look(self) -> None:
        """Scan the folders and compare with what the index knows."""
        try:
            self.manifest = read_for_writing(self.store, str(self.place))
            remove_leftovers(self.store, self.manifest)
        except IndexNotFoundError:
            self.manifest = new_manifest(f"clipsearch {__version__}")
        self.folders = [spelled_as_known(path, self.manifest.roots) for path in self.folders]
        roots = assign_roots(self.manifest, self.folders)
        self.manifest = dataclasses.replace(
            self.manifest, roots=roots, next_root=max([-1, *(root.id for root in roots)]) + 1
        )
        self.scan = scan(self.folders, roots, self.config.exclude, self.place)
        self.known = read_known(self.store, self.manifest)
        if not self.scan.images and not self._knows_a_file_here():
            others = sum(self.scan.ignored.values())
            raise SourceError(
                f"no images in {', '.join(map(str, self.folders))} ({others:,} other files): "
                "expected .jpg, .png, .webp, .heic, .tiff and the like"
            )
        retried = RETRIED_REASONS
        saved = IndexConfig.from_dict(self.manifest.config)
        if self.config.max_megapixels > saved.max_megapixels:
            retried |= {"too_large"}
        self.plan = make_plan(
            self.scan, self.store, self.manifest, self.known, self.threads, retried
        )

    def _knows_a_file_here(self) -> bool:
        return any(
            row.root == root and row.path.startswith(prefix)
            for row in self.known.values()
            for root, prefix in self.scan.scanned
        )

    def choose_encoder(self, name: str | None, allow_download: bool) -> None:
        """Settle the model: the index's own, else the one named, else the recommended one."""
        saved = self.manifest.default_space
        if saved is not None:
            self.space = self.manifest.spaces[saved]
            self.model = self.space.model
            if name is None or resolve_model_name(name) == self.model:
                if self.plan.encode:
                    self._load(self.model, allow_download)
                return
            self.model = resolve_model_name(name)
            self._load(self.model, allow_download)
            self.has_moved = True
            self.space = dataclasses.replace(self.space, model=self.model)
            spaces = {**self.manifest.spaces, saved: self.space}
            self.manifest = dataclasses.replace(self.manifest, spaces=spaces)
            return
        self.model = resolve_model_name(name) if name is not None else choose_model()
        self.loaded = load_encoder(self.model, device=self.device, allow_download=allow_download)
        self.space = self.loaded.space

    def _load(self, model: str, allow_download: bool) -> None:
        self.loaded = load_encoder(model, device=self.device, allow_download=allow_download)
        if self.loaded.space.fingerprint != self.space.fingerprint:
            raise SpaceMismatchError(
                f"the index at {self.place} was made with {self.space.model} ({self.space.id}), "
                f"and {model} is {self.loaded.space.id}: an index keeps its model; for another "
                "one make another index with --index"
            )

    def carry_out(self, runner: Runner | None) -> BuildReport:
        """Encode what is new, commit it shard by shard, and report."""
        plan = self.plan
        seconds, rows = self._estimate()
        disk = len(plan.encode) * (6 * self.space.dim + _THUMBNAIL_BYTES + _METADATA_BYTES)
        free = shutil.disk_usage(self.place).free
        if disk > free:
            raise OptionError(
                f"the index needs about {disk / 1e6:,.0f} MB at {self.place}, and only "
                f"{free / 1e6:,.0f} MB are free: make room, or choose another place with --index"
            )
        self.tell(
            Planned(
                found=self.scan.found,
                new=len(plan.encode),
                unchanged=plan.unchanged,
                new_bytes=plan.new_bytes,
                seconds=seconds,
                disk_bytes=disk,
                model=self.model,
                device=str(self.loaded.recipe["device"]) if self.loaded else "-",
            )
        )
        before = self.manifest.generation
        # The settings go in with the first commit, so that a run that is cut short is gone on
        # with as it began.
        config = self.config.to_dict()
        changed = config != self.manifest.config or self.has_moved
        self.manifest = dataclasses.replace(self.manifest, config=config)
        committer = Committer(self.place, self.manifest, self.known)
        if self.space.id not in self.manifest.spaces:
            committer.add_space(self.space)
        committer.note_files(self.scan, plan)
        begin = time.perf_counter()
        chosen = runner or LocalRunner(lambda count: self.tell(Encoded(count)))
        done = 0
        for info in chosen.run(embed_shard, self._tasks(rows)):
            if runner is not None:  # elsewhere nothing is heard of a shard before it is done
                self.tell(Encoded(len(info.task.files)))
            committer.add_shard(info, plan)
            done += len(info.indexed)
            self.tell(Committed(done))
        encode_seconds = time.perf_counter() - begin
        changed = changed or committer.manifest.generation != before
        committer.finish(self.scan, changed=changed)
        return self._report(committer, done, encode_seconds)

    def _estimate(self) -> tuple[float | None, int]:
        """Seconds the encoding will take, and how many files make a shard of the wanted
        length, from a trial on a few of the images."""
        files = self.plan.encode
        if self.loaded is None or len(files) <= _PROBE_IMAGES:
            return None, _SHARD_ROWS_UNMEASURED
        step = len(files) // _PROBE_IMAGES
        pixels: list[np.ndarray] = []
        decode_times: list[float] = []
        for found in files[::step][:_PROBE_IMAGES]:
            begin = time.perf_counter()
            with contextlib.suppress(ImageError):
                image = read_image(
                    absolute(self.manifest, found),
                    self.space.geometry,
                    decode=self.config.decode,
                    max_megapixels=self.config.max_megapixels,
                    thumbnail_side=self.config.thumbnail_side,
                )
                pixels.append(image.pixels)
                decode_times.append(time.perf_counter() - begin)
        if len(pixels) < 2:
            return None, _SHARD_ROWS_UNMEASURED
        # The first of each sets things up, and says nothing of the thousands to come.
        decoding = sum(decode_times[1:]) / len(decode_times[1:])
        batch = np.stack(pixels)
        self.loaded.encode_images(batch)
        begin = time.perf_counter()
        self.loaded.encode_images(batch)
        encoding = (time.perf_counter() - begin) / len(batch)
        decoding /= min(self.threads, os.cpu_count() or 1)
        # On a CPU both take turns on the same cores; beside a GPU the slower one counts.
        on_cpu = self.loaded.recipe["device"] == "cpu"
        each = decoding + encoding if on_cpu else max(decoding, encoding)
        rows = int(self.config.shard_seconds / max(each, 1e-6))
        return each * len(files), min(max(rows, _SHARD_ROWS[0]), _SHARD_ROWS[1])

    def _tasks(self, rows: int) -> Iterator[ShardTask]:
        files = self.plan.encode
        for number, start in enumerate(range(0, len(files), rows)):
            yield ShardTask(
                index=str(self.place),
                index_uuid=self.manifest.uuid,
                number=self.manifest.next_shard + number,
                first_id=self.manifest.next_id + start,
                files=tuple(files[start : start + rows]),
                roots={root.id: root.path for root in self.manifest.roots},
                model=self.model,
                device=self.device,
                fingerprint=self.space.fingerprint,
                space_id=self.space.id,
                config=self.config,
            )

    def _report(self, committer: Committer, done: int, encode_seconds: float) -> BuildReport:
        known = read_known(self.store, committer.manifest)
        rows = (known.get(found.key) for found in self.scan.images)
        here = [row for row in rows if row is not None and row.state == PRESENT]
        reasons: dict[str, int] = {}
        examples: list[tuple[str, str]] = []
        wanted = {found.key for found in self.scan.images} - {(row.root, row.path) for row in here}
        for row in read_skipped(self.store, committer.manifest).to_pylist():
            if (row["root"], row["path"]) in wanted:
                reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
                if len(examples) < _EXAMPLES:
                    place = Path(self.manifest.root(row["root"]).path, relative_bytes(row["path"]))
                    examples.append((str(place), row["message"]))
        distinct = len({row.id for row in here})
        return BuildReport(
            index=str(self.place),
            model=self.model,
            found=self.scan.found,
            indexed=distinct,
            new=done,
            copies=len(here) - distinct,
            skipped=len(wanted),
            ignored=sum(self.scan.ignored.values()),
            missing=sum(row.state == "missing" for row in known.values()),
            encode_seconds=encode_seconds,
            generation=committer.manifest.generation,
            skip_reasons=reasons,
            skipped_examples=tuple(examples),
            ignored_kinds=dict(self.scan.ignored.most_common()),
            unreadable=tuple(self.scan.unreadable),
        )
