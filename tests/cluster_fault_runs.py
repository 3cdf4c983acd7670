"""Saving a discovery in processes that are hurt: the program that ``test_cluster_faults`` starts.

It has imported everything and made no threads, so that a process for each case is a quick fork.
Every line of standard input is a case; every line of standard output says what came of it.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipsearch import open_index
from clipsearch.cluster_changes import Drop, Merge, Rename
from clipsearch.cluster_labels import cluster_labels
from clipsearch.cluster_reading import read_discovery
from clipsearch.cluster_saving import save_discovery
from clipsearch.generation import Generation
from clipsearch.label_sets import read_label_rows
from clipsearch.saved_clusters import edit_discovery, open_discovery, save_clusters_as, undo_edit
from indexer.verify import verify_index
from tests.discoveries import discovery_of_index
from tests.fault_injection import Fault, install

NAME = "pets"
FULL = 3
"""The exit code of a process that met a full disk."""


def edit(place: Path, state: Generation) -> None:
    edit_discovery(place, state, NAME, [Merge(("dog", "cat")), Rename("dog", "pet")])


def undo(place: Path, state: Generation) -> None:
    undo_edit(place, state, NAME)


def new(place: Path, state: Generation) -> None:
    found = discovery_of_index(state, ("one", "two", "three"))
    save_discovery(place, state, NAME, found, label_set=NAME, replace=True)


def look(place: Path, state: Generation) -> None:
    open_discovery(place, state, NAME)


def save(place: Path, state: Generation) -> None:
    save_clusters_as(place, state, NAME, "second")


def nothing(place: Path, state: Generation) -> None:
    pass


ACTIONS: dict[str, Callable[[Path, Generation], None]] = {
    "none": nothing, "edit": edit, "undo": undo, "new": new, "look": look, "save": save,
}  # fmt: skip


def child(work: Callable[[], int]) -> int:
    """Do something in a process of its own; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def hurt(place: Path, action: str, fault: Fault) -> int:
    def work() -> int:
        state = open_index(place).state()
        install(fault)
        try:
            ACTIONS[action](place, state)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            return FULL
        return 0

    return child(work)


def check(place: Path, action: str, states: list[str]) -> int:
    """The discovery is as before or as after, its label sets follow it, and what was left lying
    about is gone once it is saved again."""

    def work() -> int:
        findings = verify_index(place, sample=0).findings
        assert all(one.severity == "note" for one in findings), findings
        state = open_index(place).state()
        _, stored = read_discovery(place, NAME)
        before_or_after = told(stored)
        assert before_or_after in states, before_or_after
        opened = open_discovery(place, state, NAME)
        labels, wanted = cluster_labels(opened.discovery)
        for name in opened.saved.label_sets:
            if name == NAME or (place / "labels" / f"{name}.json").exists():
                saved, rows = read_label_rows(place, name)
                assert saved.labels == labels
                np.testing.assert_array_equal(rows.ids, wanted.ids)
                np.testing.assert_array_equal(rows.labels, wanted.labels)
        assert verify_index(place, sample=0).findings == ()
        last = edit_discovery(place, state, NAME, [Drop((opened.discovery.clusters[0].name,))])
        there = {file for file in os.listdir(place / "clusters") if file != "clusters.lock"}
        assert there == {f"{NAME}.json", *last.saved.files()}, there
        labels_there = set(os.listdir(place / "labels")) - {"labels.lock"}
        assert not [file for file in labels_there if file.startswith(".tmp-")], labels_there
        sets = {file.removesuffix(".json") for file in labels_there if file.endswith(".json")}
        # The table of a set that never came to be goes when a set of its name is saved.
        tables = [file for file in labels_there if file.partition(".")[0] in sets]
        assert len(tables) == 2 * len(sets)
        return 0

    return child(work)


def told(discovery: Any) -> str:
    names = sorted(one.name for one in discovery.clusters)
    return " ".join(names)


def main() -> None:
    for line in sys.stdin:
        case = json.loads(line)
        template, place = Path(case["template"]), Path(case["place"])
        shutil.copytree(template, place)
        fault = Fault(str(place), **case["fault"])
        hurt_code = hurt(place, case["action"], fault)
        check_code = check(place, case["action"], case["states"]) if case["states"] else 0
        found = told(read_discovery(place, NAME)[1]) if not case["states"] else ""
        shutil.rmtree(place)
        outcome = {"hurt": hurt_code, "check": check_code, "told": found}
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
