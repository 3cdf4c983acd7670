"""The saved label sets of an index: each as it was saved, and this index's own."""

from __future__ import annotations

from clipsearch.errors import IndexFormatError, IndexReadError, LabelError
from clipsearch.label_sets import label_set_names, labels_folder, read_label_rows
from clipsearch.store import LABELS
from indexer.findings import ERROR, Finding, Tally

LABEL_SET = "label-set"
"""The kind of a finding about a label set, which no other file of the index depends on."""


def check_label_sets(tally: Tally) -> None:
    """Read every saved label set from end to end; an error for each that is not whole."""
    for name in label_set_names(tally.index):
        file = f"{LABELS}/{name}.json"
        try:
            found, rows = read_label_rows(tally.index, name)
        except LabelError:
            continue  # deleted since the folder was listed
        except IndexFormatError as error:
            message, _, cure = str(error).rpartition(": ")
            tally.error(LABEL_SET, file, message, cure)
        except IndexReadError as error:
            message, _, cure = str(error).rpartition("; ")
            tally.findings.append(Finding(ERROR, "unreadable", file, message, cure))
        else:
            size = (labels_folder(tally.index) / f"{name}.json").stat().st_size
            tally.files += 2
            tally.bytes += size + (found.table.bytes if found.table is not None else 0)
            tally.rows += len(rows.ids)
