"""Ray: a cluster, and one function carried out over many tasks by its actors.

The only module that imports ray. Without an address a cluster of its own is started on this
machine, for loopback alone, with a token, and ended with the command.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import logging
import os
import platform
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsearch.errors import MissingExtraError, OptionError, RayClusterError
from clipsearch.ray_process import (
    RAY_FOLDER,
    folder_for_sockets,
    import_path,
    interrupts_heard,
    on_loopback,
    quiet_stderr,
    quiet_stdout,
    signals_kept,
)
from clipsearch.threads import worker_count

_INSTALL = "--runner ray needs an extra: pip install 'clipsearch[ray]'"
_AUTH_MODE, _TOKEN, _TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_STORE_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class ActorSize:
    """What one actor is given. cpus : threads and decoder processes go by it; above 0.
    gpus : whole ones, or a fraction of one that several actors share.

    Raises OptionError.
    """

    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.cpus < 1e6:
            raise OptionError(f"an actor needs CPUs: expected more than 0, got {self.cpus:g}")
        if not 0 <= self.gpus < 1e6 or (self.gpus > 1 and self.gpus % 1):
            raise OptionError(f"an actor has whole GPUs, or a fraction of one: got {self.gpus:g}")

    @property
    def text(self) -> str:
        """Such as "4 CPUs and 1 GPU"."""
        told = f"{self.cpus:g} CPU{'s' * (self.cpus != 1)}"
        return told + (f" and {self.gpus:g} GPU{'s' * (self.gpus != 1)}" if self.gpus else "")


@dataclass(frozen=True)
class Machine:
    """What Ray says one machine of a cluster has."""

    cpus: float
    gpus: float

    def room_for(self, size: ActorSize) -> int:
        """How many actors of this size fit."""
        fit = self.cpus / size.cpus
        if size.gpus:
            # A fraction is of one GPU: two actors of 0.6 do not share one.
            each = 1 / (size.gpus if size.gpus >= 1 else 1 / (1 / size.gpus // 1))
            fit = min(fit, self.gpus * each)
        return int(fit + 1e-6)


@dataclass(frozen=True)
class RayCluster:
    """A cluster that this process is connected to.

    address : "HOST:PORT", None for one of its own. is_own : ended with the connection.
    """

    address: str | None
    is_own: bool

    @property
    def place(self) -> str:
        """For messages."""
        return "this machine" if self.address is None else f"the Ray cluster at {self.address}"

    def machines(self) -> list[Machine]:
        """Those that are up."""
        return [
            Machine(node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in ray().nodes()
            if node["Alive"]
        ]

    def room_for(self, size: ActorSize) -> int:
        """How many such actors its machines have room for when nothing else runs there."""
        return sum(machine.room_for(size) for machine in self.machines())

    def check_room(self, size: ActorSize) -> None:
        """Raises RayClusterError when no machine of the cluster has room for one such actor."""
        machines = self.machines()
        if any(machine.room_for(size) for machine in machines):
            return
        largest = max(machines, key=lambda machine: (machine.gpus, machine.cpus), default=None)
        has = "none" if largest is None else f"{largest.cpus:g} CPUs and {largest.gpus:g} GPUs"
        raise RayClusterError(
            f"an actor is to have {size.text}, and the largest machine of {self.place} has {has}: "
            "ask for less with --ray-cpus and --ray-gpus"
        )


def ray() -> Any:
    """The module, imported now. Raises MissingExtraError."""
    # Nobody's business, and no questions asked on the terminal.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Else Ray says that this will change one day. Actors without a GPU are told of their device.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray as module
    except ImportError:
        raise MissingExtraError(_INSTALL) from None
    return module


@contextmanager
def connected(
    address: str | None = None, *, cpus: float | None = None, gpus: float | None = None
) -> Iterator[RayCluster]:
    """Connect to a cluster for the block.

    address : "HOST:PORT" of a cluster that this machine is part of, or "auto" for the one it is
        part of; None starts one on this machine, whose processes end with the block, or when
        this process is killed. Inside a process that is connected already, that connection
        is used, and stays.
    cpus, gpus : what a cluster of its own says it has; None is what there is.

    A cluster of its own has a token of its own unless the environment says otherwise; for one
    with an address the token is where Ray looks for it (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH,
    ~/.ray/auth_token).

    Raises MissingExtraError, OptionError, and RayClusterError when the cluster cannot be reached or
    has other versions of Ray or Python.
    """
    check_address(address)
    module = ray()
    if module.is_initialized():
        yield RayCluster(module.get_runtime_context().gcs_address, is_own=False)
        return
    with _token_for(address), _joined(module, address, cpus, gpus) as cluster:
        yield cluster


@contextmanager
def _joined(
    module: Any, address: str | None, cpus: float | None, gpus: float | None
) -> Iterator[RayCluster]:
    folder = folder_for_sockets() if address is None else None
    try:
        with quiet_stdout():
            _start(module, address, folder, cpus, gpus)
            try:
                yield RayCluster(address, is_own=address is None)
            finally:
                with signals_kept():
                    module.shutdown()
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(
    module: Any,
    address: str | None,
    folder: Path | None,
    cpus: float | None,
    gpus: float | None,
) -> None:
    options: dict[str, Any] = {
        "address": address or "local",
        "include_dashboard": None if address else False,
        "log_to_driver": bool(os.environ.get("CLIPSEARCH_DEBUG")),
        "logging_level": logging.INFO if os.environ.get("CLIPSEARCH_DEBUG") else logging.CRITICAL,
    }
    if folder is not None:
        options |= {
            "num_cpus": max(1, round(cpus or 0), worker_count()),
            "num_gpus": None if gpus is None else round(gpus),
            "object_store_memory": _STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(folder / RAY_FOLDER),
            "job_config": module.job_config.JobConfig(_py_driver_sys_path=import_path()),
        }
    with quiet_stderr():
        try:
            if address is not None and address != "auto":
                _check_versions(address)
            loopback = on_loopback() if folder is not None else contextlib.nullcontext()
            with interrupts_heard(), loopback:
                module.init(**options)
        except RayClusterError:
            raise
        except KeyboardInterrupt:
            with signals_kept():
                module.shutdown()
            raise
        except Exception as error:  # of many kinds, RuntimeError and Ray's own among them
            with contextlib.suppress(Exception), signals_kept():
                module.shutdown()
            raise RayClusterError(_why_not_connected(address, error)) from error


def _check_versions(address: str) -> None:
    """Ask the cluster itself, once: ``ray.init`` asks twenty times and more, for minutes.

    Raises RayClusterError for other versions, and what Ray raises for another token.
    """
    client = importlib.import_module("ray._raylet").GcsClient(address=address)
    saved = client.internal_kv_get(b"CLUSTER_METADATA", b"cluster", timeout=_ANSWER_SECONDS)
    if not saved:
        return
    metadata = json.loads(saved)
    there = metadata.get("ray_version"), metadata.get("python_version")
    here = ray().__version__, platform.python_version()
    if there != here:
        raise RayClusterError(
            f"the Ray cluster at {address} has Ray {there[0]} and Python {there[1]}, this machine "
            f"Ray {here[0]} and Python {here[1]}: install the same on all"
        )


def _why_not_connected(address: str | None, error: Exception) -> str:
    said = " ".join(str(error).split())
    if address is None:
        return f"Ray cannot be started on this machine: {said[:300]}"
    if "uthenticat" in said or "AuthToken" in said:
        return (
            f"the Ray cluster at {address} wants another token: put the cluster's into "
            "RAY_AUTH_TOKEN, or its file into RAY_AUTH_TOKEN_PATH, and set RAY_AUTH_MODE=token"
        )
    if address == "auto":
        return "no Ray cluster is running on this machine: start one with 'ray start', or name it"
    if "waiting for GCS" in said:
        return f"what answers at {address} is no Ray cluster: is that the port of its head (6379)?"
    return (
        f"the Ray cluster at {address} cannot be joined: this machine has to be part of it "
        f"('ray start --address {address}'), or run the command on one that is ({said[:200]})"
    )


def check_address(address: str | None) -> None:
    """Look whether something listens there, which Ray itself says after minutes.

    Raises OptionError, RayClusterError, and MissingExtraError where Ray is not installed.
    """
    has_ray = False
    with contextlib.suppress(ImportError, ValueError):  # something keeps it from being imported
        has_ray = importlib.util.find_spec("ray") is not None
    if not has_ray:
        raise MissingExtraError(_INSTALL)
    if address in (None, "auto"):
        return
    assert address is not None
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OptionError(
            f"expected the address of a Ray cluster as HOST:PORT (such as 10.0.0.7:6379) or "
            f"auto, got {address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:  # the latter of a name that can be no host's
        reason = getattr(error, "strerror", None) or error
        raise RayClusterError(
            f"nothing answers at {address} ({reason}): is the Ray cluster up, "
            "and is that the port of its head (6379 unless told otherwise)?"
        ) from error


@contextmanager
def _token_for(address: str | None) -> Iterator[None]:
    """Ray listens where others may reach it, and does what it is told: not without a token.
    A cluster of its own gets one of its own; for another the one that is there is used."""
    before = {name: os.environ.get(name) for name in (_AUTH_MODE, _TOKEN)}
    has_one = bool({_TOKEN, _TOKEN_PATH} & os.environ.keys())
    if address is None:
        if os.environ.setdefault(_AUTH_MODE, "token") == "token" and not has_one:
            os.environ[_TOKEN] = secrets.token_hex(32)
    elif has_one or Path.home().joinpath(".ray", "auth_token").is_file():
        os.environ.setdefault(_AUTH_MODE, "token")
    _look_at_token_again()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)


def _look_at_token_again() -> None:
    """Ray reads the environment when it is imported, which may be long ago."""
    with contextlib.suppress(ImportError, AttributeError, TypeError):  # an older one
        raylet = importlib.import_module("ray._raylet")
        raylet.Config.initialize("")
        raylet.AuthenticationTokenLoader.instance().reset_cache()
