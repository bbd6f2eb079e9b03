"""The connection of this process to a Ray cluster, which all open sessions share."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, field

from ddfw import OptionError
from ddfw.remote.shelf import Shelf

#: Environment variables that are set while Ray is in use, and those that Ray itself changes.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_TOUCHED = (*_QUIET, "RAY_AUTH_MODE", "PYTHONBREAKPOINT")
#: Seconds that a cluster may take to accept a connection.
_KNOCK_S = 10.0


def library() -> Any:
    """Imports Ray.

    Raises:
        OptionError: it is not installed.
    """
    state = random.getstate()  # modules that Ray imports draw random numbers
    try:
        import ray
    except ImportError as error:
        raise OptionError('executor ray needs the package ray; install it with `pip install "ddfw[ray]"`') from error
    finally:
        random.setstate(state)
    return ray


@define
class _Connection:
    """The state of the connection.

    Args:
        lock: held while it is opened or closed.
        sessions: how many use it.
        before: environment variables to restore after the last one; None for a connection that others opened.
        handler: of SIGTERM, to restore likewise.
    """

    lock: threading.Lock = field(factory=threading.Lock)
    sessions: int = 0
    before: Mapping[str, str | None] | None = None
    handler: Any = None


_CONNECTION = _Connection()


@contextmanager
def connected(address: str, num_cpus: int | None) -> Iterator[Any]:
    """The library, connected to a cluster: the one that this process uses already, else a running or a new one.

    When the last session closes, a cluster that was started here is shut down and a running one is left as it is. A
    connection that existed before the first session stays.

    Args:
        address: of a running cluster; "" starts one on this machine.
        num_cpus: of a cluster that is started; None for as many as this machine has cores.

    Raises:
        OptionError: Ray is missing, or no cluster answers.
    """
    ray, shared = library(), _CONNECTION
    with shared.lock:
        if not ray.is_initialized():
            _connect(ray, address, num_cpus)
        shared.sessions += 1
    try:
        yield ray
    finally:
        with shared.lock:
            shared.sessions -= 1
            if shared.sessions == 0 and shared.before is not None:
                _disconnect(ray)


def _connect(ray: Any, address: str, num_cpus: int | None) -> None:
    shared = _CONNECTION
    _knock(address)
    shared.before = {name: os.environ.get(name) for name in _TOUCHED}
    shared.handler = signal.getsignal(signal.SIGTERM)
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    new: dict[str, Any] = {"address": "local", "num_cpus": num_cpus, "include_dashboard": False}
    state = random.getstate()
    try:
        ray.init(**(new if not address else {"address": address}), log_to_driver=False, logging_level="error")
    except (RuntimeError, ValueError, OSError) as error:
        _disconnect(ray)
        if address:
            raise _silent(address, error) from error
        raise OptionError(f"Ray does not start on this machine: {_first_sentence(error)}") from error
    except BaseException:
        _disconnect(ray)
        raise
    finally:
        random.setstate(state)
    if shared.handler not in (signal.SIG_DFL, None):
        _restore_handler()  # a program with a handler closes its sessions; without one, Ray's shuts the cluster down


def _knock(address: str) -> None:
    """Tries to connect to host:port, since Ray takes minutes to find out that nothing answers there.

    Raises:
        OptionError: nothing answers.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()
        except (OSError, OverflowError) as error:
            raise _silent(address, error) from error


def _silent(address: str, error: Exception) -> OptionError:
    return OptionError(
        f"no Ray cluster answers at {address!r} ({_first_sentence(error)}); start one with `ray start --head`, set "
        "RAY_AUTH_MODE=token if it asks for a token, or leave address empty for one on this machine",
        "address",
    )


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0][:200] or type(error).__name__


def _disconnect(ray: Any) -> None:
    shared, state = _CONNECTION, random.getstate()
    try:
        ray.shutdown()
    finally:
        random.setstate(state)
        _restore_handler()
        for name, value in (shared.before or {}).items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shared.before = None


def _restore_handler() -> None:
    if threading.current_thread() is threading.main_thread():
        with suppress(TypeError, ValueError):  # the handler was not set from Python
            signal.signal(signal.SIGTERM, _CONNECTION.handler)


def shelf(ray: Any) -> Shelf[Any]:
    """Tensors in Ray's object store; what is handed to a task is a reference."""
    return Shelf(lambda tensor: ray.put(tensor.detach().cpu().contiguous().numpy()))


def require_room(ray: Any, cpus: float, gpus: float) -> None:
    """Checks that a node is large enough for a task, which would otherwise wait for ever.

    Args:
        ray: the library, connected.
        cpus: CPUs that a task reserves.
        gpus: GPUs that a task reserves.

    Raises:
        OptionError: no node is as large as a task.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for name, wanted, kind in (("cpus", cpus, "CPU"), ("gpus", gpus, "GPU")):
        most = max((float(node.get(kind, 0)) for node in nodes), default=0.0)
        if wanted > most:
            raise OptionError(
                f"a task asks for {wanted:g} {kind}s, the largest node of the Ray cluster has {most:g}", name
            )
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        raise OptionError(f"no node of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs", "gpus")
