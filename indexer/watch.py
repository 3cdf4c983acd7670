"""Keep an index fresh: hear from the system what changed, and index that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from clipsearch.errors import IndexLockedError, SourceError
from clipsearch.manifest import read_manifest
from clipsearch.store import LocalStore
from indexer.report import BuildReport

_QUIET_MS = 1_600
_LONGEST_MS = 30_000
_RESCAN_SECONDS = 3_600.0
_PATIENCE_SECONDS = 5.0


def watch_folders(
    place: Path,
    build: Callable[[tuple[str, ...]], BuildReport],
    tell: Callable[[BuildReport], object],
    told: int,
) -> None:
    """Call ``build`` with the folders in which something changed, and ``tell`` what came of it,
    until KeyboardInterrupt. ``told`` is the generation of which nothing needs to be told.

    Changes are gathered until it has been quiet for a moment, though no longer than half a
    minute, so that copying a card of photos makes a few runs and not thousands; each run looks
    through the folders concerned. Once an hour everything is looked at, since network drives
    tell nothing. A folder that is not there now is watched as soon as it is back.
    """
    import watchfiles

    own = str(place)
    while True:
        named = read_manifest(LocalStore(place), str(place)).sources
        here = [source for source in named if os.path.exists(source)]
        if not here:
            time.sleep(_PATIENCE_SECONDS)
            continue
        # Whatever changed before the watch began is found by looking at everything once.
        next_rescan = time.monotonic()
        for changes in watchfiles.watch(
            *here,
            watch_filter=lambda _, path: not path.startswith(own),
            debounce=_LONGEST_MS,
            step=_QUIET_MS,
            rust_timeout=2_000,
            yield_on_timeout=True,
        ):
            if time.monotonic() >= next_rescan:
                next_rescan = time.monotonic() + _RESCAN_SECONDS
                sources: tuple[str, ...] | None = ()  # all folders of the index
            else:
                sources = folders_to_look_at((path for _, path in changes), here) or None
            if sources is not None:
                report = _build_when_free(build, sources)
                if report is not None and report.generation != told:
                    told = report.generation
                    tell(report)
            if here != [source for source in named if os.path.exists(source)]:
                break  # a disk came or went


def folders_to_look_at(changed: Iterable[str], roots: Iterable[str]) -> tuple[str, ...]:
    """The fewest folders inside ``roots`` that hold all that changed there."""
    known = [Path(root) for root in roots]
    folders: set[Path] = set()
    for name in changed:
        path = Path(name)
        folder = path if path.is_dir() else path.parent
        while not folder.is_dir() and folder.parent != folder:
            folder = folder.parent
        inside = [root for root in known if folder.is_relative_to(root)]
        if inside:
            folders.add(folder)
        else:  # the root itself has gone
            folders.update(
                root for root in known if path.is_relative_to(root) or root.is_relative_to(path)
            )
    return tuple(
        str(folder) for folder in sorted(folders) if not any(up in folders for up in folder.parents)
    )


def _build_when_free(
    build: Callable[[tuple[str, ...]], BuildReport], sources: tuple[str, ...]
) -> BuildReport | None:
    """The report of a run; None when there was nothing to index after all."""
    while True:
        try:
            return build(sources)
        except IndexLockedError:  # somebody indexes by hand; what changed is not forgotten
            time.sleep(_PATIENCE_SECONDS)
        except SourceError:  # only files that are no images, or a folder that has gone again
            return None
