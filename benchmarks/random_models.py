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


def write_hugging_face_folder(folder: Path, seed: int = 0) -> Path:
    """A CLIP ViT-B/32 as Hugging Face keeps it, tokenizer and all, which ``pipeline`` takes."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    end = 49_407  # where the text tower reads its answer
    config = CLIPConfig(text_config={"eos_token_id": end, "bos_token_id": end - 1})
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    vocabulary, merges = _byte_pairs()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    tokenizer = CLIPTokenizerFast.from_pretrained(folder)
    tokenizer.model_max_length = config.text_config.max_position_embeddings
    tokenizer.save_pretrained(folder)
    return folder


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
