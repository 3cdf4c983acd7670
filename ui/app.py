"""The Gradio page: its tabs, and how it is mounted so that its known holes are closed."""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from fastapi import FastAPI

from ui.classify_tab import add_classify_tab
from ui.components import panel
from ui.library import Library
from ui.map_tab import add_map_tab
from ui.mcp_tools import add_mcp_tools
from ui.page_settings import PageSettings
from ui.theme import page_theme
from ui.uploads import KEEP_SECONDS, upload_folder

MOST_WAITING = 64
"""Events of Gradio's forms that wait for their turn; AT_ONCE of each kind are at work."""
AT_ONCE = 2


def build_page(library: Library, settings: PageSettings) -> gr.Blocks:
    """The tabs of the page."""
    upload_folder()  # before the first component, which asks Gradio where it may keep files
    page: gr.Blocks
    with gr.Blocks(
        title="clipsearch",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(KEEP_SECONDS // 6, KEEP_SECONDS),
    ) as page:
        panel("header")
        with gr.Tabs(elem_id="cs-tabs", overflow_behavior="wrap"):
            with gr.Tab("Search", id="search"):
                panel("search")
            with gr.Tab("Classify", id="classify"):
                add_classify_tab(settings)
            with gr.Tab("Discover", id="discover"):
                panel("discover")
            with gr.Tab("Duplicates", id="duplicates"):
                panel("duplicates")
            with gr.Tab("Map", id="map"):
                add_map_tab()
            with gr.Tab("Index", id="index"):
                panel("index")
        if settings.mcp:
            add_mcp_tools(library, settings)
    return page


def mount_page(app: FastAPI, library: Library, settings: PageSettings) -> None:
    """Put the page at the root of ``app``, after all routes of ours."""
    mount_blocks(app, build_page(library, settings), settings)


def mount_blocks(app: FastAPI, page: gr.Blocks, settings: PageSettings) -> None:
    """Put a page of Gradio's at the root of ``app``, with all that it would offer beside closed;
    ``ui.security.add_guards`` closes the rest."""
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=AT_ONCE, api_open=False)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        root_path=settings.root_path or None,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=settings.most_upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=settings.mcp,
        theme=page_theme(),
        app_kwargs={"openapi_url": None, "docs_url": None, "redoc_url": None},
    )
    page.has_launched = True  # without it a mounted page serves any file that an event names
