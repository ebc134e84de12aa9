"""The same tasks on the machines of a Ray cluster.

Every task runs in a process of its own on its machine too, with the same limits of time and memory. What a lost machine
had under way is run again elsewhere; a job that had finished there finds its own files and returns their report, so
each model is made once.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from blurify.errors import ArgumentError, first_line, one_line
from blurify.zoo.pool import Task, lost, run_all
from blurify.zoo.settings import Limits, Record

# How often a task is begun again whose machine was lost.
RETRIES = 5
# Seconds in which an address must answer.
PATIENCE = 5.0

Runner = Callable[..., Generator[tuple[Task, Record]]]


def runner(address: str) -> Runner:
    """Return the pool in which `convert_all` runs its tasks: on the cluster at that address, or here for `local`.

    >>> convert_all(["timm:resnet18"], Settings(), "/shared/zoo", runner=runner("10.0.0.1:6379")).counts
    Counter({'converted': 1})

    Raises:
        ArgumentError: Ray is not installed, or nothing answers at the address.
    """
    ray = connect(address)

    def run(
        tasks: Sequence[Task], limits: Limits, started: Callable[[Task], None], stopping: Callable[[], bool]
    ) -> Generator[tuple[Task, Record]]:
        return _run(ray, tasks, limits, started, stopping)

    return run


def connect(address: str) -> Any:
    """Ray, with a connection to the cluster; one that there is already is kept.

    >>> connect("local").is_initialized()
    True
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise ArgumentError("A cluster needs Ray, which is not here; pip install 'blurify[cluster]'.") from error
    if not ray.is_initialized():
        where = {"include_dashboard": False} if address == "local" else {"address": _checked(address)}
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # what answers may be of another version, or no Ray at all
            fact = one_line(error)
            raise ArgumentError(
                f"The cluster at {address} cannot be used: {fact[:300]}; check its versions."
            ) from error
    return ray


def _checked(address: str) -> str:
    """Ray itself waits long, and says little, where nothing answers."""
    if address == "auto":
        return address
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        raise ArgumentError(f"{address!r} is not the address of a cluster; give HOST:PORT, ray://HOST:PORT or local.")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except (OSError, OverflowError) as error:
        raise ArgumentError(
            f"No cluster answers at {address} within {PATIENCE:g} s ({error}); "
            "start one there with: ray start --head, or use --cluster local."
        ) from error
    return address


def isolated(task: Task, limits: Limits) -> Record:
    """Run a task in a process of its own, on whichever machine this is.

    >>> isolated(Task("timm:resnet18", weigh, ("timm:resnet18",)), Limits())
    {'parameters': 11689512}
    """
    # A new process would import the program that runs here, which is Ray's own worker, to find the function.
    sys.modules["__main__"].__file__ = None
    return next(record for _, record in run_all([task], replace(limits, jobs=1, memory=task.memory)))


def _run(
    ray: Any, tasks: Sequence[Task], limits: Limits, started: Callable[[Task], None], stopping: Callable[[], bool]
) -> Generator[tuple[Task, Record]]:
    remote = ray.remote(isolated)
    needs = {"max_retries": RETRIES, "num_cpus": limits.threads, "num_gpus": 0}
    waiting = sorted(tasks, key=lambda task: -task.memory)
    running: dict[Any, Task] = {}
    try:
        while running or (waiting and not stopping()):
            most, memory = _capacity(ray, limits)
            while waiting and not stopping() and len(running) < most:
                task = waiting.pop(0)
                task = replace(task, memory=min(task.memory, memory))
                started(task)
                running[remote.options(**needs, memory=task.memory, name=task.name).remote(task, limits)] = task
            for reference in ray.wait(list(running), num_returns=1, timeout=0.5)[0]:
                yield running.pop(reference), _fetched(ray, reference)
    finally:
        for reference in running:
            with suppress(Exception):
                ray.cancel(reference, force=True)


def _capacity(ray: Any, limits: Limits) -> tuple[int, int]:
    """How many tasks may be under way, one waiting for each that runs, and the memory of the largest machine."""
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    slots = sum(int(each.get("CPU", 0)) for each in resources) // limits.threads
    # More than any machine has would wait for ever.
    return max(1, 2 * slots), int(max((each.get("memory", 0) for each in resources), default=limits.memory))


def _fetched(ray: Any, reference: Any) -> Record:
    try:
        return dict(ray.get(reference))
    except ray.exceptions.RayError as error:
        return lost(
            "node", f"was lost with its machine {RETRIES + 1} times: {type(error).__name__}: {first_line(error)}"
        )
