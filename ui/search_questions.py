"""From the parameters of a search, as an address or a body has them, to a ``Query``; all checked.

Text that comes in names an image by its id, or by the token of one that was handed in; it is
never taken for a path.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

from clipsearch.encoder import Float32
from clipsearch.errors import FilterError, QueryError
from clipsearch.filter_options import FilterOptions
from clipsearch.filters import Filter, all_of, parse_filter
from clipsearch.query import ImagePart, Query, Sort, parse_boost, weighted_texts
from ui.checks import check_choice, check_count, check_text
from ui.page_errors import PageError
from ui.page_settings import PageSettings
from ui.query_images import QueryImages

MOST_HITS = 120
"""At once; more come with the next page."""
MOST_OFFSET = 1_000_000
_MOST_PARTS = 16
"""Of each parameter that may repeat."""
_MOST_WHERE = 4_000

_REPEATABLE = ("plus", "not", "like", "unlike", "in", "camera", "label", "where")
_SINGLE = (
    *("q", "since", "until", "near", "box", "minsize"),
    *("sort", "fold", "cut", "offset", "limit"),
)
PARAMETERS: dict[str, bool] = {
    **dict.fromkeys(_SINGLE, False),
    **dict.fromkeys(_REPEATABLE, True),
}
"""Every parameter of a search, and whether it may repeat."""
_OF_THE_PAGE = ("tab", "open")
"""Of the address of the page; they mean nothing here."""

_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_ID = re.compile(r"\d{1,18}", re.ASCII)
_OPTION = re.compile(r"^--(min-size|[a-z]+):")


@dataclass(frozen=True)
class SearchQuestion:
    """A search, and which of its hits to bring. words : its texts, for a note on their language."""

    query: Query
    offset: int
    limit: int
    words: str

    @property
    def has_cut(self) -> bool:
        """Whether what does not stand out is left out."""
        return self.query.min_score == "auto"


def read_question(
    items: Iterable[tuple[str, str]],
    images: QueryImages,
    settings: PageSettings,
    *,
    handed_in: Float32 | None = None,
    cuts_words: bool = True,
    beside: Collection[str] = (),
) -> SearchQuestion:
    """The question that names and values ask, in the order they came.

    handed_in : the vector of an image that came along, one more that attracts. cuts_words :
    whether, where ``cut`` is not given, words are asked with a cut-off; images alone are not, for
    of what is most like an image there is always a most. beside : further names that the caller
    reads himself.

    Without words, images and filters it asks for all photos, the newest first.
    Raises PageError, FilterError and QueryError, which say what is wrong.
    """
    given = _sorted_out(items, beside)
    one = {name: values[-1] for name, values in given.items()}
    text = " ".join(check_text(one.get("q"), "q", settings).split())
    plus = _texts(given.get("plus", []), "plus", settings)
    minus = _texts(given.get("not", []), "not", settings)
    like = _images(given.get("like", []), "like", images, settings)
    if handed_in is not None:
        like = (*like, handed_in)
    unlike = _images(given.get("unlike", []), "unlike", images, settings)
    where = _filter(given, one, settings)
    has_terms = bool(text or plus or minus or like or unlike)
    sort: Sort = "relevance" if has_terms else "date"
    if one.get("sort"):
        chosen = check_choice(one["sort"], "sort", ("relevance", "date"))
        sort = "date" if chosen == "date" or not has_terms else "relevance"
    default = "auto" if cuts_words and (text or plus) else "none"
    wanted = check_choice(one.get("cut") or default, "cut", ("auto", "none"))
    fold = check_choice(one.get("fold") or "0", "fold", ("0", "1")) == "1"
    if not has_terms and where is None:
        where = parse_filter("id >= 0")
    return SearchQuestion(
        query=Query(
            text=text or None,
            plus=plus,
            minus=minus,
            like=like,
            unlike=unlike,
            where=where,
            min_score="auto" if wanted == "auto" and has_terms else None,
            sort=sort,
            collapse=fold,
        ),
        offset=_number(one.get("offset"), "offset", 0, 0, MOST_OFFSET),
        limit=_number(one.get("limit"), "limit", 60, 1, MOST_HITS),
        words=" ".join([text, *(part for part, _ in weighted_texts((*plus, *minus)))]).strip(),
    )


def read_id(text: str) -> int:
    """An id as an address has it; PageError (404) for anything else."""
    if not _ID.fullmatch(text):
        raise PageError("There is no such image in the index.", status=404)
    return int(text)


def _sorted_out(items: Iterable[tuple[str, str]], beside: Collection[str]) -> dict[str, list[str]]:
    """The values of each name, blank ones left out; PageError for a name that means nothing
    here, for one that stands twice and may not, and for one that stands too often."""
    given: dict[str, list[str]] = {}
    for name, value in items:
        if name in beside or name in _OF_THE_PAGE:
            continue
        if name not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            raise PageError(f"There is no parameter {name[:40]!r}: expected {known}")
        if value.strip():
            given.setdefault(name, []).append(value)
        most = _MOST_PARTS if PARAMETERS[name] else 1
        if len(given.get(name, ())) > most:
            raise PageError(f"{name}: expected at most {most} of them", 413 if most > 1 else 400)
    return given


def _texts(values: list[str], name: str, settings: PageSettings) -> tuple[tuple[str, float], ...]:
    return tuple(_boosted(check_text(value, name, settings), name) for value in values)


def _boosted(text: str, name: str) -> tuple[str, float]:
    try:
        return parse_boost(text)
    except QueryError:
        raise PageError(f"{name}: expected a boost above 0, such as ^2") from None


def _images(
    values: list[str], name: str, images: QueryImages, settings: PageSettings
) -> tuple[ImagePart, ...]:
    found: list[ImagePart] = []
    for value in values:
        named, boost = _boosted(check_text(value, name, settings, most=100).strip(), name)
        image = int(named) if _ID.fullmatch(named) else images.get(named).vector
        found.append((image, boost))
    return tuple(found)


def _number(value: str | None, name: str, default: int, low: int, high: int) -> int:
    if value is None:
        return default
    if not _NUMBER.fullmatch(value.strip()):
        raise PageError(f"{name}: expected a whole number from {low:,} to {high:,}")
    return check_count(int(value), name, low, high)


def _filter(
    given: dict[str, list[str]], one: dict[str, str], settings: PageSettings
) -> Filter | None:
    def texts(name: str, most: int | None = None) -> tuple[str, ...]:
        return tuple(check_text(value, name, settings, most) for value in given.get(name, ()))

    now = datetime.now()
    for name in ("since", "until", "near", "box", "minsize"):
        check_text(one.get(name), name, settings, most=200)
    options = FilterOptions(
        since=one.get("since"),
        until=one.get("until"),
        folders=texts("in", _MOST_WHERE),
        cameras=texts("camera"),
        near=one.get("near"),
        box=one.get("box"),
        min_size=one.get("minsize"),
        with_labels=texts("label"),
    )
    try:
        parts = [options.to_filter(now)]
    except FilterError as error:
        named = _OPTION.sub(lambda match: match[1].replace("-", "") + ":", str(error))
        raise PageError(named.replace("--", "")) from None
    parts += [parse_filter(where, now) for where in texts("where", _MOST_WHERE)]
    return all_of([part for part in parts if part is not None])
