"""The account of a run that is over."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clipsearch.paths import MISSING, read_paths, relative_bytes
from clipsearch.remote_paths import place_of
from clipsearch.shards import Int64, int_array
from indexer.commit import Committer
from indexer.file_table import same_rows
from indexer.known import read_skipped
from indexer.look import Look, known_absent, offline_folders
from indexer.report import BuildReport, FailedPart

_EXAMPLES = 5


def final_report(
    seen: Look,
    committer: Committer,
    model: str,
    *,
    new: int,
    moved: int,
    encode_seconds: float,
    has_changed: bool,
    failed: Sequence[FailedPart] = (),
) -> BuildReport:
    """The account of a run that is over. ``has_changed`` says whether it committed anything.
    ``failed`` are the parts that were given up."""
    scan, plan, known = seen.scan, seen.plan, seen.known
    here = plan.ids >= 0
    ids = np.sort(plan.ids[here])
    distinct = int((np.diff(ids) > 0).sum()) + bool(len(ids))
    given_up = _given_up(seen, failed) & ~here
    skipped = ~here & ~given_up
    reasons, examples = _skipped(seen, committer, np.flatnonzero(skipped))
    missing = int(known.missing.sum())
    if has_changed:
        columns = ("root", "path", "state")
        states = read_paths(committer.store, committer.manifest, columns).column("state")
        missing = states.to_pylist().count(MISSING)
    return BuildReport(
        index=committer.store.place,
        model=model,
        found=scan.found,
        indexed=distinct,
        new=new,
        copies=int(here.sum()) - distinct,
        skipped=int(skipped.sum()),
        ignored=sum(scan.ignored.values()),
        missing=missing,
        moved=moved,
        encode_seconds=encode_seconds,
        generation=committer.manifest.generation,
        offline=offline_folders(seen),
        not_there=len(scan.absent) - known_absent(seen),
        skip_reasons=reasons,
        skipped_examples=examples,
        ignored_kinds=dict(scan.ignored.most_common()),
        unreadable=tuple(scan.unreadable),
        failed=tuple(dataclasses.replace(part, rows=()) for part in failed),
        given_up=int(given_up.sum()),
    )


def _given_up(seen: Look, failed: Sequence[FailedPart]) -> npt.NDArray[np.bool_]:
    """(n,) bool over the found files: those of the parts, and their copies."""
    plan = seen.plan
    given_up = np.zeros(len(plan.ids), bool)
    for part in failed:
        for row in part.rows:
            copies = plan.same_as.get(row)
            given_up[[row, *(copies.rows if copies is not None else ())]] = True
    return given_up


def _skipped(
    seen: Look, committer: Committer, rows: Int64
) -> tuple[dict[str, int], tuple[tuple[str, str], ...]]:
    """How many of the found files ``rows`` were skipped for which reason, and examples."""
    reasons: dict[str, int] = {}
    examples: list[tuple[str, str]] = []
    if not len(rows):
        return reasons, ()
    manifest = committer.manifest
    images, table = seen.scan.images, read_skipped(committer.store, manifest)
    match = same_rows(
        images.roots[rows],
        images.paths.take(int_array(rows)),
        np.array(table.column("root").to_pylist(), np.int32),
        table.column("path"),
    )
    for lost in table.take(int_array(match[match >= 0])).to_pylist():
        reasons[lost["reason"]] = reasons.get(lost["reason"], 0) + 1
        if len(examples) < _EXAMPLES:
            place = place_of(manifest.root(lost["root"]).path, relative_bytes(lost["path"]))
            examples.append((str(place), lost["message"]))
    return reasons, tuple(examples)
