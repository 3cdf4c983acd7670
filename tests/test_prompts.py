"""Labels, templates and class vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from clipsearch.encoder import Encoder, Float32, load_encoder
from clipsearch.errors import LabelError
from clipsearch.prompt_templates import OPENAI_TEMPLATES, SIMPLE_TEMPLATES
from clipsearch.prompts import (
    check_labels,
    class_prompts,
    class_vectors,
    parse_labels,
    read_labels_file,
    resolve_templates,
)
from clipsearch.text_vectors import TextVectors

MINI = Path(__file__).resolve().parents[1] / "clipsearch" / "models" / "mini"


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return load_encoder("mini", device="cpu")


def test_templates_are_those_of_open_clip() -> None:
    from open_clip import zero_shot_metadata as theirs

    for ours, other in (
        (SIMPLE_TEMPLATES, theirs.SIMPLE_IMAGENET_TEMPLATES),
        (OPENAI_TEMPLATES, theirs.OPENAI_IMAGENET_TEMPLATES),
    ):
        assert [t.replace("{}", "otter") for t in ours] == [t("otter") for t in other]
    assert (len(SIMPLE_TEMPLATES), len(OPENAI_TEMPLATES)) == (7, 80)


def test_class_prompts() -> None:
    assert class_prompts(["cat", "{0} dog"], ["a {}.", "{} and {}"]) == [
        ["a cat.", "cat and cat"],
        ["a {0} dog.", "{0} dog and {0} dog"],
    ]
    assert class_prompts(["pug"], "none", "a type of pet") == [["pug, a type of pet"]]
    assert class_prompts(["pug"], "none", "  ") == [["pug"]]
    assert class_prompts(["pug"], "{{{}}}") == [["{pug}"]]
    assert [len(row) for row in class_prompts(["a", "b"], "openai")] == [80, 80]
    assert class_prompts(["a"]) == class_prompts(["a"], "simple")


@pytest.mark.parametrize("templates", ["simple", "openai", "none", "a photo of a {}."])
def test_class_vectors_equal_open_clip(mini: Encoder, templates: str) -> None:
    import open_clip

    name = f"local-dir:{MINI}"
    net = open_clip.create_model(name).eval()
    labels = ["dog", "sports car", "Granny Smith", "église"]
    expected = open_clip.build_zero_shot_classifier(
        net, open_clip.get_tokenizer(name), labels, list(resolve_templates(templates))
    )
    got = class_vectors(labels, TextVectors(mini.space, lambda: mini, None), templates)
    assert got.dtype == np.float32
    assert got.shape == (4, 256)
    np.testing.assert_allclose(got, expected.numpy().T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_class_vectors_go_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Letters:
        def encode(self, texts: Sequence[str]) -> Float32:
            sizes.append(len(texts))
            return np.array([[len(t), ord(t[0]), 1] for t in texts], dtype=np.float32)

    labels = [chr(97 + i) * (i + 1) for i in range(10)]
    whole = class_vectors(labels, Letters(), ["{}", "{}!"])
    monkeypatch.setattr("clipsearch.prompts._PROMPTS_PER_BLOCK", 6)
    parts = class_vectors(labels, Letters(), ["{}", "{}!"])
    assert sizes == [20, 6, 6, 6, 2]
    np.testing.assert_array_equal(whole, parts)


def test_parse_labels() -> None:
    assert parse_labels(" cat ,hot dog") == ("cat", "hot dog")
    assert parse_labels("cat") == ("cat",)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no label given"),
        ("  ", "no label given"),
        ("cat,,dog", "label 2 of 3 is empty"),
        ("cat,", "label 2 of 2 is empty"),
        ("Cat, dog, cat", "there twice"),
        ("hot dog,Hot  Dog", "there twice"),
    ],
)
def test_bad_labels(text: str, says: str) -> None:
    with pytest.raises(LabelError, match=says):
        parse_labels(text)


def test_one_text_is_no_list_of_labels() -> None:
    with pytest.raises(LabelError, match="sequence of labels"):
        check_labels("cat")


def test_labels_file(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeff# pets\r\ncat\r\n\r\n  hot dog \r\nC# code\r\nchat, noir\r\n".encode())
    assert read_labels_file(path) == ("cat", "hot dog", "C# code", "chat, noir")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "No such file"),
        (b"\xff\xfec\x00a\x00t\x00", "UTF-8"),
        (b"cat\x00dog", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "UTF-8"),
        (b"# nothing\n\n", "holds no labels"),
        (b"cat\ndog\nCAT\n", "there twice"),
    ],
)
def test_bad_labels_file(tmp_path: Path, data: bytes | None, says: str) -> None:
    path = tmp_path / "labels.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(LabelError, match=says):
        read_labels_file(path)


def test_templates_file(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("# mine\na scan of a {}\n\na {} on paper\n", encoding="utf-8")
    assert resolve_templates(str(path)) == ("a scan of a {}", "a {} on paper")
    path.write_text("a scan\n", encoding="utf-8")
    with pytest.raises(LabelError, match="'a scan'"):
        resolve_templates(str(path))


@pytest.mark.parametrize(
    "template", ["a {name}", "a {0}", "a {!r}", "a {:>9}", "a {", "a }{}", "{{}}", ["a photo"], []]
)
def test_bad_templates(template: str | list[str]) -> None:
    with pytest.raises(LabelError, match=re.escape("{}")):
        resolve_templates(template)


def test_unknown_template_set_names_the_known() -> None:
    with pytest.raises(LabelError, match="simple, openai, none"):
        resolve_templates("simpel")
