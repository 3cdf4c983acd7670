"""What the folders of a collection, a folder a class, are called as labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clipsearch.errors import LabelError
from clipsearch.prompts import same_label


def label_of_folder(name: str) -> str:
    """ "car_side" -> "car side". What is no text becomes a question mark."""
    text = name.encode("utf-8", "replace").decode("utf-8")
    return " ".join(text.replace("_", " ").split())


def labels_of_folders(
    folders: Iterable[str], names: Mapping[str, str] | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """The label of every folder, in order of the folders; and by label, what prompts call it
    where that is something else.

    names : what the classes of some folders are called; others are called as the folder, with
    spaces for underscores. Folders that are given one name on purpose stay two classes.

    Raises LabelError where two folders have the same name otherwise.
    """
    names = names or {}
    called = {
        folder: " ".join(names[folder].split()) if folder in names else label_of_folder(folder)
        for folder in sorted(folders)
    }
    of_name: dict[str, list[str]] = {}
    for folder, name in called.items():
        if not name:
            raise LabelError(f"the folder {folder!r} names no class: rename it")
        of_name.setdefault(same_label(name), []).append(folder)
    labels, words = dict(called), {}
    for alike in of_name.values():
        if len(alike) < 2:
            continue
        if not all(folder in names for folder in alike):
            raise LabelError(
                f"the folders {alike[0]!r} and {alike[1]!r} are the same class "
                f"{called[alike[0]]!r}: merge them, or give one another name with --names"
            )
        for folder in alike:
            labels[folder] = f"{called[folder]} ({label_of_folder(folder)})"
            words[labels[folder]] = called[folder]
    return labels, words
