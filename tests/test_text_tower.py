"""Texts without torch: the same tokens, the same vectors, and nothing damaged is believed."""

from __future__ import annotations

import csv
import html
import json
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import ftfy
import numpy as np
import pytest

from clipsearch.background_words import background_prompts
from clipsearch.encoder import Encoder, load_encoder
from clipsearch.mapped_tensors import map_tensors
from clipsearch.query_encoders import QueryEncoders
from clipsearch.text_blocks import ACTIVATIONS
from clipsearch.text_tower import TextTower
from clipsearch.text_tower_export import export_text_tower, fastest_for_texts
from clipsearch.text_tower_files import (
    forget_towers,
    open_text_tower,
    saved_towers,
    tower_file,
    towers_folder,
)
from tests.conftest import Cli

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "clipsearch" / "models" / "mini"
TEXTS = [
    *background_prompts()[:40],
    "",
    "dog",
    "TWO dogs, on a beach!",
    "a long story about a dog and a cat " * 20,
    "<end_of_text> behind the end",
    "ein Hund über der Brücke",
    "雪の中の二匹の犬",
    "\N{DOG FACE} salt &amp; pepper",
]


def tower_of(encoder: Encoder, folder: Path) -> TextTower:
    assert export_text_tower(encoder, folder)
    tower = open_text_tower(encoder.space, folder)
    assert tower is not None
    return tower


def cosines(one: Any, other: Any) -> Any:
    return np.einsum("ij,ij->i", one, other, dtype=np.float64)


# -- tokens -----------------------------------------------------------------------------


def strange_texts(count: int) -> list[str]:
    rng = random.Random(5)
    words = " ".join(background_prompts()).split()

    def letter() -> str:
        return chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000), 65, 32, 39]))

    kinds = (
        lambda: "".join(chr(rng.randrange(128)) for _ in range(rng.randrange(30))),
        lambda: "".join(chr(rng.randrange(32, 0x250)) for _ in range(rng.randrange(30))),
        lambda: "".join(letter() for _ in range(rng.randrange(20))),
        lambda: rng.choice(["", " ", "'"]).join(rng.choices(words, k=rng.randrange(40))),
        lambda: "&" + rng.choice(["amp;", "lt;", "eacute", "#233;", "x "]) + rng.choice(words),
    )
    return [rng.choice(kinds)() for _ in range(count)]


@pytest.mark.slow
def test_tokens_are_those_of_open_clip(tmp_path: Path) -> None:
    encoder = load_encoder("mini")
    tower = tower_of(encoder, tmp_path)
    side = encoder.text_side()  # type: ignore[attr-defined]
    texts = [
        *TEXTS,
        *background_prompts(),
        *strange_texts(2000),
        "<START_OF_TEXT> <start_of_text>x <ſtart_of_text>",
        "we'LL don't 'ſ 'S I'm x'y ''s",
        "İstanbul K ǅ ﷺ ﬁne schÃ¶n e\u0301 \u2028 \u00a0 \ufeff \udcff",
        "\x00\x1b[31mred\x7f a\r\nb\tc\x0bd\x0ce\x1cf",
        "a" * 500,
    ]
    expected = side.tokenize(texts)
    for text, row in zip(texts, expected.tolist(), strict=True):
        own = tower.tokens(text)
        assert len(own) <= 32
        assert own + [0] * (32 - len(own)) == row, ascii(text)


