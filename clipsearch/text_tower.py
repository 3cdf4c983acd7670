"""The text side of a CLIP model in NumPy: texts to unit vectors without torch.

A transformer of residual blocks, normalised first (`Radford et al. 2021
<https://arxiv.org/abs/2103.00020>`_). Attention looks back only, so nothing behind a text's end
counts, and a short text costs as many positions as it has tokens. For the same reason texts that
begin alike ("a photo of a ...") share what the blocks make of their beginning.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipsearch.clip_tokenizer import ClipTokenizer
from clipsearch.encoder import Float32, Space
from clipsearch.text_blocks import ACTIVATIONS, Past, block, layer_norm
from clipsearch.threads import in_order, single_threaded_blas

Tokens = Sequence[int]

_BATCH_TOKENS = 1024
"""Positions that go through the blocks together: enough for BLAS, and little memory."""
_WORTH_SHARING = 96
"""Texts that begin alike are put together where that saves as many positions: a batch of its own
reads all weights once more."""


@dataclass(frozen=True)
class TowerShape:
    """What the weights of a text side do not say.

    layers, heads : of the transformer. epsilon : of its normalisations. activation : a key of
    ``text_blocks.ACTIVATIONS``. pool : which position is the text's: "argmax" (the highest
    token), "eos" (the first token that is ``end``), "first" or "last". causal : whether
    attention looks back only.
    """

    layers: int
    heads: int
    epsilon: float
    activation: str
    pool: str
    end: int
    causal: bool

    def __post_init__(self) -> None:
        if self.pool not in ("argmax", "eos", "first", "last") or min(self.layers, self.heads) < 1:
            raise ValueError(f"no such text side: {self}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"expected one of {', '.join(ACTIVATIONS)}, got {self.activation!r}")


class TextTower:
    """Encodes texts of one space. Safe to call from threads.

    weights : float32 arrays by the names that open_clip gives them; "token_embedding.weight"
    may be float16. Raises KeyError or ValueError for weights that do not fit the shape.
    """

    def __init__(
        self,
        space: Space,
        shape: TowerShape,
        weights: dict[str, Any],
        tokenizer: ClipTokenizer,
        context_length: int,
    ) -> None:
        self.space = space
        self._shape = shape
        self._tokenizer = tokenizer
        self._context = context_length
        self._embedding = weights["token_embedding.weight"]
        self._positions = weights["positional_embedding"]
        self._final = (weights["ln_final.weight"], weights["ln_final.bias"])
        self._blocks = [
            {
                name.removeprefix(prefix): array
                for name, array in weights.items()
                if name.startswith(prefix)
            }
            for prefix in (f"transformer.resblocks.{i}." for i in range(shape.layers))
        ]
        self._project = _projection(weights)
        width = self._embedding.shape[1]
        if self._positions.shape != (context_length, width) or width % shape.heads:
            raise ValueError(f"expected {context_length} positions of {width} numbers")

    def encode_texts(self, texts: Sequence[str]) -> Float32:
        """n texts -> (n, dim) float32 unit rows; what is too long for the model is cut."""
        if isinstance(texts, str):
            raise ValueError("expected a sequence of texts, got one text")
        return self.encode_tokens([self.tokens(text) for text in texts])

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, as the model's own tokenizer gives them."""
        return self._tokenizer.tokens(text)

    def encode_tokens(self, texts: Sequence[Tokens]) -> Float32:
        """n lists of tokens -> (n, dim) float32 unit rows."""
        rows = np.empty((len(texts), self.space.dim), np.float32)
        kept = [self._needed(tokens) for tokens in texts]
        batches = self._batches(kept)
        ahead = list(itertools.islice(batches, 2))
        # One query is as fast on one thread: it is reading the weights that takes the time, and
        # the threads of BLAS wait for each other at each of a hundred products.
        with single_threaded_blas():
            workers = 1 if len(ahead) == 1 else None
            every = itertools.chain(ahead, batches)
            for places, part in in_order(self._encode_batch, every, workers):
                rows[places] = part
        return rows

    def _needed(self, tokens: Tokens) -> tuple[int, ...]:
        """The tokens that decide a text's vector, its own position being the last of them;
        all of them, padded, where attention looks both ways."""
        place = self._place(tokens)
        if self._shape.causal and place < len(tokens):
            return tuple(tokens[: place + 1])
        return (*tokens, *([0] * (self._context - len(tokens))))

    def _place(self, tokens: Tokens) -> int:
        pool = self._shape.pool
        if pool == "argmax":
            return max(range(len(tokens)), key=tokens.__getitem__)
        if pool == "eos":
            return tokens.index(self._shape.end) if self._shape.end in tokens else 0
        return 0 if pool == "first" else self._context - 1

    def _batches(self, kept: list[tuple[int, ...]]) -> Iterator[_Batch]:
        """Texts that begin alike and are about equally long, a batch at a time."""
        if not self._shape.causal:
            step = max(1, _BATCH_TOKENS // self._context)
            for start in range(0, len(kept), step):
                places = np.arange(start, min(start + step, len(kept)))
                yield _Batch(places, [kept[place] for place in places], None, 0)
            return
        order = sorted(range(len(kept)), key=kept.__getitem__)
        for shared, members in _beginnings([kept[i] for i in order], 0, len(order), 0):
            past = functools.cache(functools.partial(self._past, kept[order[members[0]]][:shared]))
            by_length = sorted((order[m] for m in members), key=lambda i: len(kept[i]))
            for batch in _in_batches([len(kept[i]) - shared for i in by_length]):
                places = np.array(by_length[batch])
                yield _Batch(places, [kept[i][shared:] for i in places], past, shared)

    def _past(self, beginning: Tokens) -> list[Past] | None:
        if not beginning:
            return None
        made: list[Past] = []
        self._run([beginning], None, 0, made)
        return made

    def _encode_batch(self, batch: _Batch) -> tuple[Any, Float32]:
        past = None if batch.past is None else batch.past()
        return batch.places, self._run(batch.tokens, past, batch.start, None)

    def _run(
        self, texts: list[Tokens], past: list[Past] | None, start: int, made: list[Past] | None
    ) -> Float32:
        """Texts, their beginning left out, through the blocks: (n, dim) unit rows.

        made : where to put what later positions look back at.
        """
        lengths = np.array([len(tokens) for tokens in texts])
        longest = int(lengths.max())
        tokens = np.zeros((len(texts), longest), np.int64)
        for row, some in zip(tokens, texts, strict=True):
            row[: len(some)] = some
        rows = np.asarray(self._embedding[tokens], np.float32)
        rows = rows + self._positions[start : start + longest]
        own = lengths - 1 if self._shape.causal else np.array([self._place(t) for t in texts])
        last = len(self._blocks) - 1
        for number, weights in enumerate(self._blocks):
            rows, keys = block(
                rows,
                weights,
                heads=self._shape.heads,
                epsilon=self._shape.epsilon,
                activation=ACTIVATIONS[self._shape.activation],
                causal=self._shape.causal,
                past=None if past is None else past[number],
                only=own if number == last else None,
            )
            if made is not None:
                made.append(keys)
        pooled = self._project(layer_norm(rows[:, 0], *self._final, self._shape.epsilon))
        norms = np.linalg.norm(pooled, axis=1, keepdims=True)
        unit: Float32 = (pooled / np.maximum(norms, 1e-12)).astype(np.float32, copy=False)
        return unit


@dataclass(frozen=True)
class _Batch:
    """Texts, their beginning left out, where their rows go, and how to get that beginning."""

    places: Any
    tokens: list[Tokens]
    past: Callable[[], list[Past] | None] | None
    start: int


def _beginnings(
    texts: list[tuple[int, ...]], first: int, stop: int, shared: int
) -> Iterator[tuple[int, list[int]]]:
    """Groups of the sorted texts first..stop that begin with the same ``shared`` or more tokens:
    how many they share, and which they are. No text is all beginning."""
    if first == stop:
        return
    # Between the first and the last of a sorted run lie only texts that begin as both do.
    shared = _alike(texts[first], texts[stop - 1], shared)
    shared = min(shared, min(len(text) for text in texts[first:stop]) - 1)
    rest: list[int] = []
    start = first
    for _, run in itertools.groupby(range(first, stop), key=lambda i: texts[i][shared]):
        end = start + len(list(run))
        alike = _alike(texts[start], texts[end - 1], shared)
        alike = min(alike, min(len(text) for text in texts[start:end]) - 1)
        if (end - start) * (alike - shared) > alike + _WORTH_SHARING:
            yield from _beginnings(texts, start, end, shared)
        else:
            rest.extend(range(start, end))
        start = end
    if rest:
        yield (shared if (len(rest) - 1) * shared > _WORTH_SHARING else 0), rest


def _alike(one: tuple[int, ...], other: tuple[int, ...], known: int) -> int:
    stop = min(len(one), len(other))
    while known < stop and one[known] == other[known]:
        known += 1
    return known


def _in_batches(lengths: list[int]) -> Iterator[slice]:
    """Slices of texts of rising length, whose positions, padded, are at most a batch."""
    start = 0
    for place, length in enumerate(lengths):
        if place > start and (place + 1 - start) * length > _BATCH_TOKENS:
            yield slice(start, place)
            start = place
    if start < len(lengths):
        yield slice(start, len(lengths))


def _projection(weights: dict[str, Any]) -> Callable[[Float32], Float32]:
    if "text_projection" in weights:
        matrix = weights["text_projection"]
        return lambda rows: rows @ matrix
    if "text_projection.weight" not in weights:
        return lambda rows: rows
    matrix = weights["text_projection.weight"].T
    bias = weights.get("text_projection.bias", np.float32(0))
    return lambda rows: rows @ matrix + bias
