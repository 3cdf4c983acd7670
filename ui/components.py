"""Gradio components of the page that Gradio does not have.

They are made by functions and not derived from Gradio's classes: for every class derived from one
of its components Gradio writes a ``.pyi`` file beside the source.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from clipsearch.errors import ClipsearchError
from ui.page_errors import public_message

log = logging.getLogger("clipsearch.ui")

# Gradio compiles this in the browser; the module it loads is a file of ours.
_LOAD = """
import(new URL('page/{module}.js', document.baseURI))
    .then((module) => module.mount(element.firstElementChild, {{ props, trigger, watch }}))
    .catch((error) => console.error('{module}', error));
"""


def panel(module: str, value: str | None = None, visible: bool = True) -> gr.HTML:
    """A part of the page that a module of ours draws: ``ui/static/<module>.js``, which exports
    ``mount(element, {props, trigger, watch})``.

    value : text for the module, most often JSON; ``props.value`` there, and
    ``watch('value', ...)`` tells when an event has changed it.
    """
    return gr.HTML(
        value,
        html_template=f'<div class="cs-panel cs-{module}"></div>',
        js_on_load=_LOAD.format(module=module),
        elem_id=f"cs-{module}",
        apply_default_css=False,
        visible=visible,
    )


def event(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler of a Gradio event whose errors are told as one line, and change nothing else.

    Every value that a browser sends must still be checked by the handler (``ui.checks``): events
    can be called without the page.
    """

    def tell(error: Exception) -> None:
        message, status = public_message(error)
        if status >= 500:
            log.exception("%s", getattr(handler, "__name__", "event"))
        gr.Warning(message, title="")

    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def told_steps(*values: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from handler(*values, **named)
            except (ClipsearchError, OSError, ValueError) as error:
                tell(error)
                yield gr.skip()

        return told_steps

    @functools.wraps(handler)
    def told(*values: Any, **named: Any) -> Any:
        try:
            return handler(*values, **named)
        except (ClipsearchError, OSError, ValueError) as error:
            tell(error)
            return gr.skip()

    return told
