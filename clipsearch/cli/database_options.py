"""``--backend`` and ``--uri``: which vector database answers, and where it is."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.cli.settings import offline
from clipsearch.errors import OptionError

if TYPE_CHECKING:
    from clipsearch.database_place import DatabasePlace
    from clipsearch.database_search import DatabaseSearch

F = TypeVar("F", bound=Callable[..., Any])

LOCAL, MILVUS = "local", "milvus"

uri_option = click.option(
    "--uri",
    "milvus_uri",
    metavar="URI",
    envvar="CLIPSEARCH_MILVUS_URI",
    help="Where Milvus is: http://HOST:19530, or a file ./vectors.db of milvus-lite. A token goes "
    "into CLIPSEARCH_MILVUS_TOKEN.",
)


@dataclass(frozen=True)
class AskedBackend:
    """What is to find the nearest images, as it was asked on the command line."""

    name: str
    uri: str | None

    @property
    def is_local(self) -> bool:
        """Whether the index answers itself."""
        return self.name == LOCAL

    def database(self) -> DatabaseSearch | None:
        """What searches go through; None for the index itself. Raises OptionError without an
        address, MissingExtraError, VectorDatabaseError."""
        if self.is_local:
            return None
        place = asked_place(self.uri)
        from clipsearch.database_search import DatabaseSearch

        return DatabaseSearch(place)


def search_backend_options(function: F) -> F:
    """--backend and --uri of a command that searches, handed on as ``backend: AskedBackend``.
    OptionError for a ``--uri`` that nothing would look at."""

    @functools.wraps(function)
    def ask(search_backend: str, milvus_uri: str | None, **others: Any) -> Any:
        source = click.get_current_context().get_parameter_source("milvus_uri")
        if search_backend == LOCAL and source is click.core.ParameterSource.COMMANDLINE:
            raise OptionError("--uri goes with --backend milvus")
        return function(backend=AskedBackend(search_backend, milvus_uri), **others)

    # The name keeps it apart from the --backend of encoders, which config.toml may set for all.
    option = click.option(
        "--backend",
        "search_backend",
        type=click.Choice([LOCAL, MILVUS]),
        default=LOCAL,
        show_default=True,
        envvar="CLIPSEARCH_SEARCH_BACKEND",
        help="What finds the nearest images: the index itself, or its copy in Milvus, which "
        "'clipsearch sync' makes. Hits and scores are the same.",
    )
    decorated: Any = option(uri_option(ask))
    return decorated  # type: ignore[no-any-return]


def asked_place(uri: str | None) -> DatabasePlace:
    """The place of ``--uri``, with the token of the environment."""
    from clipsearch.database_place import TOKEN_VARIABLE, database_place

    if uri is None:
        raise OptionError(
            "say where Milvus is: --uri http://HOST:19530, or --uri ./vectors.db for milvus-lite"
        )
    place = database_place(uri, os.environ.get(TOKEN_VARIABLE, ""))
    if offline() and not place.is_here:
        raise OptionError(f"CLIPSEARCH_OFFLINE forbids the network, and {uri} is not here")
    return place
