"""A run of one index on many actors, as events: tasks, failures, stragglers, commits.

What it follows is the runner's own rule: the driver cuts the work into shards and hands them out
in order, a few an actor at a time; it commits them in that order, one after the other, and hands
out more between two commits. Nothing here knows of prices or of more than one index
(``scale_simulation.py``).
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cluster:
    """Machines that encode.

    actors : how many encode at a time. rate : images/s of one, reading and decoding included.
    in_flight : shards that an actor has been given and not brought yet. ahead : shards an actor
    that are handed out beyond the last committed one; 0 for no limit. spread : of a shard's time,
    the deviation of its logarithm. slow_share, slow_factor : so many of the actors take so many
    times as long, always. mtbf_hours : of an actor, 0 for never. restart_seconds : until another
    one has its model loaded. tries : of a shard, before it is given up.

    ``in_flight``, ``ahead`` and ``tries`` are those of ``clipsearch.ray_tasks``.
    """

    actors: int
    rate: float
    in_flight: int = 2
    ahead: int = 4
    spread: float = 0.1
    slow_share: float = 0.02
    slow_factor: float = 2.0
    mtbf_hours: float = 24.0
    restart_seconds: float = 90.0
    tries: int = 3


@dataclass(frozen=True)
class Driver:
    """The process that plans and commits.

    plan_seconds : a file, to list it and compare it with what is known. commit_seconds : a commit
    of a shard into an empty index; commit_shard_seconds : more for each shard that is there
    already (the manifest is written whole). merge_every : commits between two merges of the paths
    tables, which takes merge_seconds for every row there is. mtbf_hours : 0 for never.
    restart_seconds : until it plans again.
    """

    plan_seconds: float
    commit_seconds: float
    commit_shard_seconds: float
    merge_every: int
    merge_seconds: float
    mtbf_hours: float = 0.0
    restart_seconds: float = 300.0

    def commit(self, shards: int, rows: int) -> float:
        """Seconds of the commit that adds a shard to ``shards`` of ``rows`` images in all."""
        seconds = self.commit_seconds + self.commit_shard_seconds * shards
        if (shards + 1) % self.merge_every == 0:
            seconds += self.merge_seconds * rows
        return seconds


@dataclass
class IndexRun:
    """What became of one index.

    seconds : from the start of the driver to its last commit. busy : seconds of all actors that
    went into shards which were committed; lost : into work that was done in vain, with the time
    until actors were back. planning, committing : of the driver. waited : that finished shards
    waited to be committed, in all. failed : shards given up.
    """

    images: int
    shards: int
    seconds: float = 0.0
    busy: float = 0.0
    lost: float = 0.0
    planning: float = 0.0
    committing: float = 0.0
    waited: float = 0.0
    actor_deaths: int = 0
    driver_deaths: int = 0
    failed: list[int] = field(default_factory=list)


def simulate(
    images: int, shard_rows: int, cluster: Cluster, driver: Driver, seed: int = 0
) -> IndexRun:
    """One index of ``images`` new images, from nothing to its last commit."""
    return _Simulation(images, shard_rows, cluster, driver, random.Random(seed)).run()


class _Simulation:
    def __init__(
        self, images: int, shard_rows: int, cluster: Cluster, driver: Driver, chance: random.Random
    ) -> None:
        self.cluster, self.driver, self.chance = cluster, driver, chance
        self.images, self.shard_rows = images, shard_rows
        self.result = IndexRun(images, shards=math.ceil(images / shard_rows))
        slow = set(chance.sample(range(cluster.actors), round(cluster.actors * cluster.slow_share)))
        self.factors = [cluster.slow_factor if a in slow else 1.0 for a in range(cluster.actors)]
        self.committed = 0

    def run(self) -> IndexRun:
        result, driver = self.result, self.driver
        now = self._plan(0.0)
        while self.committed < result.shards:
            death = now + self._life(driver.mtbf_hours)
            now = self._until(now, death)
            if self.committed < result.shards:
                result.driver_deaths += 1
                now = self._plan(death + driver.restart_seconds)
        result.seconds = now
        return result

    def _plan(self, now: float) -> float:
        seconds = self.driver.plan_seconds * self.images
        self.result.planning += seconds
        return now + seconds

    def _life(self, hours: float) -> float:
        return self.chance.expovariate(1 / (hours * 3600)) if hours else math.inf

    def _until(self, now: float, death: float) -> float:
        """Goes on from the last commit until all is committed or the driver dies."""
        cluster, result = self.cluster, self.result
        ready = deque(a for _ in range(cluster.in_flight) for a in range(cluster.actors))
        free_at = [now] * cluster.actors
        under_way: list[tuple[float, int, int]] = []  # (end, actor, shard), a heap
        ended: dict[int, float] = {}
        spent: dict[int, float] = {}  # by shard, of the attempt that succeeded
        next_shard = self.committed
        while self.committed < result.shards:
            while under_way and under_way[0][0] <= now:
                end, actor, shard = heapq.heappop(under_way)
                ended[shard] = end
                ready.append(actor)
            while ready and next_shard < result.shards and self._may_start(next_shard):
                actor = ready.popleft()
                end, seconds = self._carry_out(next_shard, actor, max(now, free_at[actor]))
                free_at[actor], spent[next_shard] = end, seconds
                heapq.heappush(under_way, (end, actor, next_shard))
                next_shard += 1
            if self.committed in ended:
                seconds = self.driver.commit(self.committed, self.committed * self.shard_rows)
                if now + seconds > death:
                    break
                result.waited += now - ended.pop(self.committed)
                result.busy += spent.pop(self.committed)
                result.committing += seconds
                self.committed += 1
                now += seconds
            elif under_way[0][0] > death:
                break
            else:
                now = max(now, under_way[0][0])
        # What a dead driver had handed out is done again.
        result.lost += sum(spent.values())
        return now

    def _may_start(self, shard: int) -> bool:
        ahead = self.cluster.ahead * self.cluster.actors
        return not ahead or shard - self.committed < ahead

    def _carry_out(self, shard: int, actor: int, start: float) -> tuple[float, float]:
        """When an actor that begins at ``start`` is done with a shard, and how long that took
        without what was lost."""
        cluster, result = self.cluster, self.result
        rows = min(self.shard_rows, self.images - shard * self.shard_rows)
        for _ in range(cluster.tries):
            chance = self.chance.lognormvariate(-(cluster.spread**2) / 2, cluster.spread)
            seconds = rows / cluster.rate * self.factors[actor] * chance
            life = self._life(cluster.mtbf_hours)
            if life >= seconds:
                return start + seconds, seconds
            result.actor_deaths += 1
            result.lost += life + cluster.restart_seconds
            start += life + cluster.restart_seconds
        result.failed.append(shard)
        return start, 0.0
