"""Words find the right photos: 200 captioned photos, judged by their captions."""

from __future__ import annotations

import csv
import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from indexer import build_index

_DOG = re.compile(r"\bdogs?\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def captions(flickr: Path) -> dict[str, str]:
    """Photo -> its five captions."""
    texts: dict[str, str] = defaultdict(str)
    with open(flickr / "captions.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            texts[row["image"]] += row["caption"] + "\n"
    return texts


@pytest.fixture(scope="module")
def with_dog(captions: dict[str, str]) -> set[str]:
    """The photos of which some caption has the word dog or dogs."""
    return {name for name, text in captions.items() if _DOG.search(text)}


def test_how_many_photos_have_a_dog(captions: dict[str, str], with_dog: set[str]) -> None:
    assert len(captions) == 200
    mention = {name for name, text in captions.items() if "dog" in text.lower()}
    assert len(mention) == 52
    (other,) = mention - with_dog
    assert "corndogs" in captions[other]


@pytest.mark.parametrize("model", ["mini", pytest.param("photo1k", marks=pytest.mark.slow)])
def test_a_dog_running(
    model: str,
    flickr: Path,
    with_dog: set[str],
    cli: Callable[..., CompletedProcess[bytes]],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    named = model if model == "mini" else request.getfixturevalue(model)
    account = build_index(flickr, tmp_path / "flickr.index", encoder=named)
    assert account.found == 201
    assert account.indexed == account.new == 200
    assert account.ignored_kinds == {".csv": 1}

    done = cli("search", "a dog running", "--index", "flickr.index")
    assert done.returncode == 0, done.stderr
    paths = [Path(os.fsdecode(line)) for line in done.stdout.splitlines()]
    assert len(paths) == len(set(paths)) == 10
    assert sum(path.name in with_dog for path in paths) >= 7, [path.name for path in paths]
    assert all(path.parent == flickr for path in paths)
