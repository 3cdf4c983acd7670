"""Mend an index: take out what is damaged, so that the next run makes exactly that again."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from clipsearch import __version__
from clipsearch.cluster_files import discovery_files
from clipsearch.cluster_saving import remove_discovery
from clipsearch.errors import IndexFormatError, IndexReadError, OptionError
from clipsearch.label_history import without_examples
from clipsearch.label_set_saving import delete_label_set
from clipsearch.label_sets import label_set_files
from clipsearch.manifest import (
    COPY_NAME,
    MANIFEST_NAME,
    Manifest,
    ShardRef,
    read_for_writing,
    read_manifest,
    utc_now,
    write_manifest,
)
from clipsearch.shards import as_numpy
from clipsearch.spaces import shard_number
from clipsearch.store import (
    CLUSTERS,
    LABELS,
    LocalStore,
    index_folder,
    is_mirror,
    make_folder,
    open_store,
    sync_folder,
)
from indexer.check_clusters import DISCOVERY
from indexer.check_exports import EXPORT_RECORD
from indexer.check_labels import LABEL_EXAMPLES, LABEL_SET
from indexer.check_searches import SAVED_SEARCH
from indexer.check_tables import check_manifests
from indexer.findings import CACHE, ERROR, Progress, Tally, Verification
from indexer.lock import writer_lock
from indexer.place import DAMAGED
from indexer.repair_cache import repair_cache
from indexer.repair_tables import Work, mend_deleted, mend_paths, mend_skipped
from indexer.verify import verify_index

_OF_THEIR_OWN = (LABEL_SET, LABEL_EXAMPLES, DISCOVERY, SAVED_SEARCH, EXPORT_RECORD)
"""Kinds of findings about files that no other file of the index depends on."""

_BEYOND_REPAIR = ("space",)


@dataclass(frozen=True)
class Repair:
    """What ``repair_index`` did.

    before, after : the index as it was, and as it is now. actions : what was done, a line each.
    next_command : what to run now, "" when nothing is left to do.
    """

    before: Verification
    after: Verification
    actions: tuple[str, ...]
    next_command: str

    @property
    def is_mended(self) -> bool:
        """Whether nothing is left that the next command does not put right."""
        return all(
            finding.severity not in (ERROR, CACHE) or finding.kind == "no-place"
            for finding in self.after.findings
        )


def repair_index(
    index: str | os.PathLike[str],
    *,
    sample: int = 0,
    seed: int | None = None,
    device: str | None = None,
    model: str | None = None,
    on_progress: Progress | None = None,
) -> Repair:
    """Verify an index, and mend what is found; arguments as for ``verify_index``.

    A shard that is not sound is taken out of the manifest with its sister and with the places
    of its images, and the next run encodes those files again. Files taken out are kept in
    ``damaged/``; photos are never touched. What was not damaged stays as it is.

    Raises IndexLockedError, OptionError without the right to write, IndexReadError when a file
    is there and cannot be read (nothing is changed then), IndexFormatError when both manifests
    are lost, and what ``verify_index`` raises.
    """
    place = index_folder(index)
    seed = secrets.randbelow(2**31) if seed is None else seed
    if place.is_dir() and not os.access(place, os.W_OK):
        raise OptionError(f"no permission to write to the index at {place}: nothing was mended")
    if is_mirror(place):
        raise OptionError(
            f"an index in object storage is mended as a folder: copy {open_store(place).place} to "
            "one, mend that, and copy it back"
        )
    # Looked at without the lock first: where there is no index, none must appear.
    check_manifests(Tally(place), open_store(place))
    with writer_lock(place):
        before = verify_index(
            place, sample=sample, seed=seed, device=device, model=model, on_progress=on_progress
        )
        _refuse_what_cannot_be_mended(before)
        mender = _Mender(place, before)
        if any(finding.kind not in _OF_THEIR_OWN for finding in before.of(ERROR)):
            mender.mend_truth()
        mender.set_label_sets_aside()
        mender.set_examples_aside()
        mender.set_discoveries_aside()
        mender.set_files_aside(SAVED_SEARCH, "save the search again")
        mender.set_files_aside(EXPORT_RECORD, "what it wrote stays")
        repair_cache(
            place,
            mender.work.manifest,
            before.of(CACHE),
            mender.has_dropped,
            mender.work.actions,
        )
        after = verify_index(place, sample=0)
    return Repair(before, after, tuple(mender.work.actions), mender.next_command(after))


def _refuse_what_cannot_be_mended(found: Verification) -> None:
    for finding in found.findings:
        if finding.kind == "unreadable":
            raise IndexReadError(
                f"{finding.file} {finding.message}: {finding.cure}; nothing was changed"
            )
        if finding.kind in _BEYOND_REPAIR or not found.uuid:
            raise IndexFormatError(f"{finding.file}: {finding.message}; {finding.cure}")


class _Mender:
    """One repair, holding the writer's lock."""

    def __init__(self, place: Path, found: Verification) -> None:
        self.place = place
        self.store = open_store(place)
        self.stems: set[str] = set()
        self.has_dropped = False
        self._errors = found.of(ERROR)
        manifest = self._readable_manifest()
        self.work = Work(self.store, manifest, self._errors)
        self._kept_in = f"{DAMAGED}/{manifest.generation + 1:07d}-{secrets.token_hex(2)}"

    def _readable_manifest(self) -> Manifest:
        """The manifest, or its copy where that is lost, with counters that cannot go back."""
        lost = any(
            finding.file == MANIFEST_NAME and finding.kind in ("damaged", "missing")
            for finding in self._errors
        )
        if not lost:
            return read_for_writing(self.store, str(self.place))
        copy = read_manifest(self.store, str(self.place), COPY_NAME)
        # The lost manifest may have been one generation further than its copy.
        return dataclasses.replace(copy, generation=copy.generation + 1)

    def mend_truth(self) -> None:
        """Commit a generation without what is damaged, and keep that beside the index."""
        old = self.work.manifest
        for name in (MANIFEST_NAME, COPY_NAME):
            if self.work.has(name) and self.store.path(name).is_file():
                self._keep(name)
        if any(f.file == MANIFEST_NAME and f.kind in ("damaged", "missing") for f in self._errors):
            self.work.actions.append(f"{MANIFEST_NAME}: restored from {COPY_NAME}")
        elif self.work.has(COPY_NAME):
            self.work.actions.append(f"{COPY_NAME}: written again from {MANIFEST_NAME}")
        self._raise_counters()
        self._drop_shards()
        places_lost = mend_paths(self.work, bool(self.stems))
        mend_skipped(self.work)
        mend_deleted(self.work, places_lost)
        gone = {ref.name for ref in old.files()} - {ref.name for ref in self.work.manifest.files()}
        kept = [name for name in sorted(gone) if self._keep(name)]
        self.work.manifest = dataclasses.replace(
            self.work.manifest,
            generation=self.work.manifest.generation + 1,
            software=f"clipsearch {__version__}",
            updated_at=utc_now(),
        )
        write_manifest(self.store, self.work.manifest)
        for name in sorted(gone):
            with contextlib.suppress(OSError):  # still mapped by a reader on Windows
                self.store.delete(name)
        if kept:
            self.work.actions.append(
                f"{self._kept_in}: keeps the {len(kept):,} files taken out; remove it when the "
                "index is as it should be"
            )

    def set_label_sets_aside(self) -> None:
        """Take the label sets with an error out of the way; no other file needs them."""
        for finding in self._errors:
            if finding.kind == LABEL_SET:
                name = PurePosixPath(finding.file).name.removesuffix(".json")
                for file in label_set_files(self.place, name):
                    self._keep(f"{LABELS}/{file}")
                delete_label_set(self.place, name)
                self.work.actions.append(
                    f"{finding.file}: taken out, kept in {self._kept_in}; save the set again"
                )

    def set_examples_aside(self) -> None:
        """Take examples with an error out of the way; the labels that they led to stay."""
        for finding in self._errors:
            if finding.kind == LABEL_EXAMPLES:
                self._keep(finding.file)
                name = PurePosixPath(finding.file).name.rsplit(".", 2)[0]
                without_examples(self.place, name)
                self.work.actions.append(
                    f"{finding.file}: taken out, kept in {self._kept_in}; the labels stay as "
                    "they are, teach the set again"
                )

    def set_discoveries_aside(self) -> None:
        """Take the discoveries with an error out of the way; the label sets stay."""
        for finding in self._errors:
            if finding.kind == DISCOVERY:
                name = PurePosixPath(finding.file).name.removesuffix(".json")
                for file in discovery_files(self.place, name):
                    self._keep(f"{CLUSTERS}/{file}")
                remove_discovery(self.place, name)
                self.work.actions.append(
                    f"{finding.file}: taken out, kept in {self._kept_in}; discover anew"
                )

    def set_files_aside(self, kind: str, what_now: str) -> None:
        """Take files with an error of this kind, which no other needs, out of the way."""
        for finding in self._errors:
            if finding.kind == kind and self._keep(finding.file):
                self.store.delete(finding.file)
                self.work.actions.append(
                    f"{finding.file}: taken out, kept in {self._kept_in}; {what_now}"
                )

    def _keep(self, name: str) -> bool:
        """Keep a file under ``damaged/``, before anything takes it away; False without one."""
        source = self.store.path(name)
        target = self.store.path(f"{self._kept_in}/{name}")
        if not source.is_file():
            return False
        make_folder(target.parent)
        # The manifests are replaced and the shards deleted: a second name keeps the bytes.
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
        sync_folder(target.parent)
        return True

    def _raise_counters(self) -> None:
        """Give out no id or number that any file here, named or not, has had."""
        numbers = [int(stem) for stem in self._stems_on_disk() if stem.isdigit()]
        highest = [ref.last_id for ref in self.work.manifest.images]
        named = {ref.name for ref in self.work.manifest.images}
        for name in self.store.list("images"):
            if name not in named:
                with contextlib.suppress(IndexFormatError, IndexReadError, ValueError):
                    highest.append(_highest_id(self.store, name))
        if highest and max(highest) >= self.work.manifest.next_id:
            self.work.actions.append(f"{MANIFEST_NAME}: the next id is {max(highest) + 1} now")
        self.work.manifest = dataclasses.replace(
            self.work.manifest,
            next_id=max([self.work.manifest.next_id, *(last + 1 for last in highest)]),
            next_shard=max([self.work.manifest.next_shard, *(number + 1 for number in numbers)]),
        )

    def _stems_on_disk(self) -> list[str]:
        return [shard_number(name) for name in self.store.list("images")]

    def _drop_shards(self) -> None:
        """Take every shard with an error out, with its sisters of the same number; in an index of
        several models vectors alone, since the images keep the others and get these anew."""
        manifest = self.work.manifest
        of_spaces = manifest.embeddings
        every = [*manifest.images, *(ref for refs in of_spaces.values() for ref in refs)]
        bad = {ref.name for ref in every if self.work.has(ref.name)}
        refs_of_vectors = {ref.name for refs in of_spaces.values() for ref in refs}
        alone = bad & refs_of_vectors if len(of_spaces) > 1 else set()
        self.stems = {shard_number(name) for name in bad - alone}
        self.has_dropped = bool(bad)
        if not bad:
            return

        def is_sound(ref: ShardRef) -> bool:
            return shard_number(ref.name) not in self.stems and ref.name not in alone

        for ref in every:
            if not is_sound(ref):
                why = self.work.why(ref.name) or "belongs to a damaged one"
                self.work.actions.append(f"{ref.name}: taken out ({why})")
        self.work.next_run = True
        self.work.manifest = dataclasses.replace(
            manifest,
            images=tuple(filter(is_sound, manifest.images)),
            embeddings={space: tuple(filter(is_sound, refs)) for space, refs in of_spaces.items()},
        )

    def next_command(self, after: Verification) -> str:
        """What brings back what was taken out."""
        homeless = any(finding.kind == "no-place" for finding in after.findings)
        if not (self.work.next_run or homeless):
            return ""
        manifest = self.work.manifest
        named = manifest.sources or [root.path for root in manifest.roots]
        return shlex.join(["clipsearch", "index", *named, "--index", str(self.place)])


def _highest_id(store: LocalStore, name: str) -> int:
    import pyarrow.parquet as pq

    try:
        with store.open_mapped(name) as file:
            ids = as_numpy(pq.ParquetFile(file).read(["id"]).column("id"))
    except (pa.ArrowException, OSError) as error:
        raise IndexFormatError(f"{name} is damaged") from error
    return int(ids.max(initial=-1))
