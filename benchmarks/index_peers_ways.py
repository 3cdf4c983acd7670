"""The ways of encoding a folder of photos that ``index_peers.py`` compares."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from processes import CLIPSEARCH, Run, run
from random_models import bpe_file, export_onnx, write_as_hugging_face, write_open_clip_folder

from clipsearch.encoder import Float32
from clipsearch.image_index import open_index

ARCHITECTURE = "ViT-B-32-256"
_PRETRAINED = "datacomp_s34b_b86k"
_LOOPS = Path(__file__).parent / "peer_loops"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TQDM_DISABLE": "1"}
_FAST_BACKENDS = ("onnx-int8", "torch-bf16")
_EXACT_BACKENDS = ("torch", "onnx")


@dataclass(frozen=True)
class Way:
    """One way to encode.

    encode : (folder of photos, empty folder for the result) -> the process it took. vectors : the
    result as unit vectors (n, dim) in the order of the photos' paths, where it can be read.
    reference : whether the vectors of the others are compared with these. lacking : why it cannot
    be run, None where it can.
    """

    name: str
    encode: Callable[[Path, Path], Run]
    vectors: Callable[[Path, Path], Float32] | None = None
    ours: bool = False
    reference: bool = False
    lacking: str | None = None


def installed_ways(
    work: Path, rclip: str | None, clip_retrieval: str | None, hugging_face: str | None
) -> list[Way]:
    """The plain loop first, whose vectors are the reference, then the peers."""
    model = write_open_clip_folder(work / ARCHITECTURE, ARCHITECTURE)
    return [
        *plain_loops(model),
        _rclip(work, model, rclip),
        _clip_retrieval(model, clip_retrieval),
        *_hugging_face(work, model, hugging_face),
    ]


def plain_loops(model: Path) -> list[Way]:
    """Pillow, open_clip's transform and torch, in this environment."""

    def encode(workers: int, folder: Path, out: Path) -> Run:
        script = _LOOPS / "open_clip_loop.py"
        command = [sys.executable, script, folder, model, out / "vectors.npy"]
        return run([*command, "--workers", str(workers)], env=_OFFLINE)

    return [
        Way("Pillow + open_clip loop", partial(encode, 0), _saved_array, reference=True),
        Way("the same, DataLoader of 2 processes", partial(encode, 2), _saved_array),
    ]


def _saved_array(folder: Path, out: Path) -> Float32:
    return np.load(out / "vectors.npy")


def _rclip(work: Path, model: Path, command: str | None) -> Way:
    name = "rclip"
    if command is None:
        return Way(name, _never, lacking="name its command with --rclip")
    data = work / "rclip"
    weights = data / f"{ARCHITECTURE}-{_PRETRAINED}"
    export_onnx(model, ARCHITECTURE, weights)
    vocabulary = data / "tokenizer" / bpe_file().name
    vocabulary.parent.mkdir(exist_ok=True)
    shutil.copyfile(bpe_file(), vocabulary)

    def encode(folder: Path, out: Path) -> Run:
        for kept in (weights, vocabulary.parent):
            (out / kept.name).symlink_to(kept)
        env = {**_OFFLINE, "RCLIP_DATADIR": str(out), "PYTHONPATH": ""}
        return run([command, "--filepath-only", "--top", "1", "a search"], cwd=folder, env=env)

    def vectors(folder: Path, out: Path) -> Float32:
        with sqlite3.connect(out / "db.sqlite3") as database:
            rows = database.execute("SELECT vector FROM images ORDER BY filepath").fetchall()
        return _unit(np.stack([np.frombuffer(row[0], np.float32) for row in rows]))

    return Way(name, encode, vectors)


def _clip_retrieval(model: Path, command: str | None) -> Way:
    name = "clip-retrieval inference"
    if command is None:
        return Way(name, _never, lacking="name its command with --clip-retrieval")
    weights = (model / "open_clip_model.safetensors").absolute()

    def encode(folder: Path, out: Path) -> Run:
        words = [f"--input_dataset={folder}", f"--output_folder={out / 'embeddings'}"]
        words += [f"--clip_model=open_clip:{ARCHITECTURE}/{weights}"]
        words += ["--enable_text=False", "--use_jit=False", "--batch_size=32"]
        words += ["--num_prepro_workers=2"]
        env = {**_OFFLINE, "PYTHONPATH": "", "CUDA_VISIBLE_DEVICES": ""}
        return run([command, "inference", *words], env=env)

    def vectors(folder: Path, out: Path) -> Float32:
        import pyarrow.parquet as pq

        embeddings = out / "embeddings"
        found = np.load(embeddings / "img_emb" / "img_emb_0.npy").astype(np.float32)
        paths = pq.read_table(embeddings / "metadata" / "metadata_0.parquet")["image_path"]
        return _unit(found[np.argsort(paths.to_numpy(zero_copy_only=False))])

    return Way(name, encode, vectors)


def _hugging_face(work: Path, model: Path, python: str | None) -> list[Way]:
    names = ("transformers CLIPModel loop", "transformers pipeline")
    if python is None:
        lacking = "name the python of its environment with --hugging-face"
        return [Way(name, _never, lacking=lacking) for name in names]
    weights = write_as_hugging_face(model, work / "hugging-face")

    def encode(more: list[str], folder: Path, out: Path) -> Run:
        script = _LOOPS / "hugging_face_loop.py"
        command = [python, script, folder, weights, out / "vectors.npy", *more]
        return run(command, env={**_OFFLINE, "PYTHONPATH": ""})

    options: tuple[list[str], list[str]] = ([], ["--pipeline"])
    return [
        Way(name, partial(encode, more), _saved_array)
        for name, more in zip(names, options, strict=True)
    ]


def our_ways(work: Path) -> list[Way]:
    """``clipsearch index`` with the model of the peers: exact ones, then fast ones."""
    model = write_open_clip_folder(work / ARCHITECTURE, ARCHITECTURE)
    return [
        *(_ours(work, model, backend, "exact") for backend in _EXACT_BACKENDS),
        *(_ours(work, model, backend, "fast") for backend in _FAST_BACKENDS),
    ]


def mini_ways(work: Path) -> list[Way]:
    """The plain loops and ``clipsearch index`` with the small model that it brings along."""
    from clipsearch.model_names import folder_of

    model = folder_of("mini")
    assert model is not None
    return [
        *plain_loops(model),
        *(_ours(work, Path("mini"), "torch", decode) for decode in ("exact", "fast")),
        _ours(work, Path("mini"), "auto", None),
    ]


def _ours(work: Path, model: Path, backend: str, decode: str | None) -> Way:
    """decode : None for clipsearch's own default."""
    options = ["--backend", backend, *(["--decode", decode] if decode else [])]
    caches = ("XDG_CACHE_HOME", "LOCALAPPDATA", "APPDATA", "XDG_CONFIG_HOME")
    env = dict.fromkeys(caches, str(work / "cache"))

    def encode(folder: Path, out: Path) -> Run:
        command = [*CLIPSEARCH, "index", folder, "--index", out / "index", "--model", model]
        return run([*command, *options], env=env)

    def vectors(folder: Path, out: Path) -> Float32:
        index = open_index(out / "index")
        ids, rows = index.vectors_of(np.arange(index.next_id))
        places = [str(index.paths().places(int(number))[0].path) for number in ids]
        return _unit(rows[np.argsort(places)])

    return Way(f"clipsearch {' '.join(options)}", encode, vectors, ours=True)


def _never(folder: Path, out: Path) -> Run:
    raise AssertionError("a way that lacks something is not run")


def _unit(rows: Float32) -> Float32:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
