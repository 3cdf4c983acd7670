"""What ``clipsearch bench`` measured, for people: a table a section, and a recommendation."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from clipsearch.backends import REFERENCE
from clipsearch.cli.output import human_bytes, human_seconds, table
from indexer.bench_report import BenchReport, EncodeRate, IndexRate

_WIDTH = 79
_WORTH = 1.15
"""A faster way is recommended from here on: less is noise, and not worth another picture."""

_COLLECTIONS = (10_000, 1_000_000)

_LEAST_RUN_SECONDS = 2.0
"""Of a shorter run of indexing the most is its beginning and its end: it is no share of a limit."""


def number(value: float) -> str:
    """Three digits that mean something: "1,230", "45.6", "0.789"."""
    if value >= 1000:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sections(report: BenchReport) -> Iterator[str]:
    """The sections of which anything was measured, each a heading and a table."""
    yield f"Machine\n{_machine(report)}"
    if report.decode:
        yield f"Decoding\n{_decoding(report)}"
    if report.encode or report.notes:
        yield f"Encoding with {report.model}\n{_encoding(report)}"
    if report.index:
        yield f"Indexing, the whole way\n{_indexing(report)}"
    if report.search is not None:
        yield f"Searching and labelling\n{_searching(report)}"
    if report.encode:
        yield f"Recommendation\n{recommendation(report)}"


def _machine(report: BenchReport) -> str:
    machine = report.machine
    memory = "" if machine.memory is None else f", {human_bytes(machine.memory)} of memory"
    cores = f"{machine.cores} usable core{'s' * (machine.cores != 1)}"
    return (
        f"  {machine.processor[:60]}, {cores}{memory}\n"
        f"  encodes on {machine.device[:60]}; the model was there after "
        f"{human_seconds(report.start_seconds)}"
    )


def _decoding(report: BenchReport) -> str:
    rows = [
        (one.photos, one.decode, str(one.workers), number(one.images_per_second))
        for one in report.decode
    ]
    return _indented(table(("photos", "--decode", "processes", "images/s"), rows, "  rr"))


def _encoding(report: BenchReport) -> str:
    rows = [
        (
            one.backend,
            str(one.batch_size),
            f"{one.streams} x {one.threads}" if one.threads else str(one.streams),
            number(one.images_per_second),
            "best" if one == report.encoding(one.backend) else "",
        )
        for one in report.encode
    ]
    header = ("--backend", "batch", "calls x threads", "images/s", "")
    text = _indented(table(header, rows, " rrr")) if rows else ""
    notes = [f"{name}: {note}" for name, note in [*report.notes.items(), *report.drift.items()]]
    wrapped = [
        textwrap.fill(note, _WIDTH, initial_indent="  ", subsequent_indent="    ") for note in notes
    ]
    return "\n".join(filter(None, [text, *wrapped]))


def _indexing(report: BenchReport) -> str:
    rows = [
        (
            one.photos,
            one.decode,
            one.backend,
            f"{one.images:,}",
            number(one.images_per_second),
            number(one.limit),
            "too short" if _is_short(one) else f"{one.images_per_second / one.limit:.0%}",
        )
        for one in report.index
    ]
    header = ("photos", "--decode", "--backend", "images", "images/s", "limit", "of it")
    return _indented(table(header, rows, "   rrrr"))


def _is_short(rate: IndexRate) -> bool:
    return rate.images < _LEAST_RUN_SECONDS * rate.images_per_second


def _searching(report: BenchReport) -> str:
    assert report.search is not None
    found = report.search
    rows = [("search, the words encoded", f"{number(found.queries_per_second)} queries/s")]
    rows += [
        (f"classify, {labels:,} labels", f"{number(rate)} images/s")
        for labels, rate in found.classify.items()
    ]
    header = (f"{found.vectors:,} made vectors of {found.dim} numbers", "")
    return _indented(table(header, rows, " r"))


def recommendation(report: BenchReport) -> str:
    """Which settings suit this machine, and how long collections take with them."""
    best, reference = report.encoding(), report.encoding(REFERENCE)
    if best is None:
        return "  Nothing was measured that could be recommended."
    lines = []
    if reference is not None and best.images_per_second < _WORTH * reference.images_per_second:
        best = reference
    lines.append(f"--backend {best.backend}{_how(best)}")
    faster = _unchecked(report, best)
    if faster is not None:
        lines.append(
            f"--backend {faster.backend} would encode {number(faster.images_per_second)} images/s; "
            "'clipsearch index'\n  compares its vectors with the reference's first"
        )
    kinds = list(dict.fromkeys(one.photos for one in report.decode))
    for photos in kinds:
        lines += _for_kind(report, photos, best)
    if report.remembered is not None:
        lines.append(f"remembered: --backend auto takes {report.remembered} with this model")
    return "\n".join(f"  {line}" for line in lines)


def _how(rate: EncodeRate) -> str:
    calls = f"{rate.streams} call{'s' * (rate.streams != 1)} at a time"
    return f" --batch-size {rate.batch_size}: {number(rate.images_per_second)} images/s, {calls}"


def _unchecked(report: BenchReport, best: EncodeRate) -> EncodeRate | None:
    """The fastest back-end that is clearly above ``best`` and was not compared here yet."""
    others = [
        one
        for one in report.encode
        if one.backend not in report.strict
        and one.images_per_second > _WORTH * best.images_per_second
    ]
    return max(others, key=lambda one: one.images_per_second, default=None)


def _for_kind(report: BenchReport, photos: str, best: EncodeRate) -> Iterator[str]:
    exact = report.limit(photos, "exact", best.backend)
    fast = report.limit(photos, "fast", best.backend)
    if exact is None:
        return
    measured = [
        one.images_per_second / one.limit
        for one in report.index
        if one.photos == photos and not _is_short(one)
    ] or [1.0]
    decode, rate = "exact", exact
    if fast is not None and fast > _WORTH * exact:
        decode, rate = "fast", fast
    rate *= min(1.0, measured[0])
    name = "your photos" if photos == "yours" else f"photos of {photos}"
    yield f"{name}: --decode {decode}, {number(rate)} images/s"
    yield "  " + ", ".join(f"{count:,} in {human_seconds(count / rate)}" for count in _COLLECTIONS)
    if decode == "fast":
        assert fast is not None
        yield (
            f"  (exact follows the model's preprocessing to the pixel: "
            f"{exact / fast:.0%} of that rate)"
        )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" if line else "" for line in text.splitlines())
