"""Keep an index fresh: hear from the system what changed, and index that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from clipsearch.errors import IndexLockedError, OptionError, SourceError
from clipsearch.manifest import read_manifest
from clipsearch.remote_urls import is_remote
from clipsearch.store import open_store
from indexer.config import IndexConfig
from indexer.report import BuildReport
from indexer.scan import is_passed_over
from indexer.sources import topmost

NOT_WATCHED = (
    "--watch hears of changes on this machine, and object storage tells of none: run 'clipsearch "
    "index' from time to time instead"
)

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

    own = os.path.join(place, "")
    while True:
        manifest = read_manifest(open_store(place), str(place))
        named, exclude = manifest.sources, IndexConfig.from_dict(manifest.config).exclude
        if named and all(map(is_remote, named)):
            raise OptionError(NOT_WATCHED)
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
                paths = (path for _, path in changes)
                sources = folders_to_look_at(paths, here, exclude) or None
            if sources is not None:
                report = _build_when_free(build, sources)
                if report is not None and report.generation != told:
                    told = report.generation
                    tell(report)
            if here != [source for source in named if os.path.exists(source)]:
                break  # a disk came or went


def folders_to_look_at(
    changed: Iterable[str], named: Iterable[str], exclude: Sequence[str] = ()
) -> tuple[str, ...]:
    """The fewest folders inside ``named`` (folders, and files that hold images) that hold all
    that changed there. What a walk would pass over is left out."""
    tops = [Path(name) for name in named]
    folders: set[Path] = set()
    for name in changed:
        path = Path(name)
        folder = path if path.is_dir() else path.parent
        while not folder.is_dir() and folder.parent != folder:
            folder = folder.parent
        inside = [top for top in tops if folder.is_relative_to(top)]
        if not inside:  # the named folder itself has gone, or is a file
            folders.update(
                top for top in tops if path.is_relative_to(top) or top.is_relative_to(path)
            )
        elif not is_passed_over(folder, inside[0], exclude):
            folders.add(folder)
    return tuple(map(str, topmost(folders)))


def _build_when_free(
    build: Callable[[tuple[str, ...]], BuildReport], sources: tuple[str, ...]
) -> BuildReport | None:
    """The report of a run, the last one if it took several; None when there was nothing to
    index after all."""
    while True:
        try:
            return build(sources)
        except IndexLockedError:  # somebody indexes by hand; what changed is not forgotten
            time.sleep(_PATIENCE_SECONDS)
        except SourceError:
            # Only files that are no images, or a folder that has gone again; the others go on.
            if len(sources) < 2:
                return None
            reports = [_build_when_free(build, (source,)) for source in sources]
            return next((report for report in reversed(reports) if report is not None), None)
