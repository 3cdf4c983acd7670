"""The encoder seam: numbers against plain open_clip, identity of a space, errors, no network."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipsearch.encoder import Float32, UInt8, load_encoder
from clipsearch.errors import (
    MissingExtraError,
    ModelLoadError,
    ModelNotHereError,
    OptionError,
    UnknownModelError,
)
from clipsearch.open_clip_encoder import OpenClipEncoder, fetch_model, load_open_clip_encoder

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "clipsearch" / "models" / "mini"
PHOTO1K = ROOT.parent / "shared" / "models" / "photo1k"
WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
TEXTS = [
    "a photo of a dog.",
    "",
    "Ein Hund & eine Katze",
    "犬と猫",
    "  SPACES   and CAPITALS ",
    "far too long " * 60,
]


def random_pixels(n: int, encoder: OpenClipEncoder) -> UInt8:
    geometry = encoder.space.geometry
    shape = (n, geometry.height, geometry.width, 3)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def cosines(a: Float32, b: Float32) -> Float32:
    result: Float32 = (a * b).sum(axis=1)
    return result


@pytest.fixture(scope="module", params=["mini", "photo1k"])
def model(request: pytest.FixtureRequest) -> str:
    if request.param == "photo1k":
        if not PHOTO1K.is_dir():
            pytest.skip("the test-only model photo1k is not on this machine")
        return str(PHOTO1K)
    return "mini"


@pytest.fixture(scope="module")
def encoder(model: str) -> OpenClipEncoder:
    return load_open_clip_encoder(model, device="cpu")


@pytest.fixture(scope="module")
def plain(model: str) -> Any:
    """The same model as open_clip itself loads it: (net, preprocess, tokenizer)."""
    import open_clip

    name = f"local-dir:{MINI if model == 'mini' else model}"
    net, _, preprocess = open_clip.create_model_and_transforms(name)
    return net.eval(), preprocess, open_clip.get_tokenizer(name)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of mini in a folder of another name, to be damaged at will."""
    return Path(shutil.copytree(MINI, tmp_path / "My model (2)"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"the network was touched: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache in place of the user's."""
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def edit_config(folder: Path, **changes: Any) -> None:
    """Set keys of the config; ``part__key`` reaches one level down."""
    path = folder / CONFIG
    config = json.loads(path.read_text())
    for key, value in changes.items():
        part, _, inner = key.partition("__")
        where = config["preprocess_cfg"] if part == "preprocess_cfg" else config["model_cfg"]
        if inner and part != "preprocess_cfg":
            where = where[part]
        where[inner or part] = value
    path.write_text(json.dumps(config))


def put_in_hub_cache(cache: Path, repo: str, folder: Path) -> None:
    """Lay a model folder down as the hub's client does."""
    home = cache / f"models--{repo.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("c" * 40)
    shutil.copytree(folder, home / "snapshots" / ("c" * 40))


# Numbers


def test_images_equal_open_clip(encoder: OpenClipEncoder, plain: Any) -> None:
    import torch
    from PIL import Image

    net, preprocess, _ = plain
    pixels = random_pixels(9, encoder)
    # Pictures of the final size pass through open_clip's resizing unchanged.
    batch = torch.stack([preprocess(Image.fromarray(picture)) for picture in pixels])
    with torch.no_grad():
        expected = net.encode_image(batch, normalize=True).numpy()
    got = encoder.encode_images(pixels)
    assert got.dtype == np.float32
    assert got.shape == (9, encoder.space.dim)
    assert cosines(got, expected).min() > 1 - 1e-5
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_texts_equal_open_clip(encoder: OpenClipEncoder, plain: Any) -> None:
    import torch

    net, _, tokenizer = plain
    with torch.no_grad():
        expected = net.encode_text(tokenizer(TEXTS), normalize=True).numpy()
    got = encoder.encode_texts(TEXTS)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_space_equals_open_clip(encoder: OpenClipEncoder, plain: Any) -> None:
    net, _, _ = plain
    space = encoder.space
    assert space.logit_scale == pytest.approx(net.logit_scale.exp().item(), rel=1e-6)
    assert space.logit_bias is None
    assert (space.geometry.height, space.geometry.width) == tuple(net.visual.image_size)
    assert space.geometry.resize_mode == "shortest"
    assert space.geometry.interpolation == "bicubic"


def test_rows_are_of_unit_length(encoder: OpenClipEncoder) -> None:
    for rows in (encoder.encode_images(random_pixels(5, encoder)), encoder.encode_texts(TEXTS)):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_batch_size_does_not_matter(encoder: OpenClipEncoder) -> None:
    pixels = random_pixels(7, encoder)
    alone = np.concatenate([encoder.encode_images(pixels[i : i + 1]) for i in range(7)])
    np.testing.assert_allclose(encoder.encode_images(pixels), alone, atol=1e-5)
    texts = [f"{word} number {i}" for i in range(60) for word in ("cat", "dog", "a red car")]
    texts = texts * 2  # more than one batch
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts[:20]])
    np.testing.assert_allclose(encoder.encode_texts(texts)[:20], alone, atol=1e-5)
    assert len(encoder.encode_texts(texts)) == len(texts)


