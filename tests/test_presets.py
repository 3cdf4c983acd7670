"""Names of encoders: what they mean, what is here, and which is chosen."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipsearch import model_names
from clipsearch.errors import ModelLoadError, ModelNotChosenError, UnknownModelError
from clipsearch.model_names import choose_model, resolve_model_name, weights_here
from clipsearch.presets import PRESETS, Preset, find_preset

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "clipsearch" / "models" / "mini"


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache in place of the user's."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_in_hub_cache(cache: Path, repo: str, *names: str) -> Path:
    """Lay files down as the hub's client does; returns the last one."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("c" * 40)
    for name in names:
        (snapshot / name).write_bytes(b"not weights")
    return snapshot / names[-1]


def test_every_preset_is_permissive_and_complete() -> None:
    assert [p.name for p in PRESETS] == ["fast", "balanced", "best", "multilingual", "mini"]
    for preset in PRESETS:
        assert preset.licence in ("MIT", "Apache-2.0")
        assert preset.dim > 0
        assert preset.image_size > 0
        assert preset.note
        assert (preset.hub_repo is None) == (preset.name == "mini")
    assert PRESETS[1].model == "ViT-B-32-256/datacomp_s34b_b86k"
    assert PRESETS[-1].imagenet_top1 is None


@pytest.mark.parametrize("preset", PRESETS[:-1], ids=lambda p: p.name)
def test_preset_agrees_with_open_clip(preset: Preset) -> None:
    import open_clip

    architecture, tag = preset.model.split("/")
    config = open_clip.get_model_config(architecture)
    pretrained = open_clip.get_pretrained_cfg(architecture, tag)
    assert config["embed_dim"] == preset.dim
    assert config["vision_cfg"]["image_size"] == preset.image_size
    assert pretrained["hf_hub"] == f"{preset.hub_repo}/"
    assert config["text_cfg"].get("hf_tokenizer_name") == preset.text_repo


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mini", "mini"),
        (" Balanced ", "ViT-B-32-256/datacomp_s34b_b86k"),
        ("ViT-B-32-256/datacomp_s34b_b86k", "ViT-B-32-256/datacomp_s34b_b86k"),
        ("laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", "ViT-B-32-256/datacomp_s34b_b86k"),
        ("hf-hub:laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "ViT-L-14/datacomp_xl_s13b_b90k"),
        ("openai/clip-vit-base-patch32", "ViT-B-32-quickgelu/openai"),
        ("openai/clip-vit-base-patch16", "ViT-B-16-quickgelu/openai"),
        ("openai/clip-vit-large-patch14", "ViT-L-14-quickgelu/openai"),
        ("openai/clip-vit-large-patch14-336", "ViT-L-14-336-quickgelu/openai"),
        ("ViT-B-32/openai", "ViT-B-32-quickgelu/openai"),
        ("RN50/openai", "RN50-quickgelu/openai"),
        ("ViT-B-32/LAION2b-s34b-b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
        ("hf-hub:someone/some.model-1", "hf-hub:someone/some.model-1"),
        ("google/siglip-base-patch16-224", "ViT-B-16-SigLIP/webli"),
    ],
)
def test_resolve(text: str, expected: str) -> None:
    assert resolve_model_name(text) == expected


def test_every_alias_names_weights_open_clip_has() -> None:
    import open_clip

    for alias, model in model_names._ALIASES.items():
        architecture, tag = model.split("/")
        pretrained = open_clip.get_pretrained_cfg(architecture, tag)
        config = open_clip.get_model_config(architecture)
        assert pretrained, alias
        assert pretrained.get("quick_gelu", False) == config.get("quick_gelu", False), alias


def test_resolve_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models" / "own"
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for text in (str(folder), "models/own", "./models/own", f"local-dir:{folder}"):
        assert resolve_model_name(text) == str(folder.resolve())


def test_a_folder_does_not_shadow_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "best").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model_name("best") == "ViT-L-14/datacomp_xl_s13b_b90k"


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", UnknownModelError, "expected one of fast, balanced"),
        ("blanced", UnknownModelError, "did you mean balanced"),
        ("ViT-B-23/openai", UnknownModelError, "ViT-B-32"),
        ("ViT-B-32", UnknownModelError, "ViT-B-32/PRETRAINED"),
        ("hf-hub:laion", UnknownModelError, "hf-hub:ORG/NAME"),
        ("hf-hub:../../etc", UnknownModelError, "hf-hub:ORG/NAME"),
        ("./nowhere/model", ModelLoadError, "found nothing there"),
        ("local-dir:nowhere", ModelLoadError, "found nothing there"),
        (__file__, ModelLoadError, "found a file there"),
    ],
)
def test_resolve_refuses(text: str, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=re.escape(says)):
        resolve_model_name(text)


def test_weights_here(hub_cache: Path) -> None:
    assert weights_here("mini") == MINI / "open_clip_model.safetensors"
    assert weights_here(str(MINI)) == MINI / "open_clip_model.safetensors"
    assert weights_here("balanced") is None
    repo = "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K"
    old = put_in_hub_cache(hub_cache, repo, "open_clip_pytorch_model.bin")
    assert weights_here("balanced") == old
    safe = put_in_hub_cache(hub_cache, repo, "open_clip_model.safetensors")
    assert weights_here("balanced") == safe


def test_weights_here_wants_all_parts(hub_cache: Path) -> None:
    weights = "open_clip_model.safetensors"
    put_in_hub_cache(hub_cache, "someone/model", weights)
    assert weights_here("hf-hub:someone/model") is None
    put_in_hub_cache(hub_cache, "someone/model", "open_clip_config.json")
    assert weights_here("hf-hub:someone/model") is not None
    repo = find_preset("multilingual")
    assert repo is not None
    assert repo.hub_repo is not None
    put_in_hub_cache(hub_cache, repo.hub_repo, weights)
    assert weights_here("multilingual") is None
    put_in_hub_cache(hub_cache, "xlm-roberta-base", "tokenizer.json")
    assert weights_here("multilingual") is None
    put_in_hub_cache(hub_cache, "xlm-roberta-base", "config.json")
    assert weights_here("multilingual") is not None


def test_weights_here_of_a_name_outside_the_presets(hub_cache: Path) -> None:
    assert weights_here("ViT-B-32/openai") is None
    assert weights_here("ViT-B-32/no_such_tag") is None
    put_in_hub_cache(
        hub_cache, "timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"
    )
    assert weights_here("ViT-B-32/openai") is not None


def test_choose_never_takes_mini(hub_cache: Path) -> None:
    with pytest.raises(ModelNotChosenError) as caught:
        choose_model()
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "clipsearch model get balanced" in lines[0]
    assert "605 MB" in lines[0]
    assert "--model mini" in lines[1]


def test_choose_prefers_the_recommended(hub_cache: Path) -> None:
    weights = "open_clip_model.safetensors"
    put_in_hub_cache(hub_cache, "laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K", weights)
    assert choose_model() == "ViT-L-14/datacomp_xl_s13b_b90k"
    put_in_hub_cache(hub_cache, "laion/CLIP-ViT-B-32-256x256-DataComp-s34B-b86K", weights)
    assert choose_model() == "ViT-B-32-256/datacomp_s34b_b86k"


def test_neither_torch_nor_network_is_needed() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from clipsearch import model_names, presets\n"
        "heavy = {'torch', 'open_clip', 'huggingface_hub', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "[model_names.weights_here(p.name) for p in presets.PRESETS]\n"
        "model_names.weights_here('hf-hub:someone/model')\n"
        "model_names.resolve_model_name('ViT-B-32/openai')\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
