"""The saved label sets of an index: each as it was saved, and this index's own."""

from __future__ import annotations

from clipsearch.errors import IndexFormatError, IndexReadError, LabelError
from clipsearch.label_examples import read_examples
from clipsearch.label_history import read_rows_of_version
from clipsearch.label_set_files import LabelSet, parse_set
from clipsearch.label_sets import (
    label_set_names,
    labels_folder,
    read_label_rows,
    read_label_set,
    read_remembered,
)
from clipsearch.label_version_files import version_files
from clipsearch.shared_folders import fetched
from clipsearch.store import LABELS
from indexer.findings import ERROR, NOTE, Finding, Tally

LABEL_SET = "label-set"
"""The kind of a finding about a label set, which no other file of the index depends on."""
LABEL_EXAMPLES = "label-examples"
"""The kind of a finding about the examples that taught a label set."""


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
            if found.teaching is not None:
                _check_examples(tally, found)
            _check_versions(tally, found)


def _check_examples(tally: Tally, label_set: LabelSet) -> None:
    """What people said of images is not to be had again from anything else."""
    assert label_set.teaching is not None
    try:
        examples = read_examples(labels_folder(tally.index), label_set)
    except IndexFormatError as error:
        try:
            if read_label_set(tally.index, label_set.name) != label_set:
                return  # taught, or saved anew, since
        except (LabelError, IndexFormatError, IndexReadError):
            return
        message, _, cure = str(error).rpartition(": ")
        tally.error(LABEL_EXAMPLES, f"{LABELS}/{label_set.teaching.name}", message, cure)
    except OSError as error:
        tally.unreadable(f"{LABELS}/{label_set.teaching.name}", error)
    else:
        tally.files += 1
        tally.bytes += label_set.teaching.bytes
        tally.rows += len(examples)


def _check_versions(tally: Tally, label_set: LabelSet) -> None:
    """Earlier versions are only there to go back to: one that is not whole is no fault."""
    folder = labels_folder(tally.index)
    for file in version_files(folder, label_set.name):
        try:
            data = fetched(folder / file).read_bytes()
            version = parse_set(label_set.name, data)
            rows = read_rows_of_version(folder, version)
            examples = read_examples(folder, version)
        except FileNotFoundError:
            continue  # let go of since
        except IndexFormatError as error:
            if fetched(folder / file).is_file():
                message = str(error).partition(": ")[0]
                told = f"cannot be gone back to: {message}"
                tally.note(LABEL_SET, f"{LABELS}/{file}", told)
        except OSError as error:
            tally.unreadable(f"{LABELS}/{file}", error, NOTE)
        else:
            tally.files += 2 + (version.teaching is not None)
            tables = [ref for ref in (version.table, version.teaching) if ref is not None]
            tally.bytes += len(data) + sum(ref.bytes for ref in tables)
            tally.rows += len(rows.ids) + len(examples)


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