def test_nothing_in_nothing_out(encoder: OpenClipEncoder) -> None:
    assert encoder.encode_texts([]).shape == (0, encoder.space.dim)
    assert encoder.encode_images(random_pixels(0, encoder)).shape == (0, encoder.space.dim)


def test_pixels_are_not_changed_and_may_be_a_view(encoder: OpenClipEncoder) -> None:
    pixels = random_pixels(4, encoder)
    before = pixels.copy()
    expected = encoder.encode_images(pixels)
    np.testing.assert_array_equal(pixels, before)
    pixels.flags.writeable = False
    np.testing.assert_allclose(encoder.encode_images(pixels), expected, atol=1e-6)
    view = np.repeat(pixels, 2, axis=0)[::2]
    np.testing.assert_allclose(encoder.encode_images(view), expected, atol=1e-6)


def test_wrong_pixels_are_refused(encoder: OpenClipEncoder) -> None:
    pixels = random_pixels(2, encoder)
    for wrong in (pixels.astype(np.float32), pixels[:, :-1], pixels[0], pixels[..., :1]):
        with pytest.raises(ValueError, match="expected uint8 pixels of shape"):
            encoder.encode_images(wrong)
    with pytest.raises(ValueError, match="sequence of texts"):
        encoder.encode_texts("dog")


def test_threads_agree(encoder: OpenClipEncoder) -> None:
    pixels = random_pixels(6, encoder)
    images, texts = encoder.encode_images(pixels), encoder.encode_texts(TEXTS)
    wrong: list[str] = []

    def work() -> None:
        for _ in range(5):
            if not np.allclose(encoder.encode_images(pixels), images, atol=1e-5):
                wrong.append("images")
            if not np.allclose(encoder.encode_texts(TEXTS), texts, atol=1e-5):
                wrong.append("texts")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_recipe(encoder: OpenClipEncoder) -> None:
    recipe = encoder.recipe
    assert recipe["device"] == "cpu"
    assert recipe["precision"] == "float32"
    assert set(recipe["versions"]) == {"open_clip_torch", "torch", "timm"}
    json.dumps(recipe)


def test_real_words_find_real_classes() -> None:
    # An encoder wired wrongly (mean, channel order) still passes every test of form.
    if not PHOTO1K.is_dir():
        pytest.skip("the test-only model photo1k is not on this machine")
    encoder = load_encoder(str(PHOTO1K), device="cpu")
    words = encoder.encode_texts([f"a photo of a {w}." for w in ("dog", "puppy", "airplane")])
    assert words[0] @ words[1] > words[0] @ words[2] + 0.1


# Identity


def test_loaded_once_per_process() -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(load_encoder("mini", device="cpu")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(encoder) for encoder in found}) == 1


