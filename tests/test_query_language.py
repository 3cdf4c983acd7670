"""When a query does not seem to be in the model's language."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from clipsearch.query_language import language_note

FOREIGN = (
    "ein hund am strand",
    "un perro en la playa",
    "un chien sur la plage",
    "een hond op het strand",
    "zwei kinder spielen fußball",
    "sonnenuntergang",
    "niños jugando al fútbol",
    "árbol de navidad",
    "bambini che giocano",
    "crianças brincando",
    "zachód słońca",
    "gün batımı",
    "hund",
    "собака на пляже",
    "狗在沙滩上",
    "夕日",
    "강아지",
    "كلب على الشاطئ",
    "कुत्ता",
    "σκύλος στην παραλία",
    "כלב בחוף",
)
ENGLISH = ("two dogs", "a red car", "the golden gate bridge", "IMG 1234", "x", "🐶", "", "tapas")


@pytest.mark.parametrize("text", FOREIGN)
def test_foreign_words_are_named(text: str) -> None:
    note = language_note(text, "mini")
    assert note is not None
    assert "English" in note


@pytest.mark.parametrize("text", ENGLISH)
def test_english_passes(text: str) -> None:
    assert language_note(text, "mini") is None


def test_captions_pass(flickr: Path) -> None:
    with open(flickr / "captions.csv", encoding="utf-8") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    noted = [caption for caption in captions if language_note(caption, "mini") is not None]
    assert len(captions) == 1000
    assert len(noted) <= 10


def test_models_of_many_languages_are_left_alone(tmp_path: Path) -> None:
    from clipsearch.model_names import folder_of

    built_in = folder_of("mini")
    assert built_in is not None
    config = (built_in / "open_clip_config.json").read_text()
    shutil.copyfile(built_in / "open_clip_config.json", tmp_path / "open_clip_config.json")
    assert language_note("hund", str(tmp_path)) is not None
    changed = config.replace(
        '"text_cfg": {', '"text_cfg": {"hf_tokenizer_name": "xlm-roberta-base",'
    )
    assert changed != config
    (tmp_path / "open_clip_config.json").write_text(changed)
    assert language_note("hund", str(tmp_path)) is None
    assert language_note("hund", "ViT-B-32/openai") is not None
    assert language_note("hund", "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k") is None
    assert language_note("hund", "hf-hub:nobody/nothing") is None
