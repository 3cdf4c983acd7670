"""A model as a folder that open_clip and ``--model`` take: config, weights, tokenizer, card."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsearch.model_names import CONFIG_FILE, HUB_WEIGHTS
from clipsearch.model_source import ModelSource
from clipsearch.store import sync_folder, write_durably
from indexer.tensor_file import save_tensors

if TYPE_CHECKING:
    from indexer.image_tower import ImageTower

CARD = "README.md"
_PREPROCESSING = ("size", "mean", "std", "interpolation", "resize_mode", "fill_color")


def write_model_folder(folder: Path, tower: ImageTower, source: ModelSource) -> None:
    """Write the model as it is now to the new folder ``folder``, all but its card.

    source : where its architecture comes from. What was trained is kept in single precision; of
    the rest, what fits into half precision without loss is kept so, as it came in most files.
    """
    folder.mkdir()
    usual = tower.net.visual.preprocess_cfg
    document = {
        "model_cfg": source.model_cfg,
        "preprocess_cfg": {key: usual[key] for key in _PREPROCESSING if key in usual},
    }
    write_durably(folder / CONFIG_FILE, json.dumps(document, indent=1).encode())
    trained = {f"visual.{name}" for name in tower.original}
    tensors = {
        name: _compact(tensor, name in trained) for name, tensor in tower.net.state_dict().items()
    }
    weights = folder / HUB_WEIGHTS[0]
    save_tensors(tensors, weights, {"format": "pt"})
    # safetensors makes a file for the owner alone.
    weights.chmod(stat.S_IMODE((folder / CONFIG_FILE).stat().st_mode))
    if source.model_cfg["text_cfg"].get("hf_tokenizer_name"):
        tower.tokenizer.save_pretrained(folder)  # a folder's tokenizer is read from the folder
    sync_folder(folder)


def _compact(tensor: Any, is_trained: bool) -> Any:
    own = tensor.detach().cpu().clone().contiguous()
    if is_trained or not own.is_floating_point():
        return own
    half = own.half()
    return half if bool((half.to(own.dtype) == own).all()) else own
