"""Build or update an index: scan, plan, encode shard by shard, commit each."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clipsearch import __version__
from clipsearch.backends import REFERENCE
from clipsearch.encoder import Encoder, Space
from clipsearch.errors import IndexNotFoundError, OptionError, SpaceMismatchError
from clipsearch.manifest import Manifest, new_manifest, read_for_writing, read_manifest
from clipsearch.model_names import choose_model, resolve_model_name
from clipsearch.store import index_folder, open_store
from indexer.admission import SAMPLE_IMAGES, sample_of
from indexer.background_texts import remember_background, remember_fits
from indexer.bring_up import bring_up_discoveries
from indexer.choose_backend import backend_name, choose_backend
from indexer.commit import Committer, remove_leftovers
from indexer.compiled_encoder import check_can_compile, compile_ahead
from indexer.config import IndexConfig
from indexer.device_runner import parse_devices, runner_for
from indexer.encode_plan import EncodePlan, default_plan
from indexer.estimate import Estimator
from indexer.fill_spaces import fill_known_spaces
from indexer.final_report import final_report
from indexer.lock import writer_lock
from indexer.look import Look, differences, forecast, look
from indexer.pace import PaceTeller, clock_for
from indexer.place import make_folder, taken_away_if_nothing_came
from indexer.plan import encode_bytes
from indexer.report import (
    BackendChosen,
    BackendPreparing,
    BuildReport,
    Committed,
    Encoded,
    Event,
    Finished,
    Forecast,
    Planned,
)
from indexer.runner import FarRunner, Runner, closed_at_the_end
from indexer.sources import PathName, resolve_sources
from indexer.stage_clock import Verdict
from indexer.tuning_memory import TuningMemory
from indexer.update import Update

if TYPE_CHECKING:
    from indexer.shard_task import ShardTask

_THUMBNAIL_BYTES = 18_000
_METADATA_BYTES = 1_500


def saved_config(index: PathName) -> IndexConfig:
    """The settings an index was built with; the defaults when there is no index yet."""
    return IndexConfig.from_dict(_manifest_or_new(index_folder(index)).config)


def _manifest_or_new(place: Path) -> Manifest:
    try:
        return read_manifest(open_store(place), str(place))
    except IndexNotFoundError:
        return new_manifest(f"clipsearch {__version__}")


def _as_list(sources: PathName | Sequence[PathName]) -> Sequence[PathName]:
    return [sources] if isinstance(sources, str | os.PathLike) else sources


def preview(
    sources: PathName | Sequence[PathName] = (),
    index: PathName = "",
    *,
    listed: Iterable[PathName] = (),
    retry: bool = False,
    config: IndexConfig | None = None,
) -> tuple[Forecast, Look]:
    """What ``build_index`` would do with the same arguments; writes nothing and takes no lock.

    Raises as ``build_index`` does, but for what concerns models.
    """
    place = index_folder(index)
    manifest = _manifest_or_new(place)
    config = config or IndexConfig.from_dict(manifest.config)
    threads = config.threads
    seen = look(place, manifest, _as_list(sources), listed, config, threads, retry)
    return forecast(seen, place), seen


def build_index(
    sources: PathName | Sequence[PathName],
    index: PathName,
    *,
    listed: Iterable[PathName] = (),
    retry: bool = False,
    encoder: str | None = None,
    device: str | None = None,
    config: IndexConfig | None = None,
    allow_download: bool = False,
    runner: Runner | None = None,
    on_event: Callable[[Event], None] | None = None,
    compiled: bool = False,
) -> BuildReport:
    """Make or update the index at ``index`` from folders of images.

    sources : folders, single images, and .tar or .parquet files of images; none at all are the
        folders the index knows. A folder of the index that is not there now is no error: its
        files are noted as missing.
    listed : further single files, of which some may be gone by now.
    retry : try every file again that was skipped before.
    encoder : a model's name (see ``load_encoder``); None is the model of the index, or for a
        new index the recommended one if its weights are here. The model of an index never
        changes. config : None is what the index was built with.
    compiled : let torch compile the image tower for this run; it goes on without, and says so,
        where that cannot be done.

    What is finished is committed shard by shard and stays when the run is interrupted.

    Raises SourceError, IndexLockedError, OptionError, SpaceMismatchError, IndexFormatError
    and the errors of ``load_encoder``.
    """
    sources, listed = _as_list(sources), list(listed)
    place = index_folder(index)
    manifest = _manifest_or_new(place)
    resolve_sources(sources, manifest.roots)  # before anything is made
    config = config or IndexConfig.from_dict(manifest.config)
    if compiled:
        check_can_compile(config.backend)
    is_ours = make_folder(place)
    try:
        with writer_lock(place), taken_away_if_nothing_came(place, is_ours):
            run = _Run(place, config, device, on_event or (lambda event: None), compiled, runner)
            run.look(sources, listed, retry)
            run.choose_encoder(encoder, allow_download)
            report = run.carry_out()
        run.tell(Finished(report))
        bring_up_discoveries(place)
        if report.new and run.loaded is not None:
            remember_background(run.loaded, run.tell)
            remember_fits(place)
        return report
    finally:
        if is_ours:
            with contextlib.suppress(OSError):  # only when it is empty, the lock gone too
                place.rmdir()


class _Run:
    """One run over one index, holding the writer's lock."""

    def __init__(
        self,
        place: Path,
        config: IndexConfig,
        device: str | None,
        tell: Callable[[Event], None],
        compiled: bool,
        runner: Runner | None = None,
    ) -> None:
        self.runner = runner
        self.far = runner if isinstance(runner, FarRunner) else None
        self.place = place
        self.config = config
        self.device_names = device
        self.devices = parse_devices(device)
        self.device = self.devices[0]
        self.tell = tell
        self.compiled = compiled
        self.store = open_store(place)
        self.threads = config.threads
        self.manifest: Manifest
        self.seen: Look
        self.space: Space
        self.model: str
        self.plan: EncodePlan  # settled once the encoder is there
        self.loaded: Encoder | None = None
        self.verdict: Verdict | None = None
        self.has_moved = False

    def look(self, sources: Sequence[PathName], listed: list[PathName], retry: bool) -> None:
        """Scan the folders and compare with what the index knows."""
        try:
            manifest = read_for_writing(self.store, str(self.place))
        except IndexNotFoundError:
            manifest = new_manifest(f"clipsearch {__version__}")
        remove_leftovers(self.store, manifest)
        self.seen = look(self.place, manifest, sources, listed, self.config, self.threads, retry)
        self.manifest = self.seen.manifest
        if len(self.seen.plan.encode):
            from indexer.decode import start_workers

            # They get ready while the model is loaded.
            start_workers(min(self.config.threads, len(self.seen.plan.encode)))

    def choose_encoder(self, name: str | None, allow_download: bool) -> None:
        """Settle the model: the index's own, else the one named, else the recommended one."""
        saved = self.manifest.default_space
        if saved is not None:
            self.space = self.manifest.spaces[saved]
            self.model = self.space.model
            if name is None or resolve_model_name(name) == self.model:
                if len(self.seen.plan.encode):
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
        self._settle_backend(self.model, allow_download)
        assert self.loaded is not None
        self.space = self.loaded.space

    def _settle_backend(self, model: str, allow_download: bool) -> None:
        """Load the encoder with the back-end that was asked for, or that suits the run."""
        encode, images = self.seen.plan.encode, self.seen.scan.images
        step = max(1, len(encode) // SAMPLE_IMAGES)
        asked = self.config.backend
        if self.far is not None and len(encode):
            asked = self.far.backend_for(asked)
        chosen = choose_backend(
            asked,
            model,
            sample_of(
                images.files(encode[::step][:SAMPLE_IMAGES]),
                {root.id: root.path for root in self.manifest.roots},
                decode=self.config.decode,
                max_megapixels=self.config.max_megapixels,
            ),
            len(encode),
            device=self.device,
            allow_download=allow_download,
            tell=self.tell,
            begun_with=TuningMemory().backend(self.manifest.uuid),
        )
        self.loaded = chosen.encoder
        if chosen.line and len(encode):
            self.tell(BackendChosen(chosen.name, chosen.line))

    def _load(self, model: str, allow_download: bool) -> None:
        self._settle_backend(model, allow_download)
        assert self.loaded is not None
        if self.loaded.space.fingerprint != self.space.fingerprint:
            spaces = self.manifest.spaces.values()
            is_here = any(s.fingerprint == self.loaded.space.fingerprint for s in spaces)
            move = f"'clipsearch model use {model}' answers with it"
            add = f"'clipsearch model add {model}' gives it the vectors of both"
            raise SpaceMismatchError(
                f"the index at {self.place} answers with {self.space.model} ({self.space.id}), "
                f"and {model} is {self.loaded.space.id}: {move if is_here else add}; or make "
                "another index with --index"
            )

    def carry_out(self) -> BuildReport:
        """Encode what is new, commit it shard by shard, and report."""
        seen, plan = self.seen, self.seen.plan
        device = str(self.loaded.recipe["device"]) if self.loaded else "-"
        backend = backend_name(self.loaded) if self.loaded else REFERENCE
        if self.compiled:
            check_can_compile(backend)  # "auto" may have chosen any
        fallback = default_plan(self.config, device, backend)
        fallback = dataclasses.replace(fallback, compile=self.compiled)
        estimator = Estimator(
            self.loaded,
            seen,
            self.config,
            fallback,
            devices=len(self.devices),
            before_trial=lambda seconds: self.tell(
                BackendPreparing(
                    backend,
                    f"Trying for {seconds:.0f} seconds how {backend} encodes fastest here, once.",
                )
            ),
            may_try=self.far is None,
        )
        ahead = estimator.estimate()
        self.plan = ahead.plan
        rows, seconds = ahead.shard_rows, ahead.seconds
        if self.far is not None and len(plan.encode):
            rows = self.far.shard_rows(rows, len(plan.encode))
            times = self.far.times_faster()
            seconds = None if seconds is None or times is None else seconds / times
        if self.far is None and self.plan.compile and self.loaded is not None and len(plan.encode):
            self._compile(self.loaded)
        disk = len(plan.encode) * (6 * self.space.dim + _THUMBNAIL_BYTES + _METADATA_BYTES)
        free = shutil.disk_usage(self.place).free
        if disk > free:
            raise OptionError(
                f"the index needs about {disk / 1e6:,.0f} MB at {self.place}, and only "
                f"{free / 1e6:,.0f} MB are free: make room, or choose another place with --index"
            )
        self.tell(
            Planned(
                found=seen.scan.found,
                new=len(plan.encode),
                unchanged=plan.unchanged,
                new_bytes=encode_bytes(plan, seen.scan),
                seconds=seconds,
                disk_bytes=disk,
                model=self.model,
                device=device,
            )
        )
        moved = (
            sum(change.kind == "moved" for change in differences(seen)) if len(plan.noted) else 0
        )
        before = self.manifest.generation
        # The settings go in with the first commit, so that a run that is cut short is gone on
        # with as it began.
        config = self.config.to_dict()
        changed = config != self.manifest.config or self.has_moved
        self.manifest = dataclasses.replace(self.manifest, config=config)
        committer = Committer(self.place, self.manifest)
        if self.space.id not in self.manifest.spaces:
            committer.add_space(self.space)
        update = Update(committer, seen.scan, plan, seen.known)
        update.note_files()
        begin = time.perf_counter()
        done = self._encode(rows, update) if len(plan.encode) else 0
        encode_seconds = time.perf_counter() - begin
        # What others took says nothing of this machine.
        estimator.remember(done if self.far is None else 0, encode_seconds)
        if self.loaded is not None and committer.needs_texts():
            remember_background(self.loaded, self.tell)  # what a search is measured with
        update.finish(changed=changed or committer.manifest.generation != before)
        # What is searchable now is so before it gets the vectors of other models, too.
        filled = fill_known_spaces(
            committer, self.config, self.device_names, self.tell, self.runner, self.loaded
        )
        if any(space.encoded for space in filled):
            committer.bring_up_cache()
            remove_leftovers(self.store, committer.manifest)
        report = final_report(
            seen,
            committer,
            self.model,
            new=done,
            moved=moved,
            encode_seconds=encode_seconds,
            has_changed=committer.manifest.generation != before,
            failed=() if self.far is None else self.far.failed,
        )
        if self.verdict is not None and self.verdict.text:
            report = dataclasses.replace(
                report, verdict=self.verdict.text, shares=self.verdict.shares
            )
        return dataclasses.replace(report, spaces=filled)

    def _compile(self, encoder: Encoder) -> None:
        """Compile the encoder, or settle for it as it is."""
        name = self.plan.backend
        self.tell(BackendChosen(name, "Compiling the image tower, once: minutes for a large one."))
        trouble = compile_ahead(encoder, self.plan)
        if trouble is not None:
            self.plan = dataclasses.replace(self.plan, compile=False)
            self.tell(BackendChosen(name, f"Going on without --compile: {trouble}"))

    def _encode(self, rows: int, update: Update) -> int:
        """Encode shards of ``rows`` files and commit each; how many images that were."""
        from indexer.shard_task import embed_shard  # and with it Pillow, only when needed

        assert self.loaded is not None
        clock = clock_for(self.loaded)
        pace = PaceTeller(clock, self.plan, self.tell, len(self.devices))

        def told(count: int) -> None:
            self.tell(Encoded(count))
            if self.far is None:
                pace.tick()

        chosen = self.runner or runner_for(self.devices, told, clock)
        if self.far is not None:
            chosen = self.far.listened_to(told, clock)
        done = 0
        with closed_at_the_end(chosen.run(embed_shard, self._tasks(rows))) as shards:
            for info in shards:
                if self.runner is not None and self.far is None:  # nothing was heard of it so far
                    self.tell(Encoded(len(info.task.files)))
                with clock.busy("write"):
                    update.add_shard(info)
                done += len(info.indexed)
                self.tell(Committed(done))
        if self.runner is None:  # elsewhere nobody looks at this clock
            self.verdict = pace.verdict()
        return done

    def _tasks(self, rows: int) -> Iterator[ShardTask]:
        from indexer.shard_task import ShardTask

        encode, images = self.seen.plan.encode, self.seen.scan.images
        same_as = self.seen.plan.same_as
        for number, start in enumerate(range(0, len(encode), rows)):
            some = encode[start : start + rows]
            yield ShardTask(
                index=self.store.place,
                index_uuid=self.manifest.uuid,
                number=self.manifest.next_shard + number,
                first_id=self.manifest.next_id + start,
                files=tuple(images.files(some)),
                copies={
                    row: tuple(images.files(same_as[row].rows))
                    for row in some.tolist()
                    if row in same_as
                },
                roots={root.id: root.path for root in self.manifest.roots},
                model=self.model,
                device=self.device,
                fingerprint=self.space.fingerprint,
                space_id=self.space.id,
                config=self.config,
                plan=self.plan,
            )