def test_tokens_of_captions(flickr: Path, tmp_path: Path) -> None:
    encoder = load_encoder("mini")
    tower = tower_of(encoder, tmp_path)
    with (flickr / "captions.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert len(cells) > 400
    expected = encoder.text_side().tokenize(cells)  # type: ignore[attr-defined]
    for text, row in zip(cells, expected.tolist(), strict=True):
        own = tower.tokens(text)
        assert own + [0] * (32 - len(own)) == row, text


def test_plain_text_needs_no_mending() -> None:
    """What the tokenizer passes by for plain ASCII leaves it as it is."""
    letters = [chr(code) for code in range(32, 127) if chr(code) != "&"] + ["\t", "\n"]
    rng = random.Random(3)
    texts = [*letters, *("".join(rng.choices(letters, k=40)) for _ in range(2000))]
    for text in texts:
        mended = html.unescape(html.unescape(ftfy.fix_text(text)))
        assert mended.split() == text.split()


# -- vectors ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mini", "photo1k"])
def test_vectors_are_those_of_torch(
    model: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = "mini" if model == "mini" else request.getfixturevalue("photo1k")
    encoder = load_encoder(name, device="cpu")
    tower = tower_of(encoder, tmp_path)
    assert not saved_towers(tmp_path)[0].has_copy  # both have their weights in a safetensors file
    mine, theirs = tower.encode_texts(TEXTS), encoder.encode_texts(TEXTS)
    assert mine.shape == theirs.shape
    assert mine.dtype == np.float32
    assert cosines(mine, theirs).min() > 0.999999
    assert np.abs(np.linalg.norm(mine, axis=1) - 1).max() < 1e-5
    between = mine @ mine.T - np.eye(len(mine))
    assert np.sort(between, axis=None)[len(mine) ** 2 // 2] < 0.95  # they do differ


def small_model(folder: Path, text: dict[str, Any], binary: bool = False, **model: Any) -> str:
    """A model folder with a tiny random text side."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir()
    config = {
        "embed_dim": 48,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16,
                       "head_width": 16},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 64, "heads": 4,
                     "layers": 2, **text},
        **model,
    }  # fmt: skip
    document = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    import torch

    torch.manual_seed(len(text))
    net = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    for name, value in net.named_parameters():  # large enough that every part counts
        if value.ndim < 2 or "embedding" in name:
            value.data.add_(0.3 * torch.randn_like(value))
    if binary:
        torch.save(net.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        state = {name: value.contiguous() for name, value in net.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors")
    return str(folder)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ({}, {}),
        ({"pool_type": "last"}, {"quick_gelu": True}),
        ({"ls_init_value": 0.3, "proj_bias": True}, {"custom_text": True}),
        ({"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 0.01}}, {}),
        ({"pool_type": "eos", "eos_id": 49407}, {"custom_text": True}),
        ({"pool_type": "last", "no_causal_mask": True}, {"custom_text": True}),
        ({"proj_type": "none", "width": 48, "mlp_ratio": 2.0}, {}),
    ],
)
def test_kinds_of_text_sides(text: dict[str, Any], model: dict[str, Any], tmp_path: Path) -> None:
    encoder = load_encoder(small_model(tmp_path / "model", text, **model), device="cpu")
    tower = tower_of(encoder, tmp_path)
    theirs = encoder.encode_texts(TEXTS)
    assert cosines(tower.encode_texts(TEXTS), theirs).min() > 0.999999
    assert cosines(theirs[:-1], theirs[1:]).min() < 0.9
    assert not saved_towers(tmp_path)[0].has_copy


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ({"embed_cls": True}, {"custom_text": True}),
        ({"qk_norm": True}, {}),
        ({"scale_fc": True}, {}),
        ({"embed_cls": True}, {}),  # a position more than the tokenizer knows of
    ],
)
def test_other_text_sides_stay_with_torch(
    text: dict[str, Any], model: dict[str, Any], tmp_path: Path
) -> None:
    encoder = load_encoder(small_model(tmp_path / "model", text, **model), device="cpu")
    assert not export_text_tower(encoder, tmp_path)
    assert saved_towers(tmp_path) == []
    assert fastest_for_texts(encoder, tmp_path) is encoder


def test_a_text_gets_the_same_vector_in_any_company(tmp_path: Path) -> None:
    tower = tower_of(load_encoder("mini"), tmp_path)
    rng = random.Random(1)
    words = " ".join(background_prompts()).split()
    beginnings = ["a photo of a {}", "a photo of a {}.", "itap of the {}", "{}", "{} {}", "a {}"]
    texts = [rng.choice(beginnings).format(*rng.choices(words, k=2)) for _ in range(700)]
    texts += ["", "a", "a photo", "a photo of", "", texts[0], "dog " * 40]
    together = tower.encode_texts(texts)
    alone = np.concatenate([tower.encode_texts([text]) for text in texts])
    assert cosines(together, alone).min() > 0.999999
    assert tower.encode_texts([]).shape == (0, 256)
    with pytest.raises(ValueError, match="one text"):
        tower.encode_texts("dog")


def test_beginnings_are_shared() -> None:
    from clipsearch.text_tower import _beginnings

    rng = np.random.default_rng(4)
    for count, kinds in ((1, 3), (30, 2), (400, 2), (400, 3), (400, 40)):
        lengths = rng.integers(1, 9, count)
        texts = sorted(tuple(rng.integers(0, kinds, length).tolist()) for length in lengths)
        groups = list(_beginnings(texts, 0, count, 0))
        assert sorted(place for _, members in groups for place in members) == list(range(count))
        for shared, members in groups:
            assert len({texts[place][:shared] for place in members}) == 1
            assert min(len(texts[place]) for place in members) > shared
    photos = [(1, 2, 3, 4, 5, word, 9) for word in range(60)] + [(1, 7, word, 9) for word in (3, 5)]
    assert list(_beginnings(sorted(photos), 0, 62, 0)) == [
        (5, list(range(60))),
        (0, [60, 61]),
    ]
    assert list(_beginnings([(1, 2, 9)], 0, 1, 0)) == [(0, [0])]


@pytest.mark.slow
def test_threads_share_a_tower(tmp_path: Path) -> None:
    tower = tower_of(load_encoder("mini"), tmp_path)
    expected = tower.encode_texts(TEXTS)
    failed: list[int] = []

    def ask(number: int) -> None:
        for _ in range(2):
            order = np.random.default_rng(number).permutation(len(TEXTS))
            rows = tower.encode_texts([TEXTS[i] for i in order])
            if cosines(rows, expected[order]).min() < 0.999999:
                failed.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_activations_are_those_of_their_formulas() -> None:
    from math import erf, exp, tanh

    points = np.concatenate([np.linspace(-12, 12, 4001), [0.0, -100, 100, 1e-30]])
    formulas = {
        "gelu": lambda x: x * 0.5 * (1 + erf(x / 2**0.5)),
        "gelu_tanh": lambda x: 0.5 * x * (1 + tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))),
        "quick_gelu": lambda x: x / (1 + exp(min(-1.702 * x, 700))),
    }
    assert set(formulas) == set(ACTIVATIONS)
    for name, formula in formulas.items():
        x = points.astype(np.float32)
        ACTIVATIONS[name](x)
        expected = np.array([formula(float(point)) for point in points.astype(np.float32)])
        assert np.abs(x - expected).max() < 1e-6 + 1e-6 * 100 * (name != "gelu"), name
        near = np.abs(points) < 12.5
        assert np.abs(x - expected)[near].max() < 2e-6, name


# -- files ------------------------------------------------------------------------------


def test_weights_of_another_form_are_copied(tmp_path: Path) -> None:
    encoder = load_encoder(small_model(tmp_path / "model", {}, binary=True), device="cpu")
    tower = tower_of(encoder, tmp_path)
    assert cosines(tower.encode_texts(TEXTS), encoder.encode_texts(TEXTS)).min() > 0.999999
    (saved,) = saved_towers(tmp_path)
    assert saved.has_copy
    assert saved.bytes > 49408 * 64 * 4
    shutil.rmtree(tmp_path / "model")  # it needs nothing else
    assert open_text_tower(encoder.space, tmp_path) is not None


def test_no_room_for_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = load_encoder(small_model(tmp_path / "model", {}, binary=True), device="cpu")
    full = shutil.disk_usage(tmp_path)._replace(free=50_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: full)
    with pytest.raises(OSError, match="no room"):
        export_text_tower(encoder, tmp_path)
    assert fastest_for_texts(encoder, tmp_path) is encoder
    assert list(towers_folder(tmp_path).iterdir()) == []


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors
    import safetensors.numpy

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half of it")
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    encoder = load_encoder("mini", device="cpu")
    with pytest.raises(OSError, match="No space left"):
        export_text_tower(encoder, tmp_path)
    assert list(towers_folder(tmp_path).iterdir()) == []
    assert fastest_for_texts(encoder, tmp_path) is encoder


def test_a_tower_that_disagrees_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder("mini", device="cpu")
    tries = []

    def wrong(x: Any) -> None:
        tries.append(1)
        np.maximum(x, 0, out=x)

    monkeypatch.setitem(ACTIVATIONS, "gelu", wrong)
    assert not export_text_tower(encoder, tmp_path)
    assert saved_towers(tmp_path) == []
    assert tries
    tries.clear()
    assert not export_text_tower(encoder, tmp_path)  # and it is not tried again
    assert tries == []
    assert fastest_for_texts(encoder, tmp_path) is encoder


def test_damaged_towers_are_done_without(tmp_path: Path) -> None:
    encoder = load_encoder(small_model(tmp_path / "model", {}, binary=True), device="cpu")
    tower_of(encoder, tmp_path)
    place = tower_file(encoder.space.fingerprint, tmp_path)
    whole = place.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")

    def with_bytes(start: int, data: bytes) -> bytes:
        return whole[:start] + data + whole[start + len(data) :]

    tensors = json.loads(whole[8:header])
    blocks, _ = tensors["copy.transformer.resblocks.1.mlp.c_fc.weight"]["data_offsets"]
    merges, _ = tensors["merges"]["data_offsets"]
    damages = [
        b"",
        b"\0" * 100,
        b"\xff" * 5000,
        *(whole[:size] for size in (7, 8, 100, header, header + 1000, len(whole) - 1)),
        with_bytes(20, b"\xff\xfe\xff"),
        with_bytes(header + merges, b"\x07\x09"),
        with_bytes(header + blocks, b"\x7a" * 4000),  # numbers of 1e35
        with_bytes(header + blocks, b"\xff" * 4000),  # not numbers
        whole.replace(b'\\"heads\\": 4', b'\\"heads\\": 5'),
        whole.replace(encoder.space.fingerprint.encode(), b"0" * 64),
    ]
    for number, damage in enumerate(damages):
        assert damage != whole
        place.write_bytes(damage)
        assert open_text_tower(encoder.space, tmp_path) is None, number
        assert isinstance(saved_towers(tmp_path)[0].bytes, int)
    assert export_text_tower(encoder, tmp_path)  # and made again
    assert open_text_tower(encoder.space, tmp_path) is not None
    place.unlink()
    place.mkdir()
    assert open_text_tower(encoder.space, tmp_path) is None
    assert fastest_for_texts(encoder, tmp_path) is encoder


def test_mapped_tensors_bear_any_damage(tmp_path: Path) -> None:
    data = (MINI / "open_clip_model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    small = data[: header + 3000]
    rng = random.Random(2)
    file = tmp_path / "x.safetensors"
    refused = 0
    for _ in range(300):
        part = bytearray(small)
        for _ in range(rng.randrange(1, 6)):
            part[rng.randrange(header)] = rng.randrange(256)
        file.write_bytes(part)
        try:
            map_tensors(file)
        except ValueError:
            refused += 1
    assert refused == 300  # whatever else: the tensors lie outside
    whole = map_tensors(MINI / "open_clip_model.safetensors").arrays
    from safetensors.numpy import load_file

    expected = load_file(MINI / "open_clip_model.safetensors")
    assert set(whole) <= set(expected)
    assert "token_embedding.weight" in whole
    for name, array in whole.items():
        np.testing.assert_array_equal(array, expected[name])
        assert not array.flags.writeable


def test_other_weights_at_the_same_place(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    encoder = load_encoder(small_model(folder, {}), device="cpu")
    tower_of(encoder, tmp_path)
    weights = folder / "open_clip_model.safetensors"
    import os

    before = os.stat(weights)
    data = bytearray(weights.read_bytes())
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    assert open_text_tower(encoder.space, tmp_path) is None
    # Same size, same time, other numbers: the one text shows it.
    header = 8 + int.from_bytes(data[:8], "little")
    middle = header + json.loads(data[8:header])["ln_final.weight"]["data_offsets"][0]
    data[middle : middle + 128] = np.linspace(-9, 9, 32, dtype=np.float32).tobytes()
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_text_tower(encoder.space, tmp_path) is None
    weights.unlink()
    assert open_text_tower(encoder.space, tmp_path) is None


def test_towers_can_be_forgotten(tmp_path: Path) -> None:
    tower_of(load_encoder("mini"), tmp_path)
    small = load_encoder(small_model(tmp_path / "model", {}), device="cpu")
    tower_of(small, tmp_path)
    assert [tower.model for tower in saved_towers(tmp_path)] == [small.space.model, "mini"]
    assert forget_towers("another", tmp_path) == []
    assert [tower.model for tower in forget_towers("mini", tmp_path)] == ["mini"]
    assert [tower.model for tower in saved_towers(tmp_path)] == [small.space.model]
    assert len(forget_towers(None, tmp_path)) == 1
    assert saved_towers(tmp_path) == []


@pytest.mark.slow
def test_written_and_read_at_once(tmp_path: Path) -> None:
    encoder = load_encoder("mini", device="cpu")
    tower_of(encoder, tmp_path)
    code = (
        "import sys\nfrom pathlib import Path\nfrom clipsearch.encoder import *\n"
        "from clipsearch.text_tower_files import open_text_tower\n"
        "space = Space('mini', sys.argv[2], 'mini', 256, 1.0, None, ImageGeometry(96, 96))\n"
        "seen = sum(open_text_tower(space, Path(sys.argv[1])) is not None for _ in range(30))\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(0 if seen == 30 else 1)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), encoder.space.fingerprint]
    readers = [subprocess.Popen(command, cwd=ROOT) for _ in range(2)]
    from clipsearch.text_tower_files import Weights, write_tower

    side = encoder.text_side()  # type: ignore[attr-defined]
    from clipsearch.model_names import file_stamp

    where = Weights(*file_stamp(encoder.weights), "")  # type: ignore[attr-defined]
    probe = encoder.encode_texts(["two dogs on a beach"])[0]
    while any(reader.poll() is None for reader in readers):
        write_tower(encoder.space, side.shape, side.table, where, probe, tmp_path)
    assert [reader.wait(timeout=60) for reader in readers] == [0, 0]
    assert len(list(towers_folder(tmp_path).iterdir())) == 1


# -- answering --------------------------------------------------------------------------

_SEARCH = """
import sys
from clipsearch.cli import run
code = run(sys.argv[1:])
heavy = ("torch", "open_clip", "huggingface_hub", "faiss", "pandas", "regex", "ftfy")
print(code, *(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


def search(index: Path, *words: str, **home: Path) -> tuple[list[str], str]:
    """Hits of a search in a process of its own, and what stood in its last line of errors."""
    import os

    environment = {**os.environ, **{name: str(place) for name, place in home.items()}}
    done = subprocess.run(
        [sys.executable, "-c", _SEARCH, "search", *words, "--index", str(index), "--csv",
         "--min-score", "none"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.splitlines(), done.stderr.splitlines()[-1]


def test_new_words_need_no_torch(mini_index: Path) -> None:
    hits, loaded = search(mini_index, "words that nobody has asked for before")
    assert loaded == "0"
    assert len(hits) > 5
    hits, loaded = search(mini_index, "ein Bär über dem Fluß")
    assert loaded == "0 regex ftfy"
    assert len(hits) > 5


@pytest.mark.slow
def test_torch_steps_in_where_the_tower_cannot_be(mini_index: Path, tmp_path: Path) -> None:
    words = "a big cat in high grass"
    expected, loaded = search(mini_index, words)
    assert loaded == "0"
    folder = tmp_path / "cache" / "clipsearch"
    folder.mkdir(parents=True)
    (folder / "text_towers").write_text("in the way")
    home = {"XDG_CACHE_HOME": tmp_path / "cache", "LOCALAPPDATA": tmp_path / "cache"}
    hits, loaded = search(mini_index, words, **home)
    assert "torch" in loaded.split()
    assert _paths(hits) == _paths(expected)
    (folder / "text_towers").unlink()
    hits, loaded = search(mini_index, "something new", **home)  # makes one, and uses it
    assert "torch" in loaded.split()
    assert [tower.model for tower in saved_towers(folder)] == ["mini"]
    hits, loaded = search(mini_index, "something else that is new", **home)
    assert loaded == "0"


def _paths(lines: list[str]) -> list[str]:
    rows = list(csv.DictReader(lines))
    assert rows
    return [row["path"] for row in rows]


def test_a_device_that_was_named_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_encoder("mini", device="cpu").space
    export_text_tower(load_encoder("mini", device="cpu"))
    for device, is_tower in ((None, True), ("cpu", True), ("cuda:7", False)):
        asked = []
        encoders = QueryEncoders(None, device, None)

        def load(wanted: Any, asked: list[Any] = asked) -> Encoder:
            asked.append(wanted)
            return load_encoder("mini", device="cpu")

        monkeypatch.setattr(encoders, "encoder", load)
        first = encoders._text_encoder(space)
        assert (asked == []) == is_tower, device
        assert encoders._text_encoder(space) is first  # opened once


def test_towers_command(cli: Cli, mini_index: Path, tmp_path: Path) -> None:
    home = {"XDG_CACHE_HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    assert cli("model", "towers", env=home).returncode == 1
    export_text_tower(load_encoder("mini"), tmp_path / "clipsearch")
    told = cli("model", "towers", env=home)
    assert told.returncode == 0
    assert b"mini" in told.stdout
    assert b"the model's own" in told.stdout
    (row,) = map(json.loads, cli("model", "towers", "--json", env=home).stdout.splitlines())
    assert (row["model"], row["has_copy"]) == ("mini", False)
    assert row["bytes"] == Path(row["path"]).stat().st_size < 400_000
    assert cli("model", "towers", "--forget", "other", env=home).returncode == 1
    assert cli("model", "towers", "--forget", "mini", env=home).returncode == 0
    assert saved_towers(tmp_path / "clipsearch") == []
