"""Vocabularies: the one that comes with a dependency, WordNet's, and a user's file."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from clipsearch.background_words import background_words
from clipsearch.errors import LabelError, MissingExtraError
from clipsearch.nouns import commonness, read_vocabulary
from clipsearch.query_language import vocabulary_note
from tests.wordnet_files import write_wordnet


def test_the_default_reads_well() -> None:
    vocabulary = read_vocabulary()
    words = set(vocabulary.words)
    assert 9_000 < len(vocabulary) < 11_000
    assert len({word.casefold() for word in words}) == len(vocabulary)
    assert len(vocabulary.familiarity) == len(vocabulary.synsets) == len(vocabulary)
    assert vocabulary.words[: len(background_words())] == background_words()
    assert {"leopard", "menorah", "grand piano", "hawksbill turtle", "Chihuahua"} <= words
    # Latin, families, numbers and people that are called names.
    assert not {"Bletilla striata", "Loranthaceae", "vitamin B12", "archilochus colubris"} & words
    assert not {"Panthera pardus", "gook", "spastic", "totalitarian"} & words
    assert all(word == word.strip() and "," not in word for word in words)
    meaning = dict(zip(vocabulary.words, vocabulary.synsets, strict=True))
    assert meaning["leopard"] == 2128385
    assert meaning["dog"] is None  # one of the everyday words, which have no synset


def test_everyday_words_are_familiar() -> None:
    vocabulary = read_vocabulary()
    familiarity = dict(zip(vocabulary.words, vocabulary.familiarity, strict=True))
    order = ["dog", "leopard", "hookah", "numbfish", "battledore"]
    kept = [familiarity[word] for word in order if word in familiarity]
    assert len(kept) >= 3
    assert kept == sorted(kept, reverse=True)
    assert 0 == min(vocabulary.familiarity) < max(vocabulary.familiarity) <= 1
    assert commonness("dog") > commonness("leopard") > commonness("menorah") == 0
    assert commonness("hot dog") == min(commonness("hot"), commonness("dog"))
    assert commonness("kangaroos") >= commonness("kangaroo") > 0
    assert commonness("") == commonness("123") == commonness("собака") == 0


def test_it_is_read_without_torch() -> None:
    code = (
        "import sys; from clipsearch.nouns import read_vocabulary; read_vocabulary();"
        "print([name for name in ('torch', 'timm', 'open_clip', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_timm_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "clipsearch.nouns.importlib.util.find_spec",
        lambda name: None if name == "timm" else find(name),
    )
    with pytest.raises(MissingExtraError, match="pip install timm") as caught:
        read_vocabulary()
    assert "\n" not in str(caught.value)
    file = tmp_path / "words.txt"
    file.write_text("dog\n")
    assert read_vocabulary(file).words == ("dog",)


def test_a_file_of_words(tmp_path: Path) -> None:
    file = tmp_path / "birds.txt"
    file.write_text(
        "# mine\n\n owl \nhawk\x1b owl\nOwl\nhawk  owl\nсова\n猫头鹰\n", encoding="utf-8-sig"
    )
    vocabulary = read_vocabulary(file)
    assert vocabulary.words == ("owl", "hawk owl", "сова", "猫头鹰")
    assert vocabulary.name == str(file)
    assert read_vocabulary(vocabulary.name) == vocabulary
    assert vocabulary.familiarity == vocabulary.synsets == ()  # whoever chose them meant them


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no words: expected one a line"),
        (b"# only a remark\n \n", "holds no words: expected one a line"),
        (b"\x01\x02\n\x7f\n", "holds no words: expected one a line"),
        (b"\xff\xfeo\x00w\x00", "no UTF-8 text"),
        (None, "expected a file of words"),
    ],
)
def test_files_that_will_not_do(content: bytes | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LabelError, match=message) as caught:
        read_vocabulary(file)
    assert "\n" not in str(caught.value)


def test_a_name_holds_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "words.txt").write_text("dog\n")
    monkeypatch.chdir(tmp_path)
    vocabulary = read_vocabulary("words.txt")
    monkeypatch.chdir("/")
    assert read_vocabulary(vocabulary.name) == vocabulary


def test_a_file_too_long(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("\n".join(f"word{i}" for i in range(100_001)))
    with pytest.raises(LabelError, match="at most 100,000 words in a vocabulary, got 100,001"):
        read_vocabulary(file)


@pytest.mark.parametrize("name", ["imagnet", "", "word\0net"])
def test_a_name_that_nobody_knows(name: str) -> None:
    with pytest.raises(LabelError, match=r"imagenet, wordnet or a file") as caught:
        read_vocabulary(name)
    assert "\n" not in str(caught.value)


def test_wordnets_nouns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = write_wordnet(tmp_path)
    vocabulary = read_vocabulary("wordnet", wordnet=tmp_path)
    here = dict(zip(vocabulary.words, vocabulary.synsets, strict=True))
    assert here["jaguar"] == offsets["jaguar"]
    assert here["carnivore"] == offsets["carnivore"]
    assert here["leopard"] == offsets["leopard"]
    assert "dog" in here
    assert here["dog"] is None
    # People, genera, rude words, single mountains and what nobody could see are left out.
    assert not {"lout", "Canis", "junk", "Everest", "entity", "taxon"} & set(here)
    monkeypatch.setattr("clipsearch.wordnet._PLACES", ())
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.delenv("WNHOME", raising=False)
    with pytest.raises(LabelError, match="wordnet-base"):
        read_vocabulary("wordnet")


def test_a_vocabulary_in_another_language_is_told(photo1k: str) -> None:
    russian, chinese = ["собака", "кошка", "дом"], ["狗", "猫", "房子"]
    for model in ("mini", photo1k, "ViT-B-32/openai"):
        for words in (russian, chinese):
            note = vocabulary_note(words, model)
            assert note is not None
            assert "knows 0 of the vocabulary's 3 words" in note
            assert "\n" not in note
            assert "multilingual" in note
        assert vocabulary_note(read_vocabulary().words, model) is None
        assert vocabulary_note(["dog", *russian], model) is None  # a quarter is known
        assert vocabulary_note([], model) is None
    assert vocabulary_note(russian, "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k") is None
    assert vocabulary_note(russian, "nobody/knows") is None
