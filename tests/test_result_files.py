"""Results written column by column say what a row-wise writer says."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipsearch.cli import result_files
from clipsearch.cli.output import path_fields
from clipsearch.cli.result_columns import (
    TAG_SCHEMA,
    classification_batch,
    classification_schema,
    label_column,
    tag_batch,
)
from clipsearch.cli.result_files import printed_results, result_writer
from clipsearch.cli.result_text import ResultText, rounded
from clipsearch.errors import OptionError
from clipsearch.path_table import PathTable
from tests.test_paths import Written

_LABELS = ["dog", 'a "quoted", label', "été\tà\nla plage", "日本", "\\ /", ""]
_ODD = b"caf\xe9 \xff\n.jpg"


@pytest.fixture
def places(tmp_path: Path) -> PathTable:
    index = Written(tmp_path / "i.index")
    names = [b'with "quotes", and commas.jpg', "ünïcode 日.jpg".encode(), _ODD, b"tab\there", b"\\"]
    names += [b"plain/%d.jpg" % number for number in range(45)]
    index.write(*[(0, name, 3 * row, "present") for row, name in enumerate(names)])
    return index.table


def block_of(top: int, rows: int, alone: bool = False, abstains: bool = False) -> SimpleNamespace:
    chance = np.random.default_rng(top)
    scores = chance.normal(0, 0.3, (rows, top)).astype(np.float32)
    scores[0, 0], scores[1, 0], scores[2, 0] = 1e-7, -1e-9, 0.0000005
    labels = chance.integers(0, len(_LABELS), (rows, top)).astype(np.int32)
    if abstains:
        labels[::3] = -1
    return SimpleNamespace(
        ids=np.arange(0, 3 * rows, 3),
        labels=labels,
        in_set=chance.random(rows, np.float32) if abstains else None,
        scores=scores,
        probabilities=chance.random((rows, top), np.float32),
        margins=np.full(rows, np.nan, np.float32) if alone else chance.random(rows, np.float32),
        runners_up=np.full(rows, -1, np.int32)
        if alone
        else chance.integers(0, len(_LABELS), rows).astype(np.int32),
    )


def rows_of(block: SimpleNamespace, places: PathTable) -> list[dict[str, Any]]:
    """Row by row, in plain Python."""
    rows = []
    for row, place in enumerate(places.first_places(block.ids)):
        assert place is not None
        margin, runner_up = float(block.margins[row]), int(block.runners_up[row])
        has_label = block.labels[row, 0] >= 0
        for rank in range(block.labels.shape[1] if has_label else 1):
            score, odds = float(block.scores[row, rank]), float(block.probabilities[row, rank])
            of_set = {} if block.in_set is None else {"in_set": round(float(block.in_set[row]), 6)}
            rows.append(
                {
                    "id": int(block.ids[row]),
                    "path": str(place.path),
                    **({"rank": rank + 1} if block.labels.shape[1] > 1 else {}),
                    "label": _LABELS[block.labels[row, rank]] if has_label else None,
                    "score": round(score, 6) if has_label else None,
                    "probability": round(odds, 6) if has_label else None,
                    "margin": None if math.isnan(margin) or not has_label else round(margin, 6),
                    "runner_up": _LABELS[runner_up] if runner_up >= 0 else None,
                    **of_set,
                }
            )
    return rows


@pytest.mark.parametrize(
    ("top", "alone", "abstains"),
    [(1, False, False), (3, False, False), (1, True, False), (1, False, True), (3, False, True)],
)
def test_every_form_has_the_same_rows(
    places: PathTable, tmp_path: Path, top: int, alone: bool, abstains: bool
) -> None:
    block = block_of(top, 50, alone, abstains)
    wanted = rows_of(block, places)
    names = label_column(_LABELS)
    cuts = [0, 1, 17, 17, 50]
    for ending in ("parquet", "csv", "json"):
        with result_writer(
            tmp_path / f"o.{ending}", classification_schema(top, abstains=abstains)
        ) as write:
            for start, stop in itertools.pairwise(cuts):
                part = {
                    name: None if column is None else column[start:stop]
                    for name, column in vars(block).items()
                }
                write(classification_batch(SimpleNamespace(**part), names, places, top))
    shown = [{**row, "path": path_fields(Path(row["path"]))["path"]} for row in wanted]

    lines = (tmp_path / "o.json").read_bytes().decode().split("\n")
    assert lines[-1] == ""
    from_json = [json.loads(line) for line in lines[:-1]]
    assert from_json == [{**row, **path_fields(Path(row["path"]))} for row in wanted]
    assert {base64.b64decode(row["path_base64"]) for row in from_json if "path_base64" in row} == {
        b"/photos/" + _ODD
    }

    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(shown[0])
    writer.writerows(row.values() for row in shown)
    assert (tmp_path / "o.csv").read_bytes() == sink.getvalue().encode()

    table = pq.read_table(tmp_path / "o.parquet")
    assert table.column_names == list(wanted[0])
    for name in ("path", "label", "runner_up"):
        assert table.schema.field(name).type == pa.string()
    for row, found in zip(shown, table.to_pylist(), strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                assert found[name] == pytest.approx(value, abs=6e-7)
            else:
                assert found[name] == value
    scores = np.asarray(table.column("score").drop_null().to_pylist(), np.float32)
    assert np.array_equal(scores, block.scores[block.labels[:, 0] >= 0].ravel())  # not rounded


def test_numbers_are_rounded_as_python_does() -> None:
    chance = np.random.default_rng(3)
    halves = ((chance.integers(-(10**6), 10**6, 3000) + 0.5) / 1e6).astype(np.float32)
    numbers = np.concatenate(
        [
            chance.normal(0, 1, 3000), chance.normal(0, 1e-6, 300), halves,
            [0, -0.0, 1, 0.5e-6, 2.5e-6, 1e9, 3e38, -7e4, 123456.789, 2048.0000005],
        ]
    ).astype(np.float32)  # fmt: skip
    assert list(map(repr, rounded(numbers))) == [repr(round(float(x), 6)) for x in numbers]


def test_what_is_no_number_is_null() -> None:
    column = pa.array([0.5, np.nan, np.inf, None], pa.float32())
    names = pa.DictionaryArray.from_arrays(pa.array([0, None, 0, 0], pa.int32()), ["dog"])
    paths = pa.array([b"/a", b"/b", b"/c", None], pa.binary())
    batch = pa.RecordBatch.from_arrays(
        [pa.array([1, 2, 3, 4]), paths, names, column, column], schema=TAG_SCHEMA
    )
    rows = [json.loads(line) for line in ResultText("json", TAG_SCHEMA).lines(batch).splitlines()]
    assert [row["score"] for row in rows] == [0.5, None, None, None]
    assert [row["path"] for row in rows] == ["/a", "/b", "/c", ""]
    assert ResultText("csv", TAG_SCHEMA).lines(batch.slice(1, 1)) == b"2,/b,,,\n"


_ONE_TAG = (np.array([999]), np.zeros(1, np.int32), *np.full((2, 1), 2, np.float32))


def test_plain_lines_have_the_path_as_it_is(places: PathTable) -> None:
    names = label_column(_LABELS)
    batch = tag_batch(
        np.array([6, 0, 3, 999]),
        np.array([0, -1, 3, 1], np.int32),
        np.array([1.25, 0, -0.00004, 2], np.float32),
        np.array([0.1, 0, 0.2, 0.3], np.float32),
        names,
        places,
    )
    lines = ResultText("plain", TAG_SCHEMA).lines(batch)
    assert lines == (
        b"/photos/" + _ODD + b"\tdog\t1.2500\n" + "/photos/ünïcode 日.jpg\t日本\t-0.0000\n".encode()
        + b'\ta "quoted", label\t2.0000\n'
    )  # fmt: skip
    broken = tag_batch(*_ONE_TAG, label_column(["two\nlines\tand  tabs"]), places)
    assert ResultText("plain", TAG_SCHEMA).lines(broken) == b"\ttwo lines and tabs\t2.0000\n"


def _write_and_fail(out: Path, batch: pa.RecordBatch) -> None:
    with result_writer(out, batch.schema) as write:
        write(batch)
        raise ZeroDivisionError


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_file_appears_only_when_all_went_well(places: PathTable, tmp_path: Path) -> None:
    batch = classification_batch(block_of(1, 5), label_column(_LABELS), places, 1)
    for ending in ("parquet", "csv", "ndjson"):
        out = tmp_path / f"o.{ending}"
        out.write_bytes(b"before")
        with pytest.raises(ZeroDivisionError):
            _write_and_fail(out, batch)
        assert out.read_bytes() == b"before"
        with result_writer(out, batch.schema):
            pass  # no rows
        assert out.read_bytes() != b"before"
    assert pq.read_table(tmp_path / "o.parquet").num_rows == 0
    assert (tmp_path / "o.csv").read_text().startswith("id,path,label,score")
    left = sorted(os.listdir(tmp_path))
    assert left == ["i.index", "o.csv", "o.ndjson", "o.parquet"]
    with (
        pytest.raises(OptionError, match="cannot write"),
        result_writer(tmp_path / "no folder/o.csv", batch.schema),
    ):
        pass


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
@pytest.mark.parametrize("ending", ["parquet", "csv", "json"])
def test_a_full_disk_is_told(
    places: PathTable, tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clipsearch.cli.result_files

    full = Path("/dev/full")
    monkeypatch.setattr(
        clipsearch.cli.result_files, "open", lambda path, mode: full.open("wb"), raising=False
    )
    batch = classification_batch(block_of(1, 50), label_column(_LABELS), places, 1)
    with (
        pytest.raises(OptionError, match="No space left"),
        result_writer(tmp_path / f"o.{ending}", batch.schema) as write,
    ):
        write(batch)
    assert not (tmp_path / f"o.{ending}").exists()


def test_a_reader_who_leaves_stops_only_the_printing(
    places: PathTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(data: bytes) -> None:
        raise BrokenPipeError

    silenced: list[bool] = []
    monkeypatch.setattr(result_files, "write_bytes", gone)
    monkeypatch.setattr(result_files, "silence_stdout", lambda: silenced.append(True))
    batch = tag_batch(*_ONE_TAG, label_column(["dog"]), places)
    with printed_results("csv", TAG_SCHEMA, is_all=False) as write:
        write(batch)
    assert silenced == [True, True]
    with pytest.raises(BrokenPipeError), printed_results("csv", TAG_SCHEMA):
        pass