def test_same_model_elsewhere_is_the_same_space(copy: Path) -> None:
    mini = load_encoder("mini", device="cpu").space
    by_path = load_encoder(str(MINI), device="cpu").space
    copied = load_encoder(f"local-dir:{copy}", device="cpu").space
    assert mini.fingerprint == by_path.fingerprint == copied.fingerprint
    assert mini.id == f"mini-{mini.fingerprint[:12]}"
    assert copied.id == f"my-model-2-{mini.fingerprint[:12]}"
    assert (mini.model, copied.model) == ("mini", str(copy))
    assert re.fullmatch(r"[0-9a-f]{64}", mini.fingerprint)


def test_fingerprint_is_stable_between_processes() -> None:
    code = (
        "from clipsearch.encoder import load_encoder\n"
        "print(load_encoder('mini', device='cpu').space.fingerprint)\n"
        "import logging\n"
        "assert logging.getLogger().handlers == []\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == load_encoder("mini", device="cpu").space.fingerprint
    assert run.stderr == ""  # neither warnings nor log lines on a user's terminal


@pytest.mark.parametrize(
    "changes",
    [
        {"vision_cfg__timm_model_pretrained": True},
        {"text_cfg__hf_model_pretrained": None},
        {"text_cfg__no_causal_mask": False},  # its default
        {"quick_gelu": False},
        {"preprocess_cfg__resize_mode": "shortest"},
        {"preprocess_cfg__mode": "RGB"},
    ],
    ids=str,
)
def test_config_that_means_the_same(copy: Path, changes: dict[str, Any]) -> None:
    edit_config(copy, **changes)
    expected = load_encoder("mini", device="cpu").space.fingerprint
    assert load_encoder(str(copy), device="cpu").space.fingerprint == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"quick_gelu": True},
        {"text_cfg__no_causal_mask": True},
        {"text_cfg__tokenizer_kwargs": {"clean": "whitespace"}},
        {"preprocess_cfg__mean": [0.5, 0.5, 0.5]},
        {"preprocess_cfg__std": [0.5, 0.5, 0.5]},
        {"preprocess_cfg__resize_mode": "squash"},
        {"preprocess_cfg__interpolation": "bilinear"},
        {"vision_cfg__image_size": 128},
    ],
    ids=str,
)
def test_config_that_means_another_space(copy: Path, changes: dict[str, Any]) -> None:
    edit_config(copy, **changes)
    other = load_encoder(str(copy), device="cpu").space
    assert other.fingerprint != load_encoder("mini", device="cpu").space.fingerprint


def test_other_weights_are_another_space_even_in_the_same_folder(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    before = load_encoder(str(copy), device="cpu")
    weights = load_file(copy / WEIGHTS)
    weights["logit_scale"] = weights["logit_scale"] + 1
    save_file(weights, copy / WEIGHTS)
    after = load_encoder(str(copy), device="cpu")
    assert after.space.fingerprint != before.space.fingerprint
    assert after.space.logit_scale == pytest.approx(before.space.logit_scale * np.e, rel=1e-3)


def test_geometry_follows_the_config(copy: Path) -> None:
    edit_config(
        copy,
        vision_cfg__image_size=[64, 128],
        preprocess_cfg__resize_mode="longest",
        preprocess_cfg__interpolation="bilinear",
        preprocess_cfg__fill_color=127,
    )
    encoder = load_encoder(str(copy), device="cpu")
    geometry = encoder.space.geometry
    assert (geometry.height, geometry.width, geometry.fill) == (64, 128, 127)
    assert (geometry.resize_mode, geometry.interpolation) == ("longest", "bilinear")
    assert encoder.encode_images(np.zeros((1, 64, 128, 3), np.uint8)).shape == (1, 256)


def test_checksum_of_large_weights_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsearch import fingerprint as module

    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"a" * 1000)
    cache = tmp_path / "cache"
    small = module._weights_sha256(weights, cache)
    assert not cache.exists()
    monkeypatch.setattr(module, "_HASH_IS_QUICK", 0)
    assert module._weights_sha256(weights, cache) == small
    with monkeypatch.context() as patch:
        patch.setattr(module, "_sha256", lambda path: pytest.fail("hashed twice"))
        assert module._weights_sha256(weights, cache) == small
    weights.write_bytes(b"b" * 1001)
    assert module._weights_sha256(weights, cache) != small
    (cache / "weights-sha256.json").write_text("[1, 2")
    assert module._weights_sha256(weights, cache) != small
    (tmp_path / "in the way").write_text("")
    assert module._weights_sha256(weights, tmp_path / "in the way" / "x") != small


