"""The options of commands that can work on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from clipsearch.ray_choice import RayChoice

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--runner",
        type=click.Choice(["local", "ray"]),
        default="local",
        help="ray spreads the work over the actors of a Ray cluster, which needs "
        "pip install 'clipsearch[ray]'.",
    ),
    click.option(
        "--address",
        metavar="HOST:PORT",
        envvar="RAY_ADDRESS",
        help="A Ray cluster that this machine is part of, or auto. Without it: one of its own, on "
        "this machine alone.",
    ),
    click.option(
        "--ray-actors",
        type=click.IntRange(min=1),
        metavar="N",
        help="Actors at a time. Without it: as many as there is room for.",
    ),
    click.option(
        "--ray-cpus",
        type=click.FloatRange(min=0, min_open=True),
        metavar="C",
        help="CPUs of each actor.",
    ),
    click.option(
        "--ray-gpus",
        type=click.FloatRange(min=0),
        metavar="G",
        help="GPUs of each actor; 0.5 lets two share one.",
    ),
)


def ray_options(command: Command) -> Command:
    """``--runner``, ``--address``, ``--ray-actors``, ``--ray-cpus`` and ``--ray-gpus``, given to
    the command as ``runner``, ``address``, ``ray_actors``, ``ray_cpus`` and ``ray_gpus``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def ray_choice(
    ctx: click.Context,
    runner: str,
    address: str | None,
    ray_actors: int | None,
    ray_cpus: float | None,
    ray_gpus: float | None,
) -> RayChoice | None:
    """What was asked for; None for the local runner.

    Raises UsageError for options of Ray without ``--runner ray``, OptionError.
    """
    if runner != "ray":
        for name in ("address", "ray_actors", "ray_cpus", "ray_gpus"):
            if ctx.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
                option = "--" + name.replace("_", "-")
                raise click.UsageError(f"{option} is of a Ray cluster: say --runner ray, too")
        return None
    from clipsearch.ray_choice import RayChoice

    return RayChoice(address, ray_actors, ray_cpus, ray_gpus)
