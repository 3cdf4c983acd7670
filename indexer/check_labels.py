"""The saved label sets of an index: each as it was saved, and this index's own."""

from __future__ import annotations

from clipsearch.errors import IndexFormatError, IndexReadError, LabelError
from clipsearch.label_set_files import LabelSet
from clipsearch.label_sets import (
    label_set_names,
    labels_folder,
    read_label_rows,
    read_remembered,
)
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
            if found.scores is not None:
                _check_scores(tally, found)


def _check_scores(tally: Tally, label_set: LabelSet) -> None:
    """What a set remembers only saves time: where it is not whole, that is no fault of the set."""
    assert label_set.scores is not None
    try:
        now, remembered = read_remembered(tally.index, label_set.name)
    except (LabelError, IndexFormatError, IndexReadError):
        return  # deleted since, or saved anew
    if now.scores == label_set.scores and (remembered is None or not remembered.all_sound()):
        tally.note(
            LABEL_SET,
            f"{LABELS}/{label_set.scores.name}",
            "is lost or damaged: all images are scored again when the set's labels change",
            f"save the set again: clipsearch classify --labels @{label_set.name} "
            f"--save-as {label_set.name}",
        )
    else:
        tally.files += 1
        tally.bytes += label_set.scores.bytes