# Errors


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("blanced", UnknownModelError, "did you mean balanced"),
        ("ViT-B-23/openai", UnknownModelError, "ViT-B-32"),
        ("ViT-B-32-256/openai", UnknownModelError, "datacomp_s34b_b86k"),
        ("./no/such/folder", ModelLoadError, "found nothing there"),
    ],
)
def test_wrong_names(name: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        load_encoder(name)


def test_wrong_device() -> None:
    import torch

    for device in ("gpu", "cuda:99", "cpu:1", ""):
        with pytest.raises(OptionError, match=r"expected one of .*cpu"):
            load_encoder("mini", device=device)
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="no device 'cuda' here"):
            load_encoder("mini", device="cuda")


def refused(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_encoder(str(folder), device="cpu")
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_folder_without_parts(copy: Path) -> None:
    (copy / CONFIG).rename(copy / "away")
    assert CONFIG in refused(copy)
    (copy / "away").rename(copy / CONFIG)
    (copy / WEIGHTS).unlink()
    assert "expected weights" in refused(copy)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"model_cfg": 3}', '{"model_cfg": {"vision_cfg": {}}}', "\udcff"]
)
def test_broken_config(copy: Path, text: str) -> None:
    (copy / CONFIG).write_bytes(text.encode(errors="surrogateescape"))
    assert "cannot read" in refused(copy)


