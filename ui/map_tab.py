"""The Map tab: all photos as points, those that look alike side by side."""

from __future__ import annotations

from ui.components import panel


def add_map_tab() -> None:
    """Put the tab's content into the tab that is being built; ``static/map.js`` draws it."""
    panel("map")
