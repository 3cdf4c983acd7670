"""WordNet's files are read as they are, and give the word that covers others."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsearch.broader_words import broader_word
from clipsearch.errors import LabelError
from clipsearch.wordnet import WordNet, find_wordnet, open_wordnet
from tests.wordnet_files import ANIMALS, write_wordnet


@pytest.fixture
def offsets(tmp_path: Path) -> dict[str, int]:
    return write_wordnet(tmp_path / "dict")


@pytest.fixture
def wordnet(tmp_path: Path, offsets: dict[str, int]) -> WordNet:
    return WordNet(tmp_path / "dict")


def test_words_have_senses(wordnet: WordNet, offsets: dict[str, int]) -> None:
    assert wordnet.senses("leopard") == (offsets["leopard"],)
    assert wordnet.senses("Jaguar") == (offsets["jaguar"], offsets["jaguar_car"])
    assert wordnet.senses("big cat") == wordnet.senses("big  cats") == (offsets["big_cat"],)
    assert wordnet.senses("boxes") == (offsets["box"],)
    assert wordnet.senses("panthera pardus") == (offsets["leopard"],)
    for lemma in [word for record in ANIMALS.values() for word in record[1].split()]:
        assert wordnet.senses(lemma.replace("_", " ")), lemma
    for stranger in ("", " ", "s", "leopar", "zzz", "\x00", "\udcff", "леопард", "1", "this is"):
        assert wordnet.senses(stranger) == ()


def test_synsets_are_read_at_their_offsets(wordnet: WordNet, offsets: dict[str, int]) -> None:
    leopard = wordnet.synset(offsets["leopard"])
    assert leopard.lemmas == ("leopard", "Panthera pardus")
    assert (leopard.category, leopard.gloss) == ("animal", "large feline; (spotted)")
    assert leopard.hypernyms == (offsets["big_cat"],)
    assert not leopard.is_instance
    assert wordnet.synset(offsets["everest"]).is_instance
    assert [synset.offset for synset in wordnet.nouns()] == list(offsets.values())


def test_what_is_broader(wordnet: WordNet, offsets: dict[str, int]) -> None:
    above = wordnet.ancestors(offsets["leopard"])
    names = [
        *("leopard", "big_cat", "carnivore", "placental"),
        *("mammal", "animal", "organism", "entity"),
    ]
    assert above == {offsets[name]: steps for steps, name in enumerate(names)}
    assert wordnet.depth(offsets["leopard"]) == 7
    assert wordnet.depth(offsets["entity"]) == 0


def test_similarity_is_wu_and_palmers(wordnet: WordNet, offsets: dict[str, int]) -> None:
    leopard, jaguar = wordnet.meanings("leopard"), wordnet.meanings("jaguar")
    assert wordnet.similarity(leopard, leopard) == 1
    # The big cat is the seventh from the root, each of the two one step below it.
    assert wordnet.similarity(leopard, jaguar) == pytest.approx(14 / 16)
    assert wordnet.similarity(leopard, wordnet.meanings("machine")) == pytest.approx(2 / 11)
    assert wordnet.similarity(leopard, ()) == 0


def test_the_offset_of_another_version_is_not_trusted(
    wordnet: WordNet, offsets: dict[str, int]
) -> None:
    assert wordnet.meanings("jaguar", offsets["jaguar_car"]) == (offsets["jaguar_car"],)
    assert wordnet.meanings("jaguar", offsets["dog"]) == wordnet.senses("jaguar")
    assert wordnet.meanings("jaguar", 5) == wordnet.senses("jaguar")


def test_a_broader_word_covers_seven_tenths(wordnet: WordNet, offsets: dict[str, int]) -> None:
    def broader(**votes: float) -> str | None:
        return broader_word(wordnet, [(word, None, count) for word, count in votes.items()])

    assert broader(leopard=0.4, jaguar=0.35, box=0.25) == "big cat"
    assert broader(leopard=0.4, dog=0.35, box=0.25) == "carnivore"
    assert broader(leopard=0.4, bird=0.35, dog=0.25) == "animal"
    assert broader(leopard=0.75, jaguar=0.25) is None  # they agree
    assert broader(leopard=0.5, machine=0.5) is None  # only "entity" covers both
    assert broader(leopard=0.4, jaguar=0.29, stranger=0.31) is None
    assert broader(leopard=0.4, jaguar=0.31, stranger=0.29) == "big cat"
    assert broader() is None
    assert broader(leopard=0.0) is None
    # The meaning that is known counts, not the commonest one.
    votes = [("jaguar", offsets["jaguar_car"], 0.5), ("machine", None, 0.5)]
    assert broader_word(wordnet, votes) == "machine"


def test_words_that_only_specialists_say_are_passed_over(tmp_path: Path) -> None:
    records = {**ANIMALS, "cow": ("animal", "cow", "placental", "gives milk")}
    write_wordnet(tmp_path, records)
    votes = [("dog", None, 0.5), ("cow", None, 0.5)]
    assert broader_word(WordNet(tmp_path), votes) == "mammal"  # and not "placental"


def test_files_that_will_not_do(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"index\.noun"):
        WordNet(tmp_path)
    offsets = write_wordnet(tmp_path)
    (tmp_path / "data.noun").write_bytes(b"")
    with pytest.raises(LabelError, match=r"data\.noun"):
        WordNet(tmp_path)
    write_wordnet(tmp_path)
    data = (tmp_path / "data.noun").read_bytes()
    (tmp_path / "data.noun").write_bytes(data[: offsets["leopard"] + 20])
    with pytest.raises(LabelError, match="damaged"):
        WordNet(tmp_path).synset(offsets["leopard"])
    with pytest.raises(LabelError, match="damaged"):
        WordNet(tmp_path).ancestors(offsets["dog"])
    (tmp_path / "data.noun").write_bytes(b"x" + data)
    with pytest.raises(LabelError, match="damaged"):
        WordNet(tmp_path).synset(offsets["leopard"])
    (tmp_path / "index.noun").write_bytes(b"leopard n one\n")
    with pytest.raises(LabelError, match="damaged"):
        WordNet(tmp_path).senses("leopard")


def test_hypernyms_in_a_circle_end(tmp_path: Path) -> None:
    offsets = write_wordnet(tmp_path)
    data = (tmp_path / "data.noun").read_bytes()
    up, down = (f"@ {offsets[name]:08d}".encode() for name in ("carnivore", "leopard"))
    (tmp_path / "data.noun").write_bytes(data.replace(up, down))
    wordnet = WordNet(tmp_path)
    assert wordnet.ancestors(offsets["leopard"]) == {offsets["leopard"]: 0, offsets["big_cat"]: 1}
    assert wordnet.depth(offsets["leopard"]) > 7


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsearch.wordnet._PLACES", (str(tmp_path / "package"),))
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    monkeypatch.delenv("WNHOME", raising=False)
    assert find_wordnet() is None
    with pytest.raises(LabelError, match="wordnet-base"):
        open_wordnet()
    with pytest.raises(LabelError, match="found none"):
        find_wordnet(tmp_path)
    for place in ("package", "home/dict", "search", "named"):
        write_wordnet(tmp_path / place)
    assert open_wordnet().folder == tmp_path / "package"
    monkeypatch.setenv("WNHOME", str(tmp_path / "home"))
    assert open_wordnet().folder == tmp_path / "home" / "dict"
    monkeypatch.setenv("WNSEARCHDIR", str(tmp_path / "search"))
    assert open_wordnet().folder == tmp_path / "search"
    assert open_wordnet(tmp_path / "named").folder == tmp_path / "named"


def test_the_real_one() -> None:
    wordnet = find_wordnet()
    if wordnet is None:
        pytest.skip("WordNet is not on this machine")
    votes = [("leopard", 2128385, 0.4), ("jaguar", 2128925, 0.4), ("teapot", None, 0.2)]
    assert broader_word(wordnet, votes) == "big cat"
    assert wordnet.synset(wordnet.senses("entity")[0]).hypernyms == ()
    assert wordnet.senses("'hood")
    assert wordnet.senses("zyrian")
