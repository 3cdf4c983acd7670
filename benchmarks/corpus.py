"""A real index of any size without a single image, for the benchmarks to be run on.

    python benchmarks/corpus.py FOLDER [--images 1000000] [--dim 512] [--labels 1000]
        [--queries 2000] [--concepts 2000] [--seed 0] [--vector-index]

Writes an index into FOLDER through the project's own writers, so that every command opens it:
clustered unit vectors (``corpus_vectors.py`` says how they lie), dates, cameras, places and
paths below a folder that is not there. Keywords name the concepts that an image shows. Beside
the index lie ``FOLDER.labels.txt`` ("concept 0000", ...) and ``FOLDER.queries.txt`` ("query
0000", ...: other words, each for one concept).

The vectors of these texts go into the user's text cache (``XDG_CACHE_HOME``): every concept by
itself and in the seven simple templates, the queries, and the words that a cut-off compares
with. So no model is needed:

    clipsearch search "query 0001" --index FOLDER
    clipsearch classify --labels-file FOLDER.labels.txt --index FOLDER

Prints how near texts and images lie to each other. Memory does not grow with the index, but for
its table of paths (about 150 bytes an image), which is sorted whole as in indexing.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
from corpus_tables import CorpusTables, concept_names, digest, ids_of
from corpus_vectors import VectorModel

from clipsearch import __version__
from clipsearch.background_words import background_prompts
from clipsearch.encoder import ImageGeometry, Space
from clipsearch.generation import cache_folder
from clipsearch.manifest import Manifest, Root, ShardRef, new_manifest, write_manifest
from clipsearch.paths import merged_name
from clipsearch.place_cache import PlaceCache
from clipsearch.place_rows import read_place_rows
from clipsearch.prompt_templates import SIMPLE_TEMPLATES
from clipsearch.shards import embedding_table, write_shard, write_table
from clipsearch.store import LocalStore
from clipsearch.text_vectors import TextVectorCache, default_cache_path
from clipsearch.vectors import VectorCache
from indexer.commit import Committer
from indexer.config import IndexConfig

SHARD_ROWS = 16_384
MODEL = "synthetic/corpus"
PROMPTS = ("{}", *SIMPLE_TEMPLATES)
_VERSION = 1  # of how vectors are drawn: another one is another space


@dataclass(frozen=True)
class Corpus:
    """A corpus on the disk: its index, the files beside it, and the text cache of its space.

    model : draws its vectors again; ``labels`` and ``queries`` say how many of each.
    """

    index: Path
    labels_file: Path
    queries_file: Path
    text_cache: Path
    space: Space
    images: int
    labels: int
    queries: int
    model: VectorModel


def corpus_space(dim: int, concepts: int, seed: int) -> Space:
    """The made-up space. It does not depend on how many images there are: one text cache serves
    corpora of all sizes."""
    fingerprint = digest("clipsearch corpus", _VERSION, dim, concepts, seed)
    return Space(
        id=f"synthetic-corpus-{fingerprint[:12]}",
        fingerprint=fingerprint,
        model=MODEL,
        dim=dim,
        logit_scale=100.0,
        logit_bias=None,
        geometry=ImageGeometry(224, 224),
    )


def make_corpus(
    folder: Path,
    images: int = 1_000_000,
    dim: int = 512,
    labels: int = 1000,
    queries: int = 2000,
    concepts: int = 2000,
    seed: int = 0,
    *,
    vector_index: bool = False,
    text_cache: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Corpus:
    """Make the index at ``folder``, which must not be there yet or be empty.

    labels : how many of the concepts are in the file of labels, the most frequent first.
    queries : texts held out, each for a concept drawn at random. vector_index : let the FAISS
    file be made, as indexing does. text_cache : the SQLite file for the text vectors; None is
    the user's own. on_progress : hears (images done, images in all).

    Raises FileExistsError where something is, and ValueError for numbers that make no sense.
    """
    folder = folder.absolute()
    if labels > concepts:
        raise ValueError(f"expected at most as many labels as concepts, got {labels} > {concepts}")
    if min(images, labels, queries) < 0:
        raise ValueError("expected numbers of 0 or more")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    model = VectorModel(dim, concepts, seed)
    space = corpus_space(dim, concepts, seed)
    corpus = Corpus(
        index=folder,
        labels_file=folder.with_name(folder.name + ".labels.txt"),
        queries_file=folder.with_name(folder.name + ".queries.txt"),
        text_cache=text_cache or default_cache_path(space.fingerprint),
        space=space,
        images=images,
        labels=labels,
        queries=queries,
        model=model,
    )
    _write_index(corpus, seed, vector_index, on_progress)
    write_texts(corpus)
    return corpus


def query_names(count: int) -> list[str]:
    """The held-out texts, in the order of ``VectorModel.query_texts``."""
    return [f"query {number:04d}" for number in range(count)]


def write_texts(corpus: Corpus) -> None:
    """Write the files beside the index, and the vectors of all texts into the text cache."""
    names = concept_names(corpus.model.concepts)
    queries = query_names(corpus.queries)
    for file, lines in (
        (corpus.labels_file, names[: corpus.labels]),
        (corpus.queries_file, queries),
    ):
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    cache = TextVectorCache(corpus.text_cache)
    prompts = [template.format(name) for name in names for template in PROMPTS]
    cache.put_many(prompts, corpus.model.concept_texts(len(PROMPTS)))
    cache.put_many(queries, corpus.model.query_texts(len(queries)))
    words = background_prompts()
    cache.put_many(words, corpus.model.other_texts(len(words)))
    cache.close()


def _write_index(
    corpus: Corpus, seed: int, vector_index: bool, tell: Callable[[int, int], None]
) -> None:
    store = LocalStore(corpus.index)
    photos = corpus.index.with_name(corpus.index.name + ".photos")  # nothing is there
    manifest = replace(
        new_manifest(f"clipsearch {__version__}"),
        generation=1,
        roots=(Root(0, str(photos), None),),
        next_root=1,
        sources=(str(photos),),
        spaces={corpus.space.id: corpus.space},
        default_space=corpus.space.id,
        config=IndexConfig().to_dict(),
    )
    tables = CorpusTables(corpus.images, concept_names(corpus.model.concepts), seed)
    image_refs: list[ShardRef] = []
    embedding_refs: list[ShardRef] = []
    paths: list[pa.Table] = []
    for number, first in enumerate(range(0, corpus.images, SHARD_ROWS)):
        count = min(SHARD_ROWS, corpus.images - first)
        block = corpus.model.images(number, count)
        about, places = tables.block(number, first, block.concepts)
        name = f"{number:05d}.parquet"
        image_refs.append(
            write_shard(store, f"images/{name}", about, kind="images", index_uuid=manifest.uuid)
        )
        embedding_refs.append(
            write_shard(
                store,
                f"embeddings/{corpus.space.id}/{name}",
                embedding_table(ids_of(first, count), block.vectors),
                kind="embeddings",
                index_uuid=manifest.uuid,
                recipe=_recipe(),
            )
        )
        paths.append(places)
        tell(first + count, corpus.images)
    if paths:
        table = pa.concat_tables(paths).sort_by([("root", "ascending"), ("path", "ascending")])
        path_ref = write_table(store, merged_name(1), table, kind="paths", index_uuid=manifest.uuid)
        manifest = replace(
            manifest,
            paths=(path_ref,),
            images=tuple(image_refs),
            embeddings={corpus.space.id: tuple(embedding_refs)},
            next_id=embedding_refs[-1].last_id + 1,
            next_shard=len(embedding_refs),
        )
    write_manifest(store, manifest)
    _write_cache(corpus, manifest, vector_index)


def _write_cache(corpus: Corpus, manifest: Manifest, vector_index: bool) -> None:
    if vector_index:
        Committer(corpus.index, manifest).bring_up_cache()
        return
    store, cache = LocalStore(corpus.index), cache_folder(corpus.index)
    VectorCache(cache, manifest, corpus.space.id).update(store)
    if manifest.paths:
        PlaceCache(cache, manifest).write(read_place_rows(store, manifest.paths))


def _recipe() -> dict[str, object]:
    """As of an import: shards with the key "imported" are never merged nor made again."""
    return {
        "imported": "synthetic",
        "software": f"benchmarks/corpus.py {_VERSION}",
        "device": "cpu",
        "precision": "float32",
        "versions": {"clipsearch": __version__, "numpy": version("numpy")},
    }


@dataclass(frozen=True)
class Cosines:
    """Mean cosines of a corpus, measured. same, other : of two images that share their only
    concept, and of any two. matching, unrelated : of a query text and images that show only its
    concept, and any images. texts : of any two query texts."""

    same: float
    other: float
    matching: float
    unrelated: float
    texts: float


def measure(corpus: Corpus, sample: int = 4096) -> Cosines:
    """Draw the first images once more and see how they lie to each other and to the queries."""
    block = corpus.model.images(0, min(SHARD_ROWS, corpus.images))
    pure = np.flatnonzero(block.concepts[:, 1] < 0)[:sample]
    rows, concepts = block.vectors[pure], block.concepts[pure, 0]
    cosines = rows @ rows.T
    different = ~np.eye(len(rows), dtype=bool)
    same = concepts[:, None] == concepts
    asked = corpus.model.query_concepts(corpus.queries)[:sample]
    queries = corpus.model.query_texts(corpus.queries)[:sample]
    across = queries @ rows.T
    matches = asked[:, None] == concepts
    between = queries @ queries.T
    return Cosines(
        same=float(cosines[same & different].mean()),
        other=float(cosines[~same].mean()),
        matching=float(across[matches].mean()),
        unrelated=float(across[~matches].mean()),
        texts=float(between[~np.eye(len(queries), dtype=bool)].mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    for name, default in (
        ("images", 1_000_000),
        ("dim", 512),
        ("labels", 1000),
        ("queries", 2000),
        ("concepts", 2000),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default:,}")
    parser.add_argument("--vector-index", action="store_true", help="make the FAISS file as well")
    arguments = vars(parser.parse_args())
    begin = time.perf_counter()
    try:
        corpus = make_corpus(**arguments, on_progress=_tell)
    except (FileExistsError, ValueError) as error:
        parser.error(str(error))
    print(file=sys.stderr)
    print(f"{corpus.images:,} x {corpus.space.dim} in {time.perf_counter() - begin:.0f} s")
    if corpus.images and corpus.queries:
        cosines = measure(corpus)
        print(f"text and matching image  {cosines.matching:.3f}")
        print(f"text and other image     {cosines.unrelated:.3f}")
        print(f"two texts                {cosines.texts:.3f}")
        print(f"two images, one concept  {cosines.same:.3f}")
        print(f"two images               {cosines.other:.3f}")


def _tell(done: int, total: int) -> None:
    print(f"\r{done:,} of {total:,} images", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
