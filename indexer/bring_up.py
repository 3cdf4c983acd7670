"""What follows the images of an index, after a run over it."""

from __future__ import annotations

from pathlib import Path

from clipsearch.shared_folders import shared_folder
from clipsearch.store import CLUSTERS


def bring_up_discoveries(index: Path) -> None:
    """Put new images into the clusters of the saved discoveries, and into the label sets that
    follow these. Cutting that short loses nothing: whoever opens a discovery does the same."""
    if shared_folder(index, CLUSTERS).is_dir():  # no import where there is nothing to do
        from clipsearch.saved_clusters import follow_index

        follow_index(index)
