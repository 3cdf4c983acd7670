"""Texts a second without torch: a text tower in NumPy beside the same weights in torch.

    python benchmarks/text_rate.py [--model ViT-B-32-256] [--nouns 20000] [--seconds 5]

Weights are random, which changes no speed, so nothing has to be fetched; they, the tower and the
text cache live in a temporary folder. Rates are of prompts of exactly so many tokens (the start
and the end among them), the two taking turns, best of the turns. Then the time and the memory of
one new word in a process that has read nothing yet, and of a vocabulary that is encoded, kept,
and read again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import open_clip
from safetensors.torch import save_file

from clipsearch.background_words import background_words
from clipsearch.encoder import Encoder, load_encoder
from clipsearch.text_tower import TextTower
from clipsearch.text_tower_export import export_text_tower
from clipsearch.text_tower_files import open_text_tower, saved_towers
from clipsearch.text_vectors import TextVectorCache, TextVectors
from clipsearch.vocabulary import keep_vocabulary

_ONE_WORD = """
import sys, time
begin = time.perf_counter()
from pathlib import Path
from clipsearch.encoder import ImageGeometry, Space
from clipsearch.text_tower_files import open_text_tower
space = Space("x", sys.argv[2], "x", int(sys.argv[3]), 1.0, None, ImageGeometry(8, 8))
tower = open_text_tower(space, Path(sys.argv[1]))
opened = time.perf_counter()
tower.encode_texts(["two dogs on a beach"])
done = time.perf_counter()
status = Path("/proc/self/status")  # where there is none the peak is not told
lines = status.read_text().splitlines() if status.exists() else []
peak = sum(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
print(f"one new text in a fresh process: {1e3 * (opened - begin):.0f} ms to import and open, "
      f"{1e3 * (done - opened):.0f} ms to encode, {peak:.0f} MB at most, most of it mapped weights")
"""


def random_model(architecture: str, folder: Path) -> str:
    """A model folder with random weights."""
    config = open_clip.get_model_config(architecture)
    net = open_clip.create_model(architecture, load_weights=False, pretrained_text=False)
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    folder.mkdir()
    save_file(state, folder / "open_clip_model.safetensors")
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    document = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return str(folder)


def prompts(tower: TextTower, tokens: int, count: int) -> list[str]:
    """Random words that make prompts of so many tokens, no two of them beginning alike."""
    rng = random.Random(tokens)
    words = [word for word in background_words() if len(tower.tokens(word)) == 3]
    return [" ".join(rng.choices(words, k=tokens - 2)) for _ in range(count)]


def rate(encode: Callable[[Sequence[str]], object], texts: Sequence[str]) -> float:
    """Texts a second, once."""
    begin = time.perf_counter()
    encode(texts)
    return len(texts) / (time.perf_counter() - begin)


def compare(tower: TextTower, encoder: Encoder, tokens: int, seconds: float) -> None:
    """Print both rates; torch, being slow, gets fewer texts a turn."""
    texts = prompts(tower, tokens, 256)
    best, best_torch, turns = 0.0, 0.0, 0
    until = time.perf_counter() + seconds
    while turns < 2 or time.perf_counter() < until:
        best = max(best, rate(tower.encode_texts, texts))
        best_torch = max(best_torch, rate(encoder.encode_texts, texts[:32]))
        turns += 1
    print(
        f"{tokens:2} tokens: {best:7.1f} texts/s, torch {best_torch:6.1f}: {best / best_torch:.1f}"
        " times as many"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="ViT-B-32-256", help="an open_clip architecture")
    parser.add_argument("--nouns", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="for each number of tokens")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        encoder = load_encoder(random_model(arguments.model, folder / "model"), device="cpu")
        begin = time.perf_counter()
        assert export_text_tower(encoder, folder)
        tower = open_text_tower(encoder.space, folder)
        assert tower is not None
        print(
            f"made and measured in {time.perf_counter() - begin:.1f} s, "
            f"{saved_towers(folder)[0].bytes / 1e3:.0f} kB"
        )
        for tokens in (7, 20):
            compare(tower, encoder, tokens, arguments.seconds)
        sys.stdout.flush()
        space = encoder.space
        command = [sys.executable, "-c", _ONE_WORD, str(folder), space.fingerprint, str(space.dim)]
        subprocess.run(command, check=True)
        rng = random.Random(0)
        words = background_words()
        nouns: dict[str, None] = dict.fromkeys(words[: arguments.nouns])
        while len(nouns) < arguments.nouns:
            nouns[" ".join(rng.choices(words, k=2))] = None
        place = folder / "text.sqlite"
        begin = time.perf_counter()
        kept = keep_vocabulary(
            list(nouns), TextVectors(space, lambda: tower, TextVectorCache(place))
        )
        print(f"{kept.encoded:,} prompts encoded and kept in {time.perf_counter() - begin:.1f} s,")
        texts = TextVectors(space, lambda: tower, TextVectorCache(place))
        begin = time.perf_counter()
        texts.encode([f"a photo of a {noun}" for noun in nouns])
        seconds = time.perf_counter() - begin
        assert texts.last.encoded == 0
        print(f"read again in {seconds:.2f} s; {place.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
