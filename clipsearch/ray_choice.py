"""What a user asks of Ray, and how many actors of which size that makes of a cluster."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass

from clipsearch.errors import OptionError
from clipsearch.ray_cluster import ActorSize, RayCluster, check_address, connected
from clipsearch.threads import worker_count

_MOST_CPUS = 8  # of an actor without a GPU: so many calls of the encoder at a time, and no more


@dataclass(frozen=True)
class RayChoice:
    """address : as for ``connected``. actors : how many at most. cpus, gpus : of each. None
    leaves it to the cluster: an actor for every GPU, with its part of the machine's processors;
    where there are no GPUs, actors of up to eight processors on every machine.

    Raises OptionError for what makes no sense.
    """

    address: str | None = None
    actors: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise OptionError(f"expected 1 actor or more, got {self.actors}")
        ActorSize(1.0 if self.cpus is None else self.cpus, self.gpus or 0.0)

    def check(self) -> None:
        """Look whether the cluster answers, before any work. Raises as ``connected`` does."""
        check_address(self.address)

    def connected(self) -> AbstractContextManager[RayCluster]:
        """Connect; a cluster of its own is made large enough for what was asked."""
        cpus = None if self.cpus is None else math.ceil(self.cpus * (self.actors or 1) - 1e-9)
        if self.cpus is None and self.actors is not None:
            cpus = self.actors
        return connected(self.address, cpus=cpus)

    def size_on(self, cluster: RayCluster) -> ActorSize:
        """Of each actor."""
        machines = cluster.machines()
        gpus = self.gpus
        if gpus is None:
            gpus = float(any(machine.gpus >= 1 for machine in machines))
        if self.cpus is not None:
            return ActorSize(self.cpus, gpus)
        if gpus:
            shares = [
                machine.cpus * gpus / machine.gpus
                for machine in machines
                if machine.gpus >= gpus and machine.cpus >= 1
            ]
            return ActorSize(max(1, math.floor(min(shares, default=1))), gpus)
        smallest = min((machine.cpus for machine in machines if machine.cpus >= 1), default=1)
        if cluster.is_own:
            smallest = min(smallest, worker_count()) / (self.actors or 1)
        return ActorSize(max(1, min(_MOST_CPUS, math.floor(smallest))), gpus)

    def actors_on(self, cluster: RayCluster, size: ActorSize) -> int:
        """How many at most: as many as there is room for, unless it was said."""
        return self.actors or cluster.room_for(size)

    def words(self) -> list[str]:
        """The options that ask for the same on the command line."""
        words = ["--runner", "ray"]
        for option, value in (
            ("--address", self.address),
            ("--ray-actors", self.actors),
            ("--ray-cpus", self.cpus),
            ("--ray-gpus", self.gpus),
        ):
            if value is not None:
                words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
        return words
