"""One block of a text transformer in NumPy, float32 throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32

Past = tuple[Float32, Float32]
"""Keys and values (n, heads, length, width of a head) of the positions before, n = 1 for all."""

_CACHED = 1 << 15  # numbers that stay in a core's own cache while they are worked on


def layer_norm(rows: Float32, weight: Float32, bias: Float32, epsilon: float) -> Float32:
    """Rows (..., width) brought to mean 0 and variance 1, then scaled and shifted."""
    centred: Float32 = rows - rows.mean(axis=-1, keepdims=True)
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] / rows.shape[-1]
    centred /= np.sqrt(variance + np.float32(epsilon))
    centred *= weight
    centred += bias
    return centred


def block(
    rows: Float32,
    weights: Mapping[str, Any],
    *,
    heads: int,
    epsilon: float,
    activation: Callable[[Float32], None],
    causal: bool,
    past: Past | None = None,
    only: npt.NDArray[np.int64] | None = None,
) -> tuple[Float32, Past]:
    """Attention and a two-layer network, each added to what it was given.

    rows : (n, length, width). weights : by their names in open_clip's ``ResidualAttentionBlock``.
    past : keys and values of earlier positions, to be looked back at. only : (n,) the one
    position of each text that is wanted; the others serve as keys and values alone.

    Returns (n, length, width), or (n, 1, width) with ``only``, and the keys and values.
    """
    count, length, width = rows.shape
    normed = layer_norm(rows, weights["ln_1.weight"], weights["ln_1.bias"], epsilon)
    mixed = _linear(normed, weights["attn.in_proj_weight"], weights["attn.in_proj_bias"])
    split = mixed.reshape(count, length, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    queries, keys, values = split[0], split[1], split[2]
    mask = np.triu(np.full((length, length), -np.inf, np.float32), 1) if causal else None
    if only is not None:
        texts = np.arange(count)
        rows = rows[texts, only][:, None]
        queries = queries[texts, :, only][:, :, None]
        mask = None if mask is None else mask[only][:, None, None]
    seen = _attend(queries, keys, values, mask, past)
    seen = seen.transpose(0, 2, 1, 3).reshape(count, -1, width)
    seen = _linear(seen, weights["attn.out_proj.weight"], weights["attn.out_proj.bias"])
    rows = rows + seen * weights.get("ls_1.gamma", np.float32(1))
    normed = layer_norm(rows, weights["ln_2.weight"], weights["ln_2.bias"], epsilon)
    hidden = _linear(normed, weights["mlp.c_fc.weight"], weights["mlp.c_fc.bias"])
    flat = hidden.reshape(-1)
    for start in range(0, len(flat), _CACHED):
        activation(flat[start : start + _CACHED])
    out = _linear(hidden, weights["mlp.c_proj.weight"], weights["mlp.c_proj.bias"])
    return rows + out * weights.get("ls_2.gamma", np.float32(1)), (keys, values)


def _linear(rows: Float32, weight: Float32, bias: Float32) -> Float32:
    flat = rows.reshape(-1, rows.shape[-1]) @ weight.T
    flat += bias
    return flat.reshape(*rows.shape[:-1], len(weight))


def _attend(
    queries: Float32, keys: Float32, values: Float32, mask: Any, past: Past | None
) -> Float32:
    """Scaled dot-product attention: (n, heads, length, width of a head)."""
    queries = queries * np.float32(queries.shape[-1] ** -0.5)
    scores: Any = queries @ keys.swapaxes(-1, -2)
    if mask is not None:
        scores += mask
    before = 0
    if past is not None:
        before = past[0].shape[2]
        earlier = queries @ past[0].swapaxes(-1, -2)
        scores = np.concatenate([earlier, scores], axis=-1)
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    seen: Float32 = scores[..., before:] @ values
    if past is not None:
        seen += scores[..., :before] @ past[1]
    return seen


def _gelu(x: Float32) -> None:
    """x times the normal distribution function of x, in place.

    max(x, 0) - |x| erfc(|x| / sqrt 2) / 2, with formula 7.1.26 of Abramowitz and Stegun, whose
    error in erf is at most 1.5e-7: what float32 can tell.
    """
    size = np.abs(x)
    t = size * np.float32(0.3275911 * 0.5**0.5)
    t += np.float32(1)
    np.reciprocal(t, out=t)
    tail = t * np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        tail += np.float32(coefficient)
        tail *= t
    tail *= size
    size *= size
    size *= np.float32(-0.5)
    tail *= np.exp(size, out=size)
    tail *= np.float32(0.5)
    np.maximum(x, np.float32(0), out=x)
    x -= tail


def _gelu_tanh(x: Float32) -> None:
    inner = x * x * np.float32(0.044715)
    inner += np.float32(1)
    inner *= x
    inner *= np.float32((2 / np.pi) ** 0.5)
    np.tanh(inner, out=inner)
    inner += np.float32(1)
    x *= inner
    x *= np.float32(0.5)


def _quick_gelu(x: Float32) -> None:
    down = x * np.float32(-1.702)
    np.minimum(down, np.float32(80), out=down)  # so that exp stays finite
    np.exp(down, out=down)
    down += np.float32(1)
    x /= down


ACTIVATIONS: dict[str, Callable[[Float32], None]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
}
"""What stands between the two layers of a block's network; each changes a flat array in place."""
