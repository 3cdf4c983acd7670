"""The progress line: what a run is bound by stands at its end, as far as there is room."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from tqdm import tqdm

from indexer.account import tell_report
from indexer.progress import TerminalProgress, open_bar, show_verdict
from indexer.progress_lines import ProgressLines
from indexer.report import BuildReport, Encoded, Pace

VERDICT = "encode-bound, decode 34 % busy"


def line_of(columns: int, verdict: str) -> str:
    """The line of a run of 5,000 images on a terminal of so many columns."""
    file = io.StringIO()
    bar = tqdm(total=5000, unit=" images", file=file, ncols=columns, miniters=0, mininterval=0)
    bar.update(1234)
    show_verdict(bar, verdict)
    text = str(bar)
    bar.close()
    return text


@pytest.mark.parametrize(
    ("columns", "end"),
    [(200, VERDICT), (120, VERDICT), (80, "encode-bound"), (60, "left"), (20, "")],
)
def test_the_verdict_ends_the_line_where_there_is_room(columns: int, end: str) -> None:
    line = line_of(columns, VERDICT)
    assert len(line) <= columns
    assert line.rstrip().endswith(end)
    assert line.lstrip().startswith("25%")
    if columns > 60:
        assert "1,234/5,000" in line


def test_a_verdict_can_go_again() -> None:
    assert line_of(120, "").rstrip().endswith("left")


def test_a_run_that_shows_no_bar_hears_of_its_pace(tmp_path: Any) -> None:
    assert open_bar(5) is None  # standard error is no terminal here
    with TerminalProgress(tmp_path) as progress:
        progress.hear(Pace(VERDICT, "encode", {}, 1.0))


def test_pace_as_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    shares = {"decode": 0.34049, "encode": 0.99951, "write": 0.0}
    with ProgressLines() as lines:
        lines.hear(Encoded(3))
        lines.hear(Pace(VERDICT, "encode", shares, 27.98765))
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert told[-1] == {
        "event": "pace",
        "verdict": VERDICT,
        "bound": "encode",
        "shares": {"decode": 0.34, "encode": 1.0, "write": 0.0},
        "images_per_second": 27.988,
    }


def report(verdict: str) -> BuildReport:
    return BuildReport(
        index="x",
        model="mini",
        found=5000,
        indexed=5000,
        new=5000,
        copies=0,
        skipped=0,
        ignored=0,
        missing=0,
        moved=0,
        encode_seconds=180.0,
        generation=1,
        verdict=verdict,
    )


def test_the_account_says_what_the_run_was_bound_by(
    tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    tell_report(report(VERDICT), tmp_path)
    tell_report(report(""), tmp_path)
    told = capfd.readouterr().err.splitlines()
    first, second = (line for line in told if line.startswith("Indexed"))
    assert first == f"Indexed 5,000 images in 3 min 0 s (28 images/s; {VERDICT})."
    assert second == "Indexed 5,000 images in 3 min 0 s (28 images/s)."
