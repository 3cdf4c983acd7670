"""The options of every command that asks for images, and the query they make."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from clipsearch.cli.filter_options import filter_from_options, filter_options
from clipsearch.errors import QueryError
from clipsearch.image_index import ImageIndex
from clipsearch.query import Image, Query, parse_boost
from clipsearch.records import Hits

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_K = 10
_STDIN = "-"
_STDIN_BYTES = 1 << 28


class ScoreOrWord(click.ParamType[Any]):
    """A number, or one of the words auto and none."""

    name = "score"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | str:
        text = str(value).strip().lower()
        if text in ("auto", "none"):
            return text
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number):
            return number
        self.fail(f"expected auto, none or a number such as 0.25; got {value!r}", param, ctx)


class CountOrAll(click.ParamType[Any]):
    """A number from 1 on, or the word all."""

    name = "count"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        if str(value).strip().lower() == "all":
            return "all"
        try:
            number = int(value)
        except ValueError:
            number = 0
        if 1 <= number < 1 << 31:
            return number
        self.fail(f"expected a number from 1 on, or all; got {value!r}", param, ctx)


@dataclass(frozen=True)
class Asked:
    """A query as it was asked on the command line, and the page of its answer.

    k : None for all hits. given_k : whether -k was typed, and is no lasting setting. given_cut :
    whether --min-score was given.
    """

    query: Query
    k: int | None
    page: int
    exact: bool
    given_k: bool
    given_cut: bool

    def of_all(self) -> Asked:
        """The same for all hits; those above the automatic cut-off where none was given, for
        else they would be the whole collection."""
        query = self.query if self.given_cut else replace(self.query, min_score="auto")
        return replace(self, k=None, query=query)

    def folders_without_images(self, opened: ImageIndex) -> list[str]:
        """Folders of the filter that hold nothing of the index: most often a slip of the pen."""
        where = self.query.filter()
        if where is None:
            return []
        from clipsearch.metadata import folders_without_images

        return folders_without_images(opened.state(), where)

    @property
    def offset(self) -> int:
        """How many hits stand on the pages before."""
        return 0 if self.k is None else (self.page - 1) * self.k

    def hits(self, opened: ImageIndex, *, strengths: bool = False) -> Hits:
        """Ask the index; see ``ImageIndex.search``."""
        return opened.search(
            self.query, k=self.k, offset=self.offset, exact=self.exact, strengths=strengths
        )


def cut_options(function: F) -> F:
    """-k, --page, --min-score, --sort, --collapse-dups and --exact."""
    options = [
        click.option(
            "-k", type=CountOrAll(), metavar="COUNT|all", default=None, envvar="CLIPSEARCH_K",
            help=f"How many images to bring.  [default: {DEFAULT_K}]",
        ),
        click.option(
            "--page", type=click.IntRange(min=1), default=1, metavar="N",
            help="The N-th page of as many.",
        ),
        click.option(
            "--min-score", type=ScoreOrWord(), metavar="auto|SCORE|none", default=None,
            help="Leave out images below this score; auto finds a cut-off that fits the query.  "
            "[default: none; auto with -k all]",
        ),
        click.option(
            "--sort", type=click.Choice(["relevance", "date"]), default="relevance",
            show_default=True,
            help="By date, the newest come first: of what passes --min-score, or of the page.",
        ),
        click.option(
            "--collapse-dups", "collapse", is_flag=True,
            help="Show one of several near-duplicates.",
        ),
        click.option("--exact", is_flag=True, help="Scan every vector; never approximate."),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def search_options(function: F) -> F:
    """WORDS and everything that makes a query of them, handed on as ``asked: Asked``."""

    @functools.wraps(function)
    def ask(
        words: tuple[str, ...],
        plus: tuple[str, ...],
        minus: tuple[str, ...],
        like: tuple[str, ...],
        unlike: tuple[str, ...],
        **others: Any,
    ) -> Any:
        asked = asked_of(others, Query(**query_terms(words, plus, minus, like, unlike)))
        return function(asked=asked, **others)

    options = [
        click.argument("words", nargs=-1),
        click.option(
            "--plus", multiple=True, metavar="TEXT[^BOOST]", help="More words to look for.",
        ),
        click.option(
            "--not", "minus", multiple=True, metavar="TEXT[^BOOST]",
            help="Words for what is not wanted; ^2 pushes it away harder.",
        ),
        click.option(
            "--like", multiple=True, metavar="IMAGE[^BOOST]",
            help="An image to look like, - for one on standard input.",
        ),
        click.option(
            "--unlike", multiple=True, metavar="IMAGE[^BOOST]", help="An image not to look like.",
        ),
        cut_options,
        filter_options,
    ]  # fmt: skip
    decorated: Any = ask
    for option in reversed(options):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def asked_of(others: dict[str, Any], query: Query) -> Asked:
    """Take the options of ``cut_options`` and ``filter_options`` out of a command's options."""
    k, page, exact = others.pop("k"), others.pop("page"), others.pop("exact")
    given_cut = others["min_score"] is not None
    min_score: Any = others.pop("min_score")
    if min_score is None:  # which 0 is not
        # Without a cut-off, all that a query finds would be the whole collection.
        min_score = "auto" if k == "all" else "none"
    filters = others.pop("filters")
    filter_from_options(filters)  # what is wrong with it is said before an index is opened
    query = replace(
        query,
        min_score=None if min_score == "none" else min_score,
        sort=others.pop("sort"),
        collapse=others.pop("collapse"),
        where=filters,
    )
    if not query.has_terms and query.where is None:
        raise QueryError('the query is empty: say what to look for, such as "a dog on a beach"')
    if not query.has_terms and isinstance(min_score, float):
        raise QueryError("without words or an image nothing has a score: leave out --min-score")
    if k == "all" and page > 1:
        raise QueryError("there is one page of all: leave out --page, or give -k a number")
    count = None if k == "all" else DEFAULT_K if k is None else k
    source = click.get_current_context().get_parameter_source("k")
    given_k = source is click.core.ParameterSource.COMMANDLINE
    return Asked(query, count, page, exact, given_k=given_k, given_cut=given_cut)


