"""The saved discoveries of an index: each as it was saved, this index's own, and followed."""

from __future__ import annotations

from clipsearch.cluster_files import clusters_folder, discovery_names
from clipsearch.cluster_labels import stale_label_sets
from clipsearch.cluster_reading import read_discovery, read_saved_discovery, tables_are_whole
from clipsearch.errors import ClusterError, IndexFormatError, IndexReadError
from clipsearch.map_files import MAP_FILE, map_problem
from clipsearch.store import CLUSTERS, LABELS
from indexer.findings import ERROR, Finding, Tally

DISCOVERY = "discovery"
"""The kind of a finding about a discovery, which no other file of the index depends on."""


def check_discoveries(tally: Tally, uuid: str) -> None:
    """Read every saved discovery, and the map, from end to end; an error for each discovery that
    is not whole. uuid : of the index."""
    for name in discovery_names(tally.index):
        file = f"{CLUSTERS}/{name}.json"
        try:
            found, discovery = read_discovery(tally.index, name)
            lost = [
                edit
                for edit in found.edits
                if edit.before is not None and not tables_are_whole(tally.index, edit.before)
            ]
            if lost and read_saved_discovery(tally.index, name) != found:
                lost = []  # let go of by a change since
            size = (clusters_folder(tally.index) / f"{name}.json").stat().st_size
        except (ClusterError, FileNotFoundError):
            continue  # forgotten since the folder was listed
        except IndexFormatError as error:
            message, _, cure = str(error).rpartition(": ")
            tally.error(DISCOVERY, file, message, cure)
        except IndexReadError as error:
            message, _, cure = str(error).rpartition("; ")
            tally.findings.append(Finding(ERROR, "unreadable", file, message, cure))
        else:
            refs = found.tables.refs().values()
            tally.files += 1 + len(refs)
            tally.bytes += size + sum(ref.bytes for ref in refs)
            tally.rows += len(discovery.assignment)
            for edit in lost:
                message = f"'{edit.what}' cannot be undone: tables from before it are damaged"
                tally.note(DISCOVERY, file, f"{message} or gone")
            for label_set in stale_label_sets(tally.index, found):
                tally.note(
                    DISCOVERY,
                    f"{LABELS}/{label_set}.json",
                    f"is not as the clusters of the discovery {found.name} are by now",
                    f"look at them: clipsearch clusters {found.name}",
                )
    message, _, cure = (map_problem(tally.index, uuid) or "").partition(": ")
    if message:  # the next map is laid out anew
        tally.note(DISCOVERY, f"{CLUSTERS}/{MAP_FILE}", message, cure)
