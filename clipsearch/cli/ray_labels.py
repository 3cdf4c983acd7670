"""Ray for the commands that label: a cluster for as long as they score."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from clipsearch.cli.stage_progress import StageProgress

if TYPE_CHECKING:
    from clipsearch.ray_choice import RayChoice
    from clipsearch.spread_scoring import Spread


@contextlib.contextmanager
def over_ray(
    choice: RayChoice, *, rows: bool = True, shows_progress: bool = True
) -> Iterator[Spread]:
    """Actors that score what is asked for, while the block lasts. rows : see ``Spread``. Raises as
    ``spread_over_ray``."""
    from clipsearch.ray_labelling import spread_over_ray

    with StageProgress() as progress:

        def show(done: int, images: int) -> None:
            if shows_progress:
                progress("Labelling", done, images)

        def tell(line: str) -> None:
            progress.clear()
            click.echo(line, err=True)

        with spread_over_ray(choice, rows=rows, on_progress=show, tell=tell) as spread:
            yield spread
