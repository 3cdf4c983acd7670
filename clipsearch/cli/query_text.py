"""A query as a person would type it."""

from __future__ import annotations

import shlex

from clipsearch.cli.output import for_display
from clipsearch.filter_options import FilterOptions
from clipsearch.query import Query


def query_text(query: Query) -> str:
    """The words and options of ``clipsearch search`` that ask a query."""
    parts = [query.text] if query.text else []
    for option, values in (
        ("--plus", query.plus),
        ("--not", query.minus),
        ("--like", query.like),
        ("--unlike", query.unlike),
    ):
        for value in values:
            part, boost = value if isinstance(value, tuple) else (value, 1.0)
            name = f"image {part}" if isinstance(part, int) else str(part)
            parts.append(f"{option} {shlex.quote(name if boost == 1 else f'{name}^{boost:g}')}")
    if isinstance(query.where, FilterOptions):
        parts += _filter_options(query.where)
    elif query.where is not None:
        parts.append(f"--where {shlex.quote(str(query.where))}")
    if isinstance(query.min_score, float):
        parts.append(f"--min-score {query.min_score:g}")
    if query.sort != "relevance":
        parts.append(f"--sort {query.sort}")
    if query.collapse:
        parts.append("--collapse-dups")
    return for_display(" ".join(parts))


def _filter_options(filters: FilterOptions) -> list[str]:
    parts = []
    for option, value in (
        ("--since", filters.since),
        ("--until", filters.until),
        ("--in", filters.folders),
        ("--camera", filters.cameras),
        ("--near", filters.near),
        ("--box", filters.box),
        ("--min-size", filters.min_size),
        ("--label", filters.with_labels),
        ("--where", filters.where),
    ):
        for text in (value,) if isinstance(value, str) else value or ():
            parts.append(f"{option} {shlex.quote(text)}")
    return parts
