"""The web server of the page: our routes, Gradio's page, and what stands before both."""

from __future__ import annotations

import asyncio
import errno
import logging
import mimetypes
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from clipsearch.errors import ClipsearchError, OptionError
from ui.addresses import ANY_ADDRESS
from ui.api import add_api, add_search_api
from ui.connections import PatientProtocol
from ui.gradio_routes import OUR_ROUTES
from ui.library import Library
from ui.login import session_routes
from ui.map_routes import MAP_MODULES
from ui.page_errors import public_message, status_message, without_places
from ui.page_settings import PageSettings
from ui.security import add_guards
from ui.uploads import limit_pillow

log = logging.getLogger("clipsearch.ui")
STATIC = Path(__file__).parent / "static"
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

_NEXT_PORTS = 20
"""How many ports after the usual one are tried when somebody else listens there."""

_MOST_CONNECTIONS = 1_024
_MOST_HEADER_BYTES = 64 << 10


def create_app(library: Library, settings: PageSettings) -> FastAPI:
    """The whole application, ready to be served."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _answer_errors(app)
    mimetypes.add_type("text/javascript", ".js")
    app.include_router(session_routes(bool(settings.accounts)))
    add_api(app, library, settings)
    app.mount("/page/map", StaticFiles(directory=MAP_MODULES))
    app.mount("/page", StaticFiles(directory=STATIC))
    for below in OUR_ROUTES:  # what is left there is not for Gradio, which has the root, to answer
        app.add_route(f"{below}{{rest:path}}", _nothing_here, methods=_METHODS)
    mount_page(app, library, settings)
    add_guards(app, settings)
    return app


async def _nothing_here(request: Request) -> Response:
    raise HTTPException(404)


def mount_page(app: FastAPI, library: Library, settings: PageSettings) -> None:
    """Gradio's page at the root. Gradio takes seconds to import, and a service needs none."""
    from ui.app import mount_page as mount

    mount(app, library, settings)


def create_service(library: Library, settings: PageSettings) -> FastAPI:
    """The search service: the API of searching and the pictures, without a page and without what
    changes anything."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _answer_errors(app)
    app.include_router(session_routes(bool(settings.accounts)))
    add_search_api(app, library)
    add_guards(app, settings)
    return app


def _answer_errors(app: FastAPI) -> None:
    """One sentence as JSON for everything that goes wrong in a route of ours."""

    @app.exception_handler(ClipsearchError)
    async def refused(request: Request, error: ClipsearchError) -> Response:
        message, status = public_message(error)
        if status >= 500:
            log.error("%s: %s", request.url.path, error)
        return JSONResponse({"error": message}, status)

    @app.exception_handler(RequestValidationError)
    async def misunderstood(request: Request, error: RequestValidationError) -> Response:
        # What was sent is not sent back: Pydantic would quote it.
        first = error.errors()[0] if error.errors() else {"loc": (), "msg": ""}
        name = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str | int))
        what = without_places(" ".join(str(first["msg"]).split()))[:200]
        return JSONResponse({"error": f"{name[:60] or 'question'}: {what}."}, 400)

    @app.exception_handler(HTTPException)
    async def refused_by_route(request: Request, error: HTTPException) -> Response:
        return JSONResponse(
            {"error": status_message(error.status_code)}, error.status_code, error.headers
        )


def listening_socket(settings: PageSettings, may_move: bool) -> socket.socket:
    """A socket that listens where the settings say.

    may_move : whether one of the next ports will do when somebody else listens on this one.
    Raises OptionError when there is none to be had.
    """
    for port in range(settings.port, settings.port + (_NEXT_PORTS if may_move else 1)):
        try:
            return _listen(settings.host, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            reason = error.strerror or str(error)
            raise OptionError(f"cannot listen on {settings.host}, port {port}: {reason}") from error
    if may_move:
        last = settings.port + _NEXT_PORTS - 1
        raise OptionError(
            f"the ports {settings.port} to {last} are all taken: name a free one with --port"
        )
    raise OptionError(
        f"port {settings.port} is taken (by another clipsearch ui?): name another with --port, "
        "or --port 0 for any that is free"
    )


def _listen(host: str, port: int) -> socket.socket:
    # "" would be every address of the machine, and the login is asked for by the name.
    found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)
    family, kind, protocol, _, place = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener


def page_address(settings: PageSettings, port: int) -> str:
    """The address to type on this machine."""
    host = "127.0.0.1" if settings.host in ANY_ADDRESS else settings.host
    if ":" in host:
        host = f"[{host}]"
    return f"http://{host}:{port}{settings.root_path}/"


class _Server(uvicorn.Server):
    """Calls back once it answers, and ends although pages are listening."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for connection in list(self.server_state.connections):
            if isinstance(connection, PatientProtocol) and connection.listens():
                connection.transport.close()
        await super().shutdown(sockets)


def server_of(app: FastAPI, settings: PageSettings, ready: Callable[[], None]) -> uvicorn.Server:
    """The server, to be run on a socket that listens. ready : called once it answers."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        # Believed of a proxy on this machine, and only where the operator named one.
        proxy_headers=bool(settings.root_path or settings.trusted_hosts),
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=2,  # pages that listen would hold it forever
    )
    return _Server(config, ready)


def serve(
    library: Library,
    settings: PageSettings,
    *,
    listener: socket.socket | None = None,
    ready: Callable[[], None] = lambda: None,
    make: Callable[[Library, PageSettings], FastAPI] = create_app,
) -> None:
    """Serve until interrupted; raises KeyboardInterrupt then, as everything that is interrupted.

    listener : of ``listening_socket``, by default a new one. ready : called once it answers.
    make : what is served, the page or the service.
    """
    limit_pillow(settings)
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancelling)
    threading.Thread(target=library.warm_up, name="warm-up", daemon=True).start()
    with listener or listening_socket(settings, may_move=False) as place:
        server_of(make(library, settings), settings, ready).run(sockets=[place])


def _is_no_cancelling(record: logging.LogRecord) -> bool:
    """Whoever ends the page need not read where in the program its questions broke off."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def open_browser(address: str) -> None:
    """Show the page, where there is a screen to show it on."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return  # webbrowser would start one in the terminal, over what we print
    webbrowser.open(address)