def query_terms(
    words: tuple[str, ...],
    plus: tuple[str, ...],
    minus: tuple[str, ...],
    like: tuple[str, ...],
    unlike: tuple[str, ...],
) -> dict[str, Any]:
    """The fields of a Query: words are one text, options each a part with its boost."""
    images = [parse_boost(part)[0] for part in (*like, *unlike)]
    piped = [place for place in (*words, *images) if place == _STDIN]
    if len(piped) > 1:
        raise QueryError("standard input can be one part of the query only: - stands there twice")
    text: str | None = " ".join(words) if words else None
    if words == (_STDIN,):
        text = sys.stdin.buffer.read(_STDIN_BYTES).decode("utf-8", "replace")
    if text is not None and not text.strip():
        raise QueryError('the query is empty: say what to look for, such as "a dog on a beach"')
    return {
        "text": text,
        "plus": tuple(parse_boost(part) for part in plus),
        "minus": tuple(parse_boost(part) for part in minus),
        "like": tuple(image_part(part) for part in like),
        "unlike": tuple(image_part(part) for part in unlike),
    }


def image_part(part: str) -> tuple[Image, float]:
    """An image of the command line and its boost. A file that is there is taken by its whole
    name, a caret included."""
    if part != _STDIN and os.path.lexists(part):
        return part, 1.0
    place, boost = parse_boost(part)
    return piped_image() if place == _STDIN else place, boost


def piped_image() -> bytes:
    """The bytes of an image on standard input."""
    data = sys.stdin.buffer.read(_STDIN_BYTES)
    if not data:
        raise QueryError("expected an image on standard input, got nothing")
    return data
