"""The text side of a loaded open_clip model, taken apart: what ``TextTower`` needs of it.

Only the standard one is known: a ``TextTransformer`` of plain residual blocks over the tokens of
a ``SimpleTokenizer``. Of any other nothing is taken, and torch goes on encoding its texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.clip_tokenizer import END, START, TokenTable
from clipsearch.encoder import Float32
from clipsearch.text_tower import TowerShape

_OF_A_BLOCK = (
    *("ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"),
    *("attn.in_proj_weight", "attn.in_proj_bias", "attn.out_proj.weight", "attn.out_proj.bias"),
    *("mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
)
_SCALES = ("ls_1.gamma", "ls_2.gamma")
_TEXT = re.compile(
    r"(token_embedding\.weight|positional_embedding|transformer\.resblocks\..+"
    r"|ln_final\.(weight|bias)|text_projection(\.weight|\.bias)?)"
)


@dataclass(frozen=True)
class TextSide:
    """weights : float32, by open_clip's names. tokenize : n texts -> (n, context) int64 tokens,
    as the model's own tokenizer gives them."""

    shape: TowerShape
    weights: dict[str, Float32]
    table: TokenTable
    tokenize: Callable[[Sequence[str]], npt.NDArray[np.int64]]


def text_side(net: Any, tokenizer: Any) -> TextSide | None:
    """The text side of an open_clip model; None for one that is not the standard one."""
    try:
        shape, weights = _shape(net), _weights(net)
        wanted = {
            "token_embedding.weight",
            "positional_embedding",
            "ln_final.weight",
            "ln_final.bias",
        }
        blocks = [f"transformer.resblocks.{i}." for i in range(shape.layers)]
        wanted |= {block + name for block in blocks for name in _OF_A_BLOCK}
        scales = {block + name for block in blocks for name in _SCALES}
        more = set(weights) - wanted
        projection = {name for name in more if name.startswith("text_projection")}
        if wanted - set(weights) or more - projection not in (set(), scales):
            return None
        if any(array.dtype != np.float32 for array in weights.values()):
            return None
        table = _table(tokenizer)
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return None

    def tokenize(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        tokens: npt.NDArray[np.int64] = tokenizer(list(texts)).numpy()
        return tokens

    return TextSide(shape, weights, table, tokenize)


def _shape(net: Any) -> TowerShape:
    """Raises ValueError for what is not the standard text side, AttributeError for what is none."""
    part: Any = getattr(net, "text", net)
    custom = part is not net
    if custom and (
        type(part).__name__ != "TextTransformer" or part.cls_emb is not None or part.use_pad_mask
    ):
        raise ValueError("no standard text side")
    blocks = list(part.transformer.resblocks)
    norms = [part.ln_final, *(norm for block in blocks for norm in (block.ln_1, block.ln_2))]
    if (
        {type(block).__name__ for block in blocks} != {"ResidualAttentionBlock"}
        or any(hasattr(block, "ln_1_kv") or block.attn.bias_k is not None for block in blocks)
        or {type(norm).__name__ for norm in norms} - {"LayerNorm", "LayerNormFp32"}
        or len({norm.eps for norm in norms}) != 1
        or len({block.attn.num_heads for block in blocks}) != 1
        or len({_activation(block.mlp.gelu) for block in blocks}) != 1
    ):
        raise ValueError("no standard text side")
    return TowerShape(
        layers=len(blocks),
        heads=int(blocks[0].attn.num_heads),
        epsilon=float(norms[0].eps),
        activation=_activation(blocks[0].mlp.gelu),
        pool=str(part.pool_type if custom else part.text_pool_type),
        end=int(part.eos_id if custom else part.text_eos_id),
        causal=part.attn_mask is not None,
    )


def _activation(layer: Any) -> str:
    kind = type(layer).__name__
    if kind == "GELU":
        return {"none": "gelu", "tanh": "gelu_tanh"}[layer.approximate]
    return {"QuickGELU": "quick_gelu"}[kind]


def _weights(net: Any) -> dict[str, Float32]:
    prefix = "text." if hasattr(net, "text") else ""
    found = {}
    for name, tensor in net.state_dict().items():
        short = name.removeprefix(prefix)
        if name.startswith(prefix) and _TEXT.fullmatch(short):
            found[short] = tensor.detach().cpu().numpy()
    return found


def _table(tokenizer: Any) -> TokenTable:
    encoder = tokenizer.encoder
    if (
        type(tokenizer).__name__ != "SimpleTokenizer"
        or tokenizer.clean_fn.__name__ != "_clean_lower"
        or tokenizer.reduction_fn is not None
        or tokenizer.all_special_ids != [encoder[START], encoder[END]]
    ):
        raise ValueError("no standard tokenizer")
    merges = [(encoder[a], encoder[b], encoder[a + b]) for a, b in tokenizer.bpe_ranks]
    letters = [
        [encoder[tokenizer.byte_encoder[byte] + end] for byte in range(256)] for end in ("", "</w>")
    ]
    return TokenTable(
        np.array(merges, np.uint16),
        np.array(letters, np.uint16),
        int(encoder[START]),
        int(encoder[END]),
        int(tokenizer.context_length),
    )