def test_truncated_weights(copy: Path) -> None:
    data = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(data[: len(data) // 2])
    assert WEIGHTS in refused(copy)
    (copy / WEIGHTS).write_bytes(b"")
    assert WEIGHTS in refused(copy)


def test_weights_of_another_architecture(copy: Path) -> None:
    edit_config(copy, text_cfg__layers=2)
    assert "cannot load" in refused(copy)
    edit_config(copy, text_cfg__layers=3, vision_cfg__timm_model_name="no_such_model")
    assert "cannot load" in refused(copy)


def test_pickle_is_not_run(copy: Path, tmp_path: Path) -> None:
    import pickle

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "exploded",)

    (copy / WEIGHTS).unlink()
    (copy / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    refused(copy)
    assert not (tmp_path / "exploded").exists()


def test_code_of_a_tokenizer_is_not_run(copy: Path) -> None:
    edit_config(copy, text_cfg__tokenizer_kwargs={"trust_remote_code": True})
    assert "refused" in refused(copy)


def test_multilingual_names_its_extra(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsearch import open_clip_encoder as module

    edit_config(copy, text_cfg__hf_tokenizer_name="xlm-roberta-base")
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "clipsearch\[multilingual\]"'):
        load_encoder(str(copy), device="cpu")


# Network


def test_not_here_is_said_in_two_lines(no_network: None, hub_cache: Path) -> None:
    for name in ("balanced", "ViT-B-32/openai", "hf-hub:someone/model"):
        with pytest.raises(ModelNotHereError) as caught:
            load_encoder(name)
        first, second = str(caught.value).splitlines()
        assert "clipsearch model get" in first
        assert "--model mini" in second


def test_download_without_a_network_fails_clearly(no_network: None, hub_cache: Path) -> None:
    for name in ("balanced", "hf-hub:someone/model"):
        with pytest.raises(ModelNotHereError, match="check the network"):
            load_encoder(name, allow_download=True)
    with pytest.raises(ModelNotHereError, match="check the network"):
        fetch_model("fast")


def test_local_models_touch_no_network(no_network: None, copy: Path) -> None:
    for allow in (False, True):
        load_encoder("mini", device="cpu", allow_download=allow)
        encoder = load_encoder(str(copy), device="cpu", allow_download=allow)
        encoder.encode_texts(["dog"])
    assert fetch_model("mini") == MINI / WEIGHTS


@pytest.mark.parametrize("allow", [False, True])
def test_what_is_in_the_cache_touches_no_network(
    no_network: None, hub_cache: Path, allow: bool
) -> None:
    put_in_hub_cache(hub_cache, "someone/My-Mini", MINI)
    encoder = load_encoder("hf-hub:someone/My-Mini", device="cpu", allow_download=allow)
    mini = load_encoder("mini", device="cpu")
    assert encoder.space.fingerprint == mini.space.fingerprint
    assert encoder.space.id.startswith("someone-my-mini-")
    np.testing.assert_array_equal(encoder.encode_texts(TEXTS), mini.encode_texts(TEXTS))


def test_name_and_tag_from_the_cache(
    no_network: None, hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MODEL/PRETRAINED end to end, with mini in the place of real weights."""
    from open_clip import factory, pretrained

    config = json.loads((MINI / CONFIG).read_text())
    table = {
        "plain": {"hf_hub": "someone/mini/", **config["preprocess_cfg"]},
        "quick": {"hf_hub": "someone/mini/", "quick_gelu": True, **config["preprocess_cfg"]},
    }
    monkeypatch.setitem(factory._MODEL_CONFIGS, "Mini-1", config["model_cfg"])
    monkeypatch.setitem(pretrained._PRETRAINED, "Mini-1", table)
    monkeypatch.setattr("clipsearch.model_names._architectures", lambda: frozenset({"Mini-1"}))
    put_in_hub_cache(hub_cache, "someone/mini", MINI)
    mini = load_encoder("mini", device="cpu")
    same = load_encoder("Mini-1/plain", device="cpu", allow_download=True)
    assert same.space.fingerprint == mini.space.fingerprint
    assert same.space.id.startswith("mini-1-plain-")
    np.testing.assert_array_equal(same.encode_texts(TEXTS), mini.encode_texts(TEXTS))
    quick = load_encoder("Mini-1/quick", device="cpu")
    assert quick.space.fingerprint != mini.space.fingerprint
    assert np.abs(quick.encode_texts(TEXTS) - mini.encode_texts(TEXTS)).max() > 1e-3


def test_quick_gelu_follows_the_weights(hub_cache: Path) -> None:
    for name in ("ViT-B-32/openai", "openai/clip-vit-base-patch32", "ViT-B-32/laion400m_e32"):
        with pytest.raises(ModelNotHereError, match="ViT-B-32-quickgelu/"):
            load_encoder(name)


def test_the_surroundings_are_left_as_they_were(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import os

    import torch
    from huggingface_hub import constants

    from clipsearch import open_clip_encoder as module

    monkeypatch.setattr(module, "_loaded", {})
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    root = logging.getLogger()
    before = (list(root.handlers), list(root.filters), torch.get_num_threads())
    with caplog.at_level(logging.DEBUG):
        load_encoder("mini", device="cpu")
    assert caplog.records == []
    assert (list(root.handlers), list(root.filters), torch.get_num_threads()) == before
    assert constants.HF_HUB_OFFLINE is False
    assert "HF_HUB_OFFLINE" not in os.environ
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_threads_of_a_view_are_the_callers_again_afterwards() -> None:
    encoder = load_open_clip_encoder("mini", device="cpu")
    pixels = random_pixels(4, encoder)
    one = encoder.with_threads(1)
    before = torch.get_num_threads()
    inside: list[int] = []
    original = encoder._net.encode_image

    def watch(*args: Any, **named: Any) -> Any:
        inside.append(torch.get_num_threads())
        return original(*args, **named)

    encoder._net.encode_image = watch
    try:
        rows = one.encode_images(pixels)
        assert torch.get_num_threads() == before
        with ThreadPoolExecutor(3) as pool:
            for other in pool.map(one.encode_images, [pixels] * 6):
                np.testing.assert_allclose(other, rows, atol=1e-6)
            assert set(pool.map(lambda _: torch.get_num_threads(), range(6))) == {before}
    finally:
        del encoder._net.encode_image
    assert inside == [1] * 7
    np.testing.assert_allclose(encoder.encode_images(pixels), rows, atol=1e-5)
    with pytest.raises(ValueError, match="at least one thread"):
        encoder.with_threads(0)
