"""The Classify tab: a module of ours draws it and asks the routes of ``classify_routes``."""

from __future__ import annotations

import json

from ui.components import panel
from ui.page_settings import PageSettings


def add_classify_tab(settings: PageSettings) -> None:
    """What stands in the tab; to be called inside it."""
    limits = {
        "labels": settings.most_labels,
        "uploadBytes": settings.most_upload_bytes,
    }
    panel("classify", json.dumps(limits))
