"""Milvus: the only module that imports pymilvus. The same calls ask a cluster and milvus-lite.

Each index and space has two collections: its images, and the marks of what was synced. Both carry
in their names and descriptions which index and space they are of, so that two never mix.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from clipsearch.database_fields import FIELDS, MOST_TEXT_BYTES, MOST_TEXTS, Row
from clipsearch.database_place import TOKEN_VARIABLE, DatabasePlace
from clipsearch.encoder import Float32, Space
from clipsearch.errors import (
    MissingExtraError,
    QueryError,
    SpaceMismatchError,
    VectorDatabaseError,
)
from clipsearch.shards import Int64

INSTALL = 'Milvus needs an extra: pip install "clipsearch[milvus]"'
FORMAT = 1
"""Of the collections; another one is made anew."""

MOST_HITS = 16_384
"""What a Milvus server brings of one question at most."""
_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_LONG_SECONDS = 600.0
"""For what takes as long as the collection is large."""
_FILE_OPTIONS = {"grpc.keepalive_time_ms": 2**31 - 1}
"""milvus-lite takes offence at being asked every ten seconds whether it is still there."""
_UPSERT_BYTES = 8 << 20
"""Of vectors in one message; servers take 64 MB unless told otherwise."""
_IDENTITY = -2
"""The block under which it stands which index and space the collections are of."""
_INDEXED = ("taken", "camera", "format", "rating")
"""The fields that are asked for most: the server keeps an inverted index of each."""


@dataclass(frozen=True)
class Mark:
    """What was synced of a range of ids. signature : of the files it came from. digest : of the
    rows themselves. images : how many there were. cut : the fields that something was too long of.
    """

    signature: str
    digest: str
    images: int
    cut: tuple[str, ...] = ()


def connect(place: DatabasePlace, *, make: bool = False) -> Any:
    """A client of pymilvus. make : a file of milvus-lite that is not there is made.

    Raises MissingExtraError, VectorDatabaseError.
    """
    # What a .env file somewhere above this installation says is none of its business.
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it would say on the terminal
    file = place.file
    if file is not None and not make and not file.exists():
        raise VectorDatabaseError(
            f"there is no {file}: 'clipsearch sync --uri {file}' makes it and fills it"
        )
    if file is not None and not file.absolute().parent.is_dir():
        raise VectorDatabaseError(f"cannot make {file}: there is no folder {file.parent}")
    try:
        import pymilvus
    except ImportError:
        raise MissingExtraError(INSTALL) from None
    for name in ("pymilvus", "milvus_lite"):  # whose logs are tracebacks on the terminal
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        return pymilvus.MilvusClient(
            place.uri,
            token=place.token,
            timeout=_CONNECT_SECONDS,
            **({} if file is None else {"grpc_options": _FILE_OPTIONS}),
        )
    except Exception as error:
        if file is not None:
            _refuse_file(file, error)
        _refuse(place, error)


def _refuse_file(file: Path, error: Exception) -> NoReturn:
    if "milvus-lite is required" in str(error) or "milvus_lite" in str(error):
        raise MissingExtraError(
            f"{INSTALL} (a .db file needs milvus-lite, which is not made for Windows)"
        ) from None
    raise VectorDatabaseError(
        f"cannot open {file}: another process has it open (milvus-lite lets in one at a time), or "
        "it is no database of milvus-lite"
    ) from error


def _refuse(place: DatabasePlace, error: Exception) -> NoReturn:
    """One line for what went wrong, without what Milvus was asked."""
    said = " ".join(str(getattr(error, "message", "") or error).split())
    lower = said.lower()
    if "unauthenticated" in lower or "auth check failure" in lower or "permission" in lower:
        raise VectorDatabaseError(
            f"Milvus at {place.uri} does not let this user in: set {TOKEN_VARIABLE} to its token, "
            "or to NAME:PASSWORD"
        ) from error
    unreachable = ("fail connecting", "failed to connect", "unavailable", "deadline", "timeout")
    if any(word in lower for word in unreachable) or isinstance(error, TimeoutError):
        raise VectorDatabaseError(
            f"no Milvus answers at {place.uri}: see whether it runs there"
        ) from error
    raise VectorDatabaseError(f"Milvus at {place.uri} refused: {said[:300]}") from error


class MilvusIndex:
    """The images of one index and space in Milvus; scores are inner products of unit rows.

    Safe for threads. Every method raises VectorDatabaseError where Milvus does not do its part.
    """

    kind = "milvus"

    def __init__(self, place: DatabasePlace, client: Any, uuid: str, space: Space) -> None:
        self.place = place
        self.uuid = uuid
        self.space = space
        short = hashlib.sha256(space.fingerprint.encode()).hexdigest()[:16]
        self.name = f"clipsearch_{uuid.replace('-', '')}_{short}"
        self._marks = f"{self.name}_sync"
        self._client = client

    @property
    def dim(self) -> int:
        return self.space.dim

    def _ask(
        self, ask: Callable[..., Any], *arguments: Any, seconds: float = _SECONDS, **options: Any
    ) -> Any:
        try:
            return ask(*arguments, timeout=seconds, **options)
        except Exception as error:  # pymilvus lets out gRPC's errors beside its own
            _refuse(self.place, error)

    # -- the collections ----------------------------------------------------------------

    @property
    def description(self) -> str:
        """What the collection says of itself: which index and space it is of."""
        document = {
            "clipsearch": FORMAT,
            "index": self.uuid,
            "space": self.space.id,
            "fingerprint": self.space.fingerprint,
            "model": Path(self.space.model).name,
            "dim": self.dim,
        }
        return json.dumps(document)

    def exists(self) -> bool:
        """Whether both collections are there whole; they are ready to be asked then.

        Raises SpaceMismatchError where one of this name is of another index or space.
        """
        there = [
            bool(self._ask(self._client.has_collection, name)) for name in (self.name, self._marks)
        ]
        if there[0]:
            said = self._ask(self._client.describe_collection, self.name).get("description")
            self._check_identity(said)  # milvus-lite keeps none
        if not all(there):
            return False
        for name in (self.name, self._marks):
            self._ask(self._client.load_collection, name, seconds=_LONG_SECONDS)
        written = self.mark(_IDENTITY)  # the last thing that is made
        if written is not None:
            self._check_identity(json.dumps(written))
        return written is not None

    def _check_identity(self, said: str | None) -> None:
        if not said:
            return
        document = _document(said) or {}
        if any(document.get(key) != value for key, value in self._identity().items()):
            raise SpaceMismatchError(
                f"the collection {self.name} at {self.place.uri} is not the copy of this index and "
                f"of the space {self.space.id} that its name says: drop it, and run 'clipsearch "
                "sync' again"
            )

    def _identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = json.loads(self.description)
        return {key: identity[key] for key in ("clipsearch", "index", "fingerprint", "dim")}

    def create(self) -> None:
        """Make the collections, empty; those that are there go."""
        from pymilvus import DataType

        for name in (self._marks, self.name):
            if self._ask(self._client.has_collection, name):
                self._ask(self._client.drop_collection, name)
        kinds = {
            "integer": DataType.INT64,
            "number": DataType.DOUBLE,
            "text": DataType.VARCHAR,
            "texts": DataType.ARRAY,
        }
        schema = self._client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=self.description
        )
        schema.add_field("id", DataType.INT64, is_primary=True)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=self.dim)
        for name, kind in FIELDS.items():
            options: dict[str, Any] = {}
            if kind in ("text", "texts"):
                options["max_length"] = MOST_TEXT_BYTES
            if kind == "texts":
                options |= {"element_type": DataType.VARCHAR, "max_capacity": MOST_TEXTS}
            schema.add_field(name, kinds[kind], nullable=True, **options)
        indexes = self._client.prepare_index_params()
        # A server chooses its index itself (a graph); milvus-lite has few rows, and scans them.
        ann = "FLAT" if self.place.file is not None else "AUTOINDEX"
        indexes.add_index(field_name="vector", index_type=ann, metric_type="IP")
        for name in _INDEXED:
            indexes.add_index(field_name=name, index_type="INVERTED")
        self._create(self.name, schema, indexes)
        marks = self._client.create_schema(
            auto_id=False, enable_dynamic_field=False, description=self.description
        )
        marks.add_field("block", DataType.INT64, is_primary=True)
        marks.add_field("document", DataType.VARCHAR, max_length=MOST_TEXT_BYTES)
        # A collection without vectors is none to Milvus.
        marks.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
        indexes = self._client.prepare_index_params()
        indexes.add_index(field_name="vector", index_type="FLAT", metric_type="IP")
        self._create(self._marks, marks, indexes)
        self.put_mark(_IDENTITY, json.loads(self.description))

    def _create(self, name: str, schema: Any, indexes: Any) -> None:
        self._ask(self._client.create_collection, name, schema=schema, consistency_level="Strong")
        # Of nothing an index is soon made: nobody need wait for it.
        self._ask(self._client.create_index, name, indexes, sync=False)
        self._ask(self._client.load_collection, name)

    # -- rows ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.count("")

    def count(self, where: str) -> int:
        """How many images pass an expression of Milvus; all for ""."""
        found = self._query(self.name, where, ["count(*)"])
        return int(found[0]["count(*)"])

    def _query(
        self, name: str, where: str, fields: Sequence[str], limit: int | None = None
    ) -> list[dict[str, Any]]:
        options = {} if limit is None else {"limit": limit}
        found = self._ask(
            self._client.query,
            name,
            filter=where,
            output_fields=list(fields),
            consistency_level="Strong",
            **options,
        )
        return [dict(row) for row in found]

    def ids_between(self, first: int, stop: int) -> Int64:
        """The rising ids from ``first`` to before ``stop``, at most ``MOST_HITS`` of them."""
        where = f"id >= {first} and id < {stop}"
        found = self._query(self.name, where, ["id"], MOST_HITS)
        return np.sort(np.array([row["id"] for row in found], np.int64))

    def add(self, ids: Int64, vectors: Float32, fields: Sequence[Row] | None = None) -> None:
        """Put (n,) ids with their (n, dim) float32 rows, over what these ids had before. fields :
        what is known of each."""
        if vectors.shape != (len(ids), self.dim):
            raise QueryError(f"expected {len(ids)} x {self.dim} vectors, got {vectors.shape}")
        empty: Row = dict.fromkeys(FIELDS)
        batch: list[dict[str, Any]] = []
        size = 0
        for row, image_id in enumerate(ids.tolist()):
            known = empty if fields is None else fields[row]
            size += 4 * self.dim + _text_bytes(known)
            batch.append({"id": image_id, "vector": vectors[row], **known})
            if size > _UPSERT_BYTES:
                self._ask(self._client.upsert, self.name, batch)
                batch, size = [], 0
        if batch:
            self._ask(self._client.upsert, self.name, batch)

    def delete(self, ids: Int64) -> None:
        """Take images away; those that are not there are passed over."""
        for start in range(0, len(ids), 4096):
            part = ids[start : start + 4096].tolist()
            self._ask(self._client.delete, self.name, ids=part)

    def take(self, ids: Int64) -> tuple[Int64, Float32, list[Row]]:
        """The (m,) rising ids of ``ids`` that are there, their (m, dim) float32 rows as Milvus has
        them, and what it knows of each."""
        where = f"id in {ids.tolist()}"
        found = self._query(self.name, where, ["id", "vector", *FIELDS], MOST_HITS)
        found.sort(key=lambda row: int(row["id"]))
        here = np.array([row["id"] for row in found], np.int64)
        vectors = np.array([row["vector"] for row in found], np.float32)
        return here, vectors.reshape(len(found), self.dim), [_known(row) for row in found]

    def flush(self) -> None:
        """Have Milvus write what it holds in memory."""
        for name in (self.name, self._marks):
            self._ask(self._client.flush, name, seconds=_LONG_SECONDS)

    # -- questions ----------------------------------------------------------------------

    def nominate(
        self, query: Float32, count: int, probes: int = 0, *, where: str = ""
    ) -> tuple[Float32, Int64]:
        """(dim,) float32 query -> at most (count,) approximate scores, falling, and as many ids,
        of the images that pass the expression ``where``.

        count : at most ``MOST_HITS``. probes : is Milvus's own affair; more are looked into the
        more are asked for.
        """
        found = self._ask(
            self._client.search,
            self.name,
            data=[query.astype(np.float32)],
            anns_field="vector",
            filter=where,
            limit=count,
            output_fields=["id"],
            search_params={"metric_type": "IP", "params": {}},
        )[0]
        scores = np.array([hit["distance"] for hit in found], np.float32)
        ids = np.array([hit["id"] for hit in found], np.int64)
        order = np.argsort(-scores, kind="stable")
        return scores[order], ids[order]

    # -- what was synced ----------------------------------------------------------------

    def mark(self, block: int) -> dict[str, Any] | None:
        """The mark of one block; None where there is none."""
        found = self._query(self._marks, f"block == {block}", ["block", "document"], 1)
        return _document(found[0]["document"]) if found else None

    def marks(self, first: int, stop: int | None) -> dict[int, Mark]:
        """The marks of the blocks from ``first`` to before ``stop``, at most ``MOST_HITS``."""
        where = f"block >= {first}" + (f" and block < {stop}" if stop is not None else "")
        found = self._query(self._marks, where, ["block", "document"], MOST_HITS)
        marks: dict[int, Mark] = {}
        for row in found:
            document = _document(row["document"])
            if document is not None and document.keys() >= {"signature", "digest", "images"}:
                marks[int(row["block"])] = Mark(
                    str(document["signature"]),
                    str(document["digest"]),
                    int(document["images"]),
                    tuple(document.get("cut", ())),
                )
        return marks

    def put_mark(self, block: int, document: dict[str, Any]) -> None:
        """Keep the mark of a block, over the one that it had."""
        row = {"block": block, "document": json.dumps(document), "vector": [1.0, 0.0]}
        self._ask(self._client.upsert, self._marks, [row])

    def drop_marks(self, blocks: Sequence[int]) -> None:
        """Forget the marks of blocks."""
        if blocks:
            self._ask(self._client.delete, self._marks, ids=list(blocks))


def _text_bytes(row: Row) -> int:
    texts = [value for value in row.values() if isinstance(value, str)]
    texts += [text for value in row.values() if isinstance(value, list) for text in value]
    return 100 + sum(map(len, texts))


def _known(row: dict[str, Any]) -> Row:
    return {
        name: list(row[name]) if kind == "texts" and row.get(name) is not None else row.get(name)
        for name, kind in FIELDS.items()
    }


def _document(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
