"""The saved searches of an index, each a file of its own that no other depends on."""

from __future__ import annotations

from clipsearch.errors import IndexFormatError, IndexReadError, QueryError
from clipsearch.saved_searches import saved_search, saved_search_names
from clipsearch.store import SEARCHES
from indexer.findings import ERROR, Finding, Tally

SAVED_SEARCH = "saved-search"
"""The kind of a finding about a saved search."""


def check_saved_searches(tally: Tally) -> None:
    """Read every saved search; an error for each that is damaged or cannot be read."""
    for name in saved_search_names(tally.index):
        file = f"{SEARCHES}/{name}.json"
        try:
            saved_search(tally.index, name)
            size = (tally.index / file).stat().st_size
        except (QueryError, FileNotFoundError):
            continue  # forgotten since the folder was listed
        except IndexFormatError as error:
            _, _, cure = str(error).rpartition(": ")
            tally.error(SAVED_SEARCH, file, "is damaged", cure)
        except (IndexReadError, OSError) as error:
            cure = "see to its permissions and its disk, then verify again"
            message = f"cannot be read: {str(error).rpartition(': ')[2]}"
            tally.findings.append(Finding(ERROR, "unreadable", file, message, cure))
        else:
            tally.files += 1
            tally.bytes += size
