"""The benchmark of known limits: its figures are those of the vectors it was given."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageChops

from clipsearch.encoder import load_encoder

_BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(_BENCHMARKS))
    import known_limits

    return known_limits


def test_pictures_hold_as_many_discs_as_they_say(limits: ModuleType) -> None:
    for count in range(1, 6):
        picture = limits.discs(count, seed=count)
        empty = Image.new("RGB", picture.size, picture.getpixel((0, 0)))
        shown = np.asarray(ImageChops.difference(picture, empty).convert("L")) > 0
        blocks = shown.reshape(3, 80, 3, 80).any(axis=(1, 3))
        assert int(blocks.sum()) == count


def test_wording_is_measured_by_the_nearest_class(limits: ModuleType) -> None:
    encoder = load_encoder("mini")
    photos = limits.LabelledPhotos(
        ("lion", "grand_piano"), (Path("a"), Path("b"), Path("c")), np.array([0, 1, 0], np.int32)
    )
    named = encoder.encode_texts(["lion", "grand piano", "grand piano"])
    table = dict(limits.wording(encoder, photos, named))
    assert table["the name alone"] == "66.7 %", "the third is said to be a lion"
    assert len(table) == 6


def test_what_is_not_wanted_is_counted_by_the_captions(limits: ModuleType, pictures: Path) -> None:
    names = sorted(path.name for path in pictures.glob("*.jpg"))[:4]
    captions = pictures / "captions.csv"
    rows = [f"{name},{'A Dog runs' if row < 1 else 'hotdogs'}" for row, name in enumerate(names)]
    captions.write_text("image,caption\n" + "\n".join(rows) + "\n")
    table = limits.negation("mini", captions, "dog")
    assert table[0] == ["all photos", "25.0 %"]
    assert [row[0] for row in table[1:3]] == ["a dog", "no dog"]
    assert all(share == "25.0 %" for _, share in table), "the best 20 are all four"
