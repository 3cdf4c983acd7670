"""--report and --plot: what ``discover`` and ``clusters`` can write to a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipsearch.cli.output import counted, for_display
from clipsearch.cli.stage_progress import StageProgress
from clipsearch.errors import OptionError

if TYPE_CHECKING:
    from clipsearch.clusters import Discovery
    from clipsearch.image_index import ImageIndex

F = TypeVar("F", bound=Callable[..., Any])


def discovery_file_options(function: F) -> F:
    """--report, --plot and --force, for ``DiscoveryFiles``."""
    options = [
        click.option(
            "--report", metavar="FILE.html", type=click.Path(path_type=str),
            help="Write a contact sheet of every cluster, with images like no others and images "
            "too much alike.",
        ),
        click.option(
            "--plot", metavar="FILE", type=click.Path(path_type=str),
            help="Write a map of all images: .html to move about in, or .png. Images that have a "
            "place on it keep it (pip install 'clipsearch[map]').",
        ),
        click.option(
            "--force", is_flag=True, help="Replace a file that --report or --plot would write."
        ),
    ]  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


@dataclass(frozen=True)
class DiscoveryFiles:
    """The files asked for; None for none."""

    report: Path | None
    plot: Path | None
    force: bool

    @classmethod
    def asked(cls, report: str | None, plot: str | None, force: bool) -> DiscoveryFiles:
        """What the options say. Raises OptionError where both are one file."""
        if report is not None and plot is not None and _one_file(report, plot):
            raise OptionError("the report and the map need a file each")
        return cls(
            Path(report) if report is not None else None,
            Path(plot) if plot is not None else None,
            force,
        )

    def check(self, index: ImageIndex) -> None:
        """Raise, before the work is done, where a file could not be written."""
        from clipsearch.cluster_exports import check_map, check_report

        if self.report is not None:
            check_report(index, self.report, force=self.force)
        if self.plot is not None:
            check_map(index, self.plot, force=self.force)

    def write(self, index: ImageIndex, discovery: Discovery, name: str) -> None:
        """Write what was asked for, with a line about each."""
        from clipsearch.cluster_exports import export_cluster_report, export_map
        from clipsearch.odd_images import odd_images

        images = len(discovery.assignment)
        if self.report is not None:
            only = discovery.assignment.ids if discovery.facts.where is not None else None
            with StageProgress() as progress:
                odd = odd_images(
                    index.state(),
                    only,
                    on_progress=lambda done: progress("comparing images", done, images),
                )
            export_cluster_report(
                index, discovery, self.report, title=name, force=self.force,
                outliers=odd.outlier_notes(), duplicates=odd.alike_notes(),
            )  # fmt: skip
            click.echo(f"Wrote {for_display(str(self.report))}", err=True)
        if self.plot is not None:
            with StageProgress() as progress:
                made = export_map(
                    index, discovery, self.plot, title=name, force=self.force,
                    on_progress=lambda done: progress("drawing the map", done, images),
                )  # fmt: skip
            click.echo(f"Wrote {for_display(str(self.plot))}", err=True)
            if made.unshown:
                click.echo(
                    f"Note: {counted(made.unshown, 'name')} could not be written on it, and "
                    "stand as numbers: a .png has English letters only, a map.html has all.",
                    err=True,
                )


def _one_file(*names: str) -> bool:
    return len({os.path.normcase(os.path.realpath(name)) for name in names}) == 1
