"""Bring vectors that were computed elsewhere into an index, with the model they were made with.

Whatever the size, a block of vectors and one shard are in memory at a time; beside them only
what tells known files and contents.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from clipsearch import __version__
from clipsearch.encoder import Encoder, Space, load_encoder
from clipsearch.errors import IndexNotFoundError, OptionError, SpaceMismatchError
from clipsearch.manifest import new_manifest, read_for_writing
from clipsearch.model_names import resolve_model_name
from clipsearch.store import index_folder, open_store
from indexer.background_texts import remember_background, remember_fits
from indexer.bring_up import bring_up_discoveries
from indexer.commit import Committer, remove_leftovers
from indexer.config import IndexConfig
from indexer.import_check import drawn_rows, mean_cosine, refuse_if_foreign, there
from indexer.import_intake import SHARD_ROWS, Intake
from indexer.import_places import ImportPlaces
from indexer.import_report import ImportReport
from indexer.import_source import ImportSource, open_import
from indexer.lock import writer_lock
from indexer.place import make_folder, taken_away_if_nothing_came
from indexer.sources import PathName, absolute_path

_METADATA_BYTES = 100  # of an image of which nothing is known but its path


def import_vectors(
    source: PathName,
    index: PathName,
    *,
    paths: PathName | None = None,
    root: PathName = ".",
    encoder: str | None = None,
    device: str | None = None,
    check: bool = True,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Bring precomputed vectors into the index at ``index``; a new one is made.

    source, paths : see ``open_import``. root : what relative paths are taken below.
    encoder : the model the vectors were made with; may be left out where the index has one.
    check : compare some of the vectors with what the model makes of their images.
    on_progress : hears (vectors done, vectors in all).

    A file that is there is read and decoded, but not encoded. An image whose file is not there
    goes in all the same. What is finished is committed shard by shard; run again, an import
    goes on where it was cut short.

    Raises SourceError, IndexLockedError, OptionError, SpaceMismatchError, IndexFormatError
    and the errors of ``load_encoder``.
    """
    opened = open_import(source, paths)
    place = index_folder(index)
    is_ours = make_folder(place)
    try:
        with writer_lock(place), taken_away_if_nothing_came(place, is_ours):
            run = _Import(place, opened, str(source), on_progress or (lambda done, total: None))
            run.choose_model(encoder, device)
            run.survey(absolute_path(root))
            if check:
                run.check(device)
            report = run.carry_out()
        bring_up_discoveries(place)
        if run.loaded is not None:  # what labels are held against, while the model is there
            remember_background(run.loaded, lambda event: None)
            remember_fits(place)
        return report
    finally:
        if is_ours:
            with contextlib.suppress(OSError):  # only when it is empty, the lock gone too
                place.rmdir()


class _Import:
    """One import, holding the writer's lock."""

    def __init__(
        self, place: Path, source: ImportSource, name: str, tell: Callable[[int, int], None]
    ) -> None:
        self.place = place
        self.source = source
        self.name = name
        self.tell = tell
        self.store = open_store(place)
        try:
            self.manifest = read_for_writing(self.store, str(place))
            remove_leftovers(self.store, self.manifest)
        except IndexNotFoundError:
            self.manifest = new_manifest(f"clipsearch {__version__}")
        self.config = IndexConfig.from_dict(self.manifest.config)
        self.loaded: Encoder | None = None
        self.space: Space
        self.places: ImportPlaces
        self.drawn: list[tuple[int, bytes]] = []
        self.report: ImportReport

    def choose_model(self, name: str | None, device: str | None) -> None:
        """Settle the model, the index's own or for a new index the one named, and hold the
        length of its vectors against those to import."""
        saved = self.manifest.default_space
        if saved is not None:
            self.space = self.manifest.spaces[saved]
            if name is not None and resolve_model_name(name) != self.space.model:
                self.loaded = load_encoder(name, device=device)
                if self.loaded.space.fingerprint != self.space.fingerprint:
                    raise SpaceMismatchError(
                        f"the index at {self.place} was made with {self.space.model}, and its "
                        f"vectors do not mix with those of {name}: name another index with --index"
                    )
        elif name is None:
            raise OptionError(f"name the model that made the vectors in {self.name} with --model")
        else:
            self.loaded = load_encoder(name, device=device)
            self.space = self.loaded.space
        if self.source.dim != self.space.dim:
            raise SpaceMismatchError(
                f"{self.name} holds vectors of {self.source.dim} numbers, and {self.space.model} "
                f"makes vectors of {self.space.dim}: name the model they were made with"
            )
        self.report = ImportReport(
            self.store.place, self.name, self.space.model, found=len(self.source)
        )

    def survey(self, base: Path) -> None:
        """Go through the names once: are there as many as vectors, and in which folders."""
        self.places = ImportPlaces(base, self.manifest.roots)
        drawn = dict.fromkeys(drawn_rows(len(self.source)), b"")
        for row, name in enumerate(self.source.names()):
            path = self.places.absolute(name)
            if path is not None:
                self.places.survey(path)
                if row in drawn:
                    drawn[row] = path
        self.drawn = [(row, path) for row, path in drawn.items() if path]
        self.manifest = self.places.with_roots(self.manifest)
        needed = len(self.source) * (2 * self.space.dim + _METADATA_BYTES)
        free = shutil.disk_usage(self.place).free
        if needed > free:
            raise OptionError(
                f"the index needs at least {needed / 1e6:,.0f} MB at {self.place}, and only "
                f"{free / 1e6:,.0f} MB are free: make room, or choose another place with --index"
            )

    def check(self, device: str | None) -> None:
        """Refuse vectors that the model does not make of the same images."""
        found = there(self.drawn)
        if not found:
            return
        if self.loaded is None:
            self.loaded = load_encoder(self.space.model, device=device)
            if self.loaded.space.fingerprint != self.space.fingerprint:
                raise SpaceMismatchError(
                    f"the index at {self.place} was made with other weights than "
                    f"{self.space.model} has now: --no-check imports without comparing"
                )
        cosine, images = mean_cosine(self.source, found, self.loaded, self.config)
        if cosine is not None:
            refuse_if_foreign(cosine, images, self.space.model)
            self.report.cosine, self.report.checked = cosine, images

    def carry_out(self) -> ImportReport:
        """Take everything in, commit it shard by shard, and report."""
        begin = time.perf_counter()
        manifest = dataclasses.replace(self.manifest, config=self.config.to_dict())
        committer = Committer(self.place, manifest)
        if self.space.id not in manifest.spaces:
            committer.add_space(self.space)
        intake = Intake(committer, self.source, self.space, self.places, self.report, self.tell)
        row = 0
        for names, block in self.source.blocks(SHARD_ROWS):
            intake.block(row, names, block)
            row += len(names)
        intake.finish()
        if len(committer.manifest.paths) > 1:
            committer.commit(merge=True)
        if committer.manifest.generation:
            if self.loaded is not None and committer.needs_texts():
                remember_background(self.loaded, lambda event: None)
            committer.bring_up_cache()
        self.report.generation = committer.manifest.generation
        self.report.seconds = time.perf_counter() - begin
        return self.report
