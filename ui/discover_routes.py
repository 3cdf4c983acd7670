"""The HTTP API of discovering: ``api/discover`` makes a discovery, ``api/discoveries`` has those
that were kept, and changes them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi import Query as Parameter

from clipsearch.cluster_changes import Change, Drop, Merge, Rename, Split
from clipsearch.cluster_edits import MOST_PARTS
from clipsearch.cluster_files import UNNAMED
from clipsearch.cluster_hits import IN_NONE, hits_at
from clipsearch.saved_clusters import OpenedDiscovery
from ui.checks import check_choice, check_count, check_ids, check_text
from ui.discovery_documents import BY_SIZE, ORDERS, discovery_document, saved_document
from ui.discovery_runs import DiscoveryRuns, Wish
from ui.hit_documents import hit_documents
from ui.library import Library
from ui.open_discoveries import OpenDiscoveries, position_of, reference_to
from ui.page_errors import PageError
from ui.page_settings import PageSettings
from ui.turns import Turns

_MOST_CLUSTERS = 10_000
_MOST_NAME = 200
_MOST_WAITING = 32  # changes, each of which waits for those before it
_MOST_WORDS_TEXT = 200_000
_NOUNS, _OWN, _NUMBERS = "nouns", "own", "none"

Document = Annotated[dict[str, Any], Body()]


def discover_routes(library: Library, settings: PageSettings) -> APIRouter:
    """The routes, to be put at the root."""
    routes = APIRouter(prefix="/api")
    discoveries = OpenDiscoveries(library)
    runs = DiscoveryRuns(library)
    changes = Turns(1, waiting=_MOST_WAITING)

    @routes.get("/discover")
    def newest_run() -> dict[str, Any]:
        run = runs.newest()
        return {"run": None if run is None else run.document()}

    @routes.post("/discover", status_code=202)
    def start(document: Document) -> dict[str, Any]:
        return {"run": runs.start(read_wish(document, settings)).document()}

    @routes.post("/discover/stop")
    def stop(document: Document) -> dict[str, Any]:
        run = runs.stop()
        return {"run": None if run is None else run.document()}

    @routes.get("/discoveries")
    def saved() -> dict[str, Any]:
        fingerprint = library.index().space.fingerprint
        found = [saved_document(name, one, fingerprint) for name, one in discoveries.saved()]
        return {"discoveries": found, "next_name": _next_name([one["name"] for one in found])}

    @routes.get("/discoveries/{name}")
    def discovery(
        name: str,
        order: str = BY_SIZE,
        find: str = Parameter("", max_length=_MOST_NAME),
        offset: int = Parameter(0, ge=0, le=_MOST_CLUSTERS),
        limit: int = Parameter(60, ge=1, le=200),
    ) -> dict[str, Any]:
        order = check_choice(order, "order", ORDERS)
        opened = discoveries.open(name)
        generation = library.index().generation
        return discovery_document(opened, order, find, offset, limit, generation)

    @routes.get("/discoveries/{name}/images")
    def images(
        name: str,
        cluster: int | None = Parameter(None, ge=0, le=2**31),
        order: str = "typical",
        offset: int = Parameter(0, ge=0, le=100_000_000),
        limit: int = Parameter(60, ge=1, le=120),
    ) -> dict[str, Any]:
        order = check_choice(order, "order", ("typical", "doubtful"))
        opened = discoveries.open(name)
        found = opened.discovery
        position = IN_NONE if cluster is None else position_of(found.clusters, cluster)
        index = library.index()
        state = index.state()
        hits = hits_at(
            state,
            found,
            position,
            k=limit,
            offset=offset,
            doubtful_first=order == "doubtful",
        )
        return {
            "hits": hit_documents(state, [hits])[0],
            "total": hits.total,
            "searched": hits.searched,
            "generation": index.generation,
        }

    @routes.post("/discoveries/{name}/change")
    async def change(name: str, document: Document) -> dict[str, Any]:
        expected = check_text(document.get("state"), "state", settings, 100)
        what = await changes.run(
            lambda: discoveries.change(name, expected, lambda opened: read_change(document, opened))
        )
        return {"done": what}

    @routes.post("/discoveries/{name}/undo")
    async def undo(name: str, document: Document) -> dict[str, Any]:
        expected = check_text(document.get("state"), "state", settings, 100)
        return {"undone": await changes.run(lambda: discoveries.undo(name, expected))}

    @routes.post("/discoveries/{name}/label-set")
    async def label_set(name: str, document: Document) -> dict[str, Any]:
        label_set = check_text(document.get("name"), "name", settings, _MOST_NAME).strip()
        replace = document.get("replace") is True
        opened = await changes.run(lambda: discoveries.save_as(name, label_set, replace))
        return {"label_set": label_set, "images": len(opened.discovery.assignment)}

    @routes.post("/discoveries/{name}/forget")
    async def forget(name: str, document: Document) -> dict[str, Any]:
        left = await changes.run(lambda: discoveries.forget(name))
        return {"forgotten": name, "label_sets": left}

    def read_change(document: dict[str, Any], opened: OpenedDiscovery) -> Change:
        clusters = opened.discovery.clusters
        kind = check_choice(document.get("kind"), "kind", ("rename", "merge", "split", "drop"))
        keys = check_ids(document.get("clusters"), "clusters", 1000)
        if not keys:
            raise PageError("Choose a group first.")
        references = tuple(reference_to(clusters, key) for key in keys)
        name = check_text(document.get("name"), "name", settings, _MOST_NAME).strip()
        if kind == "merge":
            if len(keys) < 2:
                raise PageError("Choose two groups or more to merge.")
            return Merge(references, name or None)
        if kind == "drop":
            return Drop(references)
        if len(keys) != 1:
            raise PageError(f"Choose one group to {kind}.")
        if kind == "split":
            return Split(
                references[0], check_count(document.get("parts", 2), "parts", 2, MOST_PARTS)
            )
        if not name:
            raise PageError("Write the new name of the group.")
        return Rename(references[0], name)

    return routes


def read_wish(document: dict[str, Any], settings: PageSettings) -> Wish:
    """What a browser asks to be discovered, checked."""
    source = check_choice(document.get("names", _NOUNS), "names", (_NOUNS, _OWN, _NUMBERS))
    words: tuple[str, ...] | None = None
    if source == _NUMBERS:
        words = ()
    elif source == _OWN:
        words = _words(document.get("words"), settings)
    count, least = document.get("n_clusters"), document.get("least_size")
    where = check_text(document.get("where"), "where", settings).strip()
    return Wish(
        name=check_text(document.get("name"), "name", settings, _MOST_NAME).strip() or UNNAMED,
        n_clusters=None if count is None else check_count(count, "groups", 1, _MOST_CLUSTERS),
        least_size=None
        if least is None
        else check_count(least, "fewest photos of a group", 1, 1_000_000),
        words=words,
        where=where or None,
        replace=document.get("replace") is True,
    )


def _words(value: object, settings: PageSettings) -> tuple[str, ...]:
    """Words with commas or lines between them."""
    text = check_text(value, "words", settings, _MOST_WORDS_TEXT)
    words = [word.strip() for line in text.splitlines() for word in line.split(",")]
    words = list(dict.fromkeys(word for word in words if word))
    if not words:
        raise PageError("Write the words to take names from, with commas or lines between them.")
    if len(words) > settings.most_labels:
        raise PageError(
            f"Expected at most {settings.most_labels:,} words, got {len(words):,}.", 413
        )
    if any(len(word) > _MOST_NAME for word in words):
        raise PageError(f"Expected words of at most {_MOST_NAME} letters.", 413)
    return tuple(words)


def _next_name(taken: list[str]) -> str:
    """A name that no discovery has."""
    known = {name.casefold() for name in taken}
    if UNNAMED not in known:
        return UNNAMED
    return next(name for n in range(2, len(taken) + 3) if (name := f"{UNNAMED}-{n}") not in known)
