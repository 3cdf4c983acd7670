"""A place on a map for every image: images that look alike lie side by side.

t-SNE (van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008) by openTSNE, on the
principal components of the vectors. It lays out all images of a small collection and a sample
of a large one, the *anchors*; every other image is placed among those, block by block (Poličar
et al., "Embedding to reference t-SNE space", Machine Learning 2021). So are images that come
later: a place that was given stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from clipsearch.encoder import Float32
from clipsearch.errors import MissingExtraError
from clipsearch.generation import Generation
from clipsearch.half import widen
from clipsearch.map_neighbours import NearestPoints, neighbours_of_each
from clipsearch.shards import Float16, Int64
from clipsearch.threads import in_order, single_threaded_blas, worker_count

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Progress = Callable[[int], None]

MOST_ANCHORS = 20_000
"""So many images are laid out together; of more, an even sample."""
FEWEST_ANCHORS = 5
"""Of fewer, any layout is as good."""
MOST_GROWTH = 2
"""When there are so many times the images that there were, a new map is laid out."""

_COMPONENTS = 50
_PERPLEXITY = 30.0
_THREADS_FROM = 1000  # points, from which threads are worth waiting for each other
_EARLY, _LATE = 250, 500  # iterations
_TOLD_EVERY = 25
_FIRST_SPREAD, _NO_SPREAD = 1e-4, 1e-6
_LEAST_SPREAD, _LINEAR_SPREAD = 1e-2, 5.0  # of a layout, and of one that is the first places
_JITTER = 1e-2  # of the first places' spread, so that equal images come apart
_PLACING_NEIGHBOURS, _PLACING_PERPLEXITY = 15, 5.0
_PLACING_ITERATIONS = 100
_PLACING_ROWS = 8192


@dataclass(frozen=True)
class Coordinates:
    """Where the images of a collection are on its map.

    ids : (n,) int64, rising. xy : (n, 2) float32; only distances have a meaning, and y rises.
    anchors : (n,) bool: whether an image was laid out together with others, or placed later
        among those.
    laid_out : how many images the collection had when its map was laid out. seed : of the
    sample and of the layout. space : fingerprint of the space of the vectors.
    """

    ids: Int64
    xy: Float32
    anchors: Bools
    laid_out: int
    seed: int
    space: str

    def of(self, ids: Int64) -> tuple[Int64, Float32]:
        """Those (m,) of the rising ``ids`` that have a place, and their (m, 2) places."""
        rows = np.searchsorted(self.ids, ids)
        rows[rows == len(self.ids)] = 0
        here = self.ids[rows] == ids if len(self.ids) else np.zeros(len(ids), bool)
        return ids[here], self.xy[rows[here]]


def map_coordinates(
    state: Generation,
    *,
    seed: int = 0,
    only: Int64 | None = None,
    previous: Coordinates | None = None,
    on_progress: Progress | None = None,
) -> Coordinates:
    """A place for every image, or for those of the (a,) rising ids ``only``.

    The same vectors and seed give the same map, whatever the number of threads.

    previous : an earlier map. Its images keep their places, and new ones are placed among them;
        a new map is laid out where it is of another space or seed, or the collection is more
        than MOST_GROWTH times what it was.
    on_progress : called with how many images have a place.

    Raises MissingExtraError where openTSNE is not installed.
    """
    vectors = state.vectors
    ids = np.setdiff1d(vectors.ids, vectors.deleted, assume_unique=True)
    if only is not None:
        ids = np.intersect1d(ids, only, assume_unique=True)
    tell = on_progress if on_progress is not None else lambda done: None
    space = state.space.fingerprint
    if previous is not None and _can_grow(previous, ids, seed, space):
        kept = np.isin(previous.ids, ids, assume_unique=True)
        old_ids, old_xy = previous.ids[kept], previous.xy[kept]
        old_anchors, laid_out = previous.anchors[kept], previous.laid_out
        if len(old_ids) == len(ids):
            return Coordinates(old_ids, old_xy, old_anchors, laid_out, seed, space)
        anchor_ids, anchor_xy = old_ids[old_anchors], old_xy[old_anchors]
        points, components = _anchor_points(state, anchor_ids)
    else:
        sample = np.sort(
            np.random.default_rng(seed).choice(len(ids), min(len(ids), MOST_ANCHORS), False)
        )
        anchor_ids, laid_out = ids[sample], len(ids)
        points, components = _anchor_points(state, anchor_ids)
        anchor_xy = _lay_out(points, seed, tell)
        old_ids, old_xy, old_anchors = anchor_ids, anchor_xy, np.ones(len(anchor_ids), bool)
    tell(len(old_ids))
    new_ids = np.setdiff1d(ids, old_ids, assume_unique=True)
    parts = [old_xy]
    done = len(old_ids)
    for placed in _place(state, new_ids, anchor_xy, points, components):
        parts.append(placed)
        done += len(placed)
        tell(done)
    all_ids = np.concatenate([old_ids, new_ids])
    order = np.argsort(all_ids, kind="stable")
    is_anchor = np.concatenate([old_anchors, np.zeros(len(new_ids), bool)])
    xy = np.concatenate(parts)
    return Coordinates(all_ids[order], xy[order], is_anchor[order], laid_out, seed, space)


def _can_grow(previous: Coordinates, ids: Int64, seed: int, space: str) -> bool:
    """Whether new images can be placed on an earlier map."""
    anchors = previous.anchors & np.isin(previous.ids, ids, assume_unique=True)
    return (
        (previous.seed, previous.space) == (seed, space)
        and int(np.count_nonzero(anchors)) >= FEWEST_ANCHORS
        and _spread(previous.xy[anchors]) > _LEAST_SPREAD  # a grid over them needs a size
        and len(ids) <= MOST_GROWTH * previous.laid_out
    )


def _anchor_points(state: Generation, ids: Int64) -> tuple[Float32, _Components]:
    """The (a, d) principal components of the anchors, and what projects other vectors alike."""
    _, vectors = state.vectors.take(ids)
    mean = vectors.mean(axis=0) if len(ids) else np.zeros(state.vectors.dim, np.float32)
    rows = vectors - mean
    with single_threaded_blas():  # its threads would round otherwise, and t-SNE magnify that
        axes = np.linalg.eigh((rows.T @ rows).astype(np.float64))[1][:, ::-1][:, :_COMPONENTS]
        largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
        single: Float32 = np.ascontiguousarray(axes * np.sign(largest), np.float32)
        components = _Components(mean, single)
        return components.project(vectors), components


@dataclass(frozen=True)
class _Components:
    """mean : (dim,) float32. axes : (dim, d) float32 orthonormal columns."""

    mean: Float32
    axes: Float32

    def project(self, vectors: Float32) -> Float32:
        return np.asarray((vectors - self.mean) @ self.axes, np.float32)


# -- laying out ---------------------------------------------------------------------------


def _lay_out(points: Float32, seed: int, tell: Progress) -> Float32:
    """(n, 2) float32 places of (n, d) points, about the origin."""
    count = len(points)
    if count < FEWEST_ANCHORS:
        return _circle(points)
    spread = float(points[:, 0].std())
    if spread < _NO_SPREAD:
        return _sunflower(count)
    tsne, affinity, nearest_neighbors = _open_tsne()
    neighbours, distances = neighbours_of_each(points, min(count - 1, int(3 * _PERPLEXITY)))
    jobs = worker_count() if count >= _THREADS_FROM else 1
    affinities = affinity.PerplexityBasedNN(
        perplexity=min(_PERPLEXITY, (count - 1) / 3),
        knn_index=nearest_neighbors.PrecomputedNeighbors(neighbours, distances),
        n_jobs=jobs,
    )

    def told(from_iteration: int) -> Any:
        def tell_done(iteration: int, _error: float, _places: Any) -> None:
            tell(count * (from_iteration + iteration) // (_EARLY + _LATE))

        return [tell_done]

    rng = np.random.default_rng(seed)
    first = points[:, :2].astype(np.float64)
    first = np.pad(first, ((0, 0), (0, 2 - first.shape[1])))
    first *= _FIRST_SPREAD / spread
    first += rng.normal(0, _FIRST_SPREAD * _JITTER, first.shape)
    fitter = tsne.TSNE(n_jobs=jobs, random_state=seed, callbacks_every_iters=_TOLD_EVERY)
    places = fitter.prepare_initial(affinities=affinities, initialization=first)
    places.optimize(_EARLY, exaggeration=12, momentum=0.5, inplace=True, callbacks=told(0))
    if _spread(np.asarray(places)) < _FIRST_SPREAD:  # it pulls a few images onto one spot for good
        places = fitter.prepare_initial(affinities=affinities, initialization=first)
    places.optimize(_LATE, momentum=0.8, inplace=True, callbacks=told(_EARLY))
    found = np.asarray(places, np.float64)
    if not _spread(found) > _LEAST_SPREAD:
        found = first * (_LINEAR_SPREAD / _FIRST_SPREAD)
    return _single(found - (found.max(axis=0) + found.min(axis=0)) / 2)


def _spread(places: npt.NDArray[Any]) -> float:
    """The standard deviation along the longer side; nan where a place is."""
    return float(places.std(axis=0).max(initial=0))


def _circle(points: Float32) -> Float32:
    """A few points on a circle, in the order of their main component."""
    count = len(points)
    if count < 2:
        return np.zeros((count, 2), np.float32)
    angles = np.empty(count)
    angles[np.argsort(points[:, 0], kind="stable")] = np.pi - np.arange(count) * 2 * np.pi / count
    return _single(np.stack([np.cos(angles), np.sin(angles)], axis=1))


# -- placing ------------------------------------------------------------------------------


def _place(
    state: Generation,
    ids: Int64,
    anchor_xy: Float32,
    anchor_points: Float32,
    components: _Components,
) -> Iterator[Float32]:
    """The places of (m,) rising ids among the anchors, block by block in their order."""
    if not len(ids):
        return
    nearest = NearestPoints(anchor_points, _PLACING_NEIGHBOURS)
    placer = _Placer(anchor_xy)

    def find(block: tuple[Int64, Float16]) -> tuple[Int64, Float64]:
        return nearest.find(components.project(widen(block[1])))

    blocks = (state.vectors.take_half(ids[start : start + _PLACING_ROWS])
              for start in range(0, len(ids), _PLACING_ROWS))  # fmt: skip
    with single_threaded_blas():
        for neighbours, distances in in_order(find, blocks):
            yield placer.place(neighbours, distances)


class _Placer:
    """Places points among anchors: at the median of their neighbours', moved to where t-SNE
    wants them. Each by itself, so that it is all the same how many come together."""

    def __init__(self, anchor_xy: Float32) -> None:
        tsne, affinity, _ = _open_tsne()
        places = anchor_xy.astype(np.float64)
        self._middle = (places.max(axis=0) + places.min(axis=0)) / 2
        nothing = affinity.PrecomputedAffinities(np.zeros((len(places), 1)), normalize=False)
        self._anchors = tsne.TSNEEmbedding(
            places - self._middle, nothing, negative_gradient_method="fft"
        )
        self._anchors.prepare_interpolation_grid()

    def place(self, neighbours: Int64, distances: Float64) -> Float32:
        """(m, 2) float32 places of points with these (m, k) neighbours among the anchors."""
        tsne, affinity, _ = _open_tsne()
        k = neighbours.shape[1]
        weights = affinity.joint_probabilities_nn(
            neighbours,
            distances,
            [min(_PLACING_PERPLEXITY, k / 3)],
            symmetrize=False,
            normalization="point-wise",
            n_reference_samples=len(self._anchors),
        )
        first = np.median(np.asarray(self._anchors)[neighbours], axis=1)
        places = tsne.PartialTSNEEmbedding(
            first, self._anchors, weights, **self._anchors.gradient_descent_params
        )
        places.optimize(
            _PLACING_ITERATIONS,
            learning_rate=0.1,
            exaggeration=1.5,
            momentum=0.8,
            max_grad_norm=0.25,
            max_step_norm=None,
            inplace=True,
        )
        return _single(np.asarray(places, np.float64) + self._middle)


def _sunflower(count: int) -> Float32:
    """Equal images, evenly over a disc as the seeds of a sunflower are."""
    turns = np.arange(count) * np.pi * (3 - 5**0.5)
    reach = np.sqrt(np.arange(count) + 0.5)
    return _single(np.stack([reach * np.cos(turns), reach * np.sin(turns)], axis=1))


def _single(places: Float64) -> Float32:
    return places.astype(np.float32)


def _open_tsne() -> tuple[Any, Any, Any]:
    """openTSNE's module of embeddings, of affinities and of neighbours."""
    try:
        from openTSNE import affinity, nearest_neighbors, tsne
    except ImportError:
        raise MissingExtraError("a map needs an extra: pip install 'clipsearch[map]'") from None
    return tsne, affinity, nearest_neighbors
