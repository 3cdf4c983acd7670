"""Encoders of a real architecture with random weights: right for timing, and for nothing else."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any


def write_open_clip_folder(folder: Path, name: str, seed: int = 0) -> Path:
    """An open_clip model called ``name`` as a folder that ``clipsearch index --model`` takes; an
    old one is left as it is."""
    config = folder / "open_clip_config.json"
    if config.is_file():
        return folder
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    net = open_clip.create_model(name, pretrained=None, load_weights=False)
    save_file(
        {key: value.contiguous() for key, value in net.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )
    preprocess = {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    document = {"model_cfg": open_clip.get_model_config(name), "preprocess_cfg": preprocess}
    config.write_text(json.dumps(document, indent=1))
    return folder


def bpe_file() -> Path:
    """CLIP's byte-pair vocabulary, which open_clip brings along."""
    import open_clip

    return Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")


def write_hugging_face_folder(folder: Path, seed: int = 0, *, small: bool = False) -> Path:
    """A CLIP ViT-B/32 as Hugging Face keeps it, tokenizer and all, which ``pipeline`` takes.

    small : another one, of two layers and pictures of 64 pixels, whose weights are spread so
    wide that it tells pictures and texts apart.
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    end = 49_407  # where the text tower reads its answer
    text: dict[str, Any] = {"eos_token_id": end, "bos_token_id": end - 1}
    vision: dict[str, Any] = {}
    more: dict[str, Any] = {}
    size = 224
    if small:
        size = 64
        tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2}
        tower |= {"num_attention_heads": 2, "projection_dim": 32, "initializer_factor": 3.0}
        text |= tower
        vision = {**tower, "image_size": size, "patch_size": 16}
        more = {"projection_dim": 32, "initializer_factor": 3.0}
    config = CLIPConfig(text_config=text, vision_config=vision, **more)
    CLIPModel(config).save_pretrained(folder)
    pixels = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    CLIPImageProcessor(**pixels).save_pretrained(folder)
    vocabulary, merges = _byte_pairs()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    tokenizer.model_max_length = config.text_config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    return folder


def write_as_open_clip(hugging_face: Path, folder: Path) -> Path:
    """The weights of a folder of ``write_hugging_face_folder`` as an open_clip folder."""
    import numpy as np
    import open_clip
    from safetensors.numpy import load_file, save_file

    config = json.loads((hugging_face / "config.json").read_text(encoding="utf-8"))
    text, vision = config["text_config"], config["vision_config"]
    given = load_file(hugging_face / "model.safetensors")
    weights = {"logit_scale": given["logit_scale"]}
    for theirs, ours, layers in (
        ("vision_model", "visual.", vision["num_hidden_layers"]),
        ("text_model", "", text["num_hidden_layers"]),
    ):
        for block in range(layers):
            old = f"{theirs}.encoder.layers.{block}"
            new = f"{ours}transformer.resblocks.{block}"
            for kind in ("weight", "bias"):
                parts = [given[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                weights[f"{new}.attn.in_proj_{kind}"] = np.concatenate(parts)
                for one, other in _BLOCK_NAMES:
                    weights[f"{new}.{other}.{kind}"] = given[f"{old}.{one}.{kind}"]
    for one, other in _NORM_NAMES:
        for kind in ("weight", "bias"):
            weights[f"{other}.{kind}"] = given[f"{one}.{kind}"]
    for one, other in _EMBEDDING_NAMES:
        weights[other] = given[one]
    weights["visual.proj"] = np.ascontiguousarray(given["visual_projection.weight"].T)
    weights["text_projection"] = np.ascontiguousarray(given["text_projection.weight"].T)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "open_clip_model.safetensors")
    document = {
        "model_cfg": {
            "embed_dim": config["projection_dim"],
            "quick_gelu": text["hidden_act"] == "quick_gelu",
            "vision_cfg": {
                "image_size": vision["image_size"],
                "layers": vision["num_hidden_layers"],
                "width": vision["hidden_size"],
                "head_width": vision["hidden_size"] // vision["num_attention_heads"],
                "patch_size": vision["patch_size"],
            },
            "text_cfg": {
                "context_length": text["max_position_embeddings"],
                "vocab_size": text["vocab_size"],
                "width": text["hidden_size"],
                "heads": text["num_attention_heads"],
                "layers": text["num_hidden_layers"],
            },
        },
        "preprocess_cfg": {
            "mean": list(open_clip.OPENAI_DATASET_MEAN),
            "std": list(open_clip.OPENAI_DATASET_STD),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(document, indent=1))
    return folder


def write_as_hugging_face(open_clip_folder: Path, folder: Path) -> Path:
    """The weights of an open_clip folder of a plain CLIP (GELU, ViT) as a Hugging Face folder,
    image processor and all, without tokenizer; an old one is left as it is. Needs no transformers.
    """
    if (folder / "config.json").is_file():
        return folder
    import numpy as np
    from safetensors.numpy import load_file, save_file

    document = json.loads((open_clip_folder / "open_clip_config.json").read_text(encoding="utf-8"))
    model, preprocess = document["model_cfg"], document["preprocess_cfg"]
    text, vision = model["text_cfg"], model["vision_cfg"]
    given = load_file(open_clip_folder / "open_clip_model.safetensors")
    weights = {"logit_scale": given["logit_scale"]}
    for ours, theirs, layers in (
        ("visual.", "vision_model", vision["layers"]),
        ("", "text_model", text["layers"]),
    ):
        for block in range(layers):
            old = f"{ours}transformer.resblocks.{block}"
            new = f"{theirs}.encoder.layers.{block}"
            for kind in ("weight", "bias"):
                parts = np.split(given[f"{old}.attn.in_proj_{kind}"], 3)
                for part, values in zip("qkv", parts, strict=True):
                    weights[f"{new}.self_attn.{part}_proj.{kind}"] = values
                for one, other in _BLOCK_NAMES:
                    weights[f"{new}.{one}.{kind}"] = given[f"{old}.{other}.{kind}"]
    for one, other in _NORM_NAMES:
        for kind in ("weight", "bias"):
            weights[f"{one}.{kind}"] = given[f"{other}.{kind}"]
    for one, other in _EMBEDDING_NAMES:
        weights[one] = given[other]
    weights["visual_projection.weight"] = given["visual.proj"].T
    weights["text_projection.weight"] = given["text_projection"].T
    weights = {name: values.copy(order="C") for name, values in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    side = vision["image_size"]
    head = vision.get("head_width", 64)
    shared = {"hidden_act": "gelu", "projection_dim": model["embed_dim"]}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model["embed_dim"],
        "text_config": {
            **shared,
            "model_type": "clip_text_model",
            "hidden_size": text["width"],
            "intermediate_size": 4 * text["width"],
            "num_attention_heads": text["heads"],
            "num_hidden_layers": text["layers"],
            "max_position_embeddings": text["context_length"],
            "vocab_size": text["vocab_size"],
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,
        },
        "vision_config": {
            **shared,
            "model_type": "clip_vision_model",
            "hidden_size": vision["width"],
            "intermediate_size": 4 * vision["width"],
            "num_attention_heads": vision["width"] // head,
            "num_hidden_layers": vision["layers"],
            "image_size": side,
            "patch_size": vision["patch_size"],
        },
    }
    pixels = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_convert_rgb": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": preprocess["mean"],
        "image_std": preprocess["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels, indent=1))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


_BLOCK_NAMES = (
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)
_NORM_NAMES = (
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("text_model.final_layer_norm", "ln_final"),
)
_EMBEDDING_NAMES = (
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
)


def _byte_pairs() -> tuple[dict[str, int], list[str]]:
    """Tokens with their numbers and the merges, in CLIP's order: the bytes, the bytes at the end
    of a word, what is merged, start and end."""
    from open_clip.tokenizer import bytes_to_unicode

    lines = gzip.decompress(bpe_file().read_bytes()).decode("utf-8").split("\n")
    merges = lines[1 : 49_152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    tokens += ["".join(merge.split()) for merge in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}, merges


def export_onnx(folder: Path, name: str, into: Path) -> tuple[Path, Path]:
    """``visual.onnx`` and ``textual.onnx`` of the model in ``folder``, as rclip wants them: one
    input called ``input`` and one output called ``output``, of any batch size."""
    visual, textual = into / "visual.onnx", into / "textual.onnx"
    if visual.is_file() and textual.is_file():
        return visual, textual
    import open_clip
    import torch

    into.mkdir(parents=True, exist_ok=True)
    net = open_clip.create_model(f"local-dir:{folder}").eval()
    size = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    length = open_clip.get_model_config(name)["text_cfg"].get("context_length", 77)

    class Visual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixels: Any) -> Any:
            return self.net.encode_image(pixels)

    class Textual(Visual):
        def forward(self, tokens: Any) -> Any:
            return self.net.encode_text(tokens)

    torch.backends.mha.set_fastpath_enabled(False)  # its fused layer has no ONNX form
    for module, example, path in (
        (Visual(), torch.zeros(2, 3, size, size), visual),
        (Textual(), torch.zeros(2, length, dtype=torch.long), textual),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of negative places in a text, which there are none
            torch.onnx.export(
                module,
                (example,),
                str(path),
                input_names=["input"],
                output_names=["output"],
                dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}},
                opset_version=17,
                dynamo=False,
            )
    return visual, textual
