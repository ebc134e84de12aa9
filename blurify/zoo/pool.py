"""One process a task: what crashes, hangs or exhausts memory is that task's failure and nobody else's.

Tasks start in the order of their memory, largest first, and none overtakes another, so that the large ones neither
starve nor are left for the end. Every running task has a grant of memory, its process cannot use more, and the grants
together stay within the limit; a task that outgrows its grant runs once more, alone, with all of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import wait as wait_for
from typing import Any

from pebble import ProcessExpired, ProcessPool

from blurify.errors import one_line
from blurify.zoo.settings import FAILED, GIGABYTE, Limits, Record

# Loaded once, by the process from which all others are forked.
PRELOADED = ["blurify.zoo.job", "timm", "torchvision.models.feature_extraction"]


@dataclass(frozen=True)
class Task:
    """A function of a module and its arguments, and the bytes that it is expected to need."""

    name: str
    function: Callable[..., Record]
    arguments: tuple[Any, ...] = ()
    memory: int = GIGABYTE


def run_all(
    tasks: Sequence[Task],
    limits: Limits,
    started: Callable[[Task], None] = lambda task: None,
    stopping: Callable[[], bool] = lambda: False,
) -> Generator[tuple[Task, Record]]:
    """Yield every task with what its function returned or how it was lost, as they end.

    >>> for task, record in run_all([Task("timm:resnet18", weigh, ("timm:resnet18",))], Limits()):
    ...     print(task.name, record["parameters"])
    timm:resnet18 11689512

    No more are started once `stopping()`; those under way are waited for. Closing the generator kills them.
    """
    waiting = [_granted(task, limits) for task in sorted(tasks, key=lambda task: -task.memory)]
    running: dict[Future[Record], Task] = {}
    pool = ProcessPool(max_workers=limits.jobs, max_tasks=1, context=_context())
    try:
        while running or (waiting and not stopping()):
            while waiting and not stopping() and _fits(waiting[0], running, limits):
                task = waiting.pop(0)
                started(task)
                arguments = (task.function, task.arguments, task.memory)
                running[pool.schedule(guarded, args=arguments, timeout=limits.timeout)] = task
            # Not for ever: a signal that asks to stop does not end the wait by itself.
            for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                record = outcome(future, limits)
                if record.get("kind") != "memory":
                    yield task, record
                elif task.memory < limits.memory:
                    waiting.append(replace(task, memory=limits.memory))
                else:
                    allowed = f"needs more than the {limits.memory / GIGABYTE:g} GB of memory that are allowed"
                    yield task, record | {"error": f"{allowed}: {record['error']}"}
    finally:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()


def _granted(task: Task, limits: Limits) -> Task:
    return replace(task, memory=min(max(task.memory, limits.share), limits.memory))


def _fits(task: Task, running: dict[Future[Record], Task], limits: Limits) -> bool:
    used = sum(other.memory for other in running.values())
    return len(running) < limits.jobs and used + task.memory <= limits.memory


def _context() -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def outcome(future: Future[Record], limits: Limits) -> Record:
    """Hold a task's result, or the way in which its process was lost.

    >>> outcome(future, Limits(timeout=5))
    {'status': 'failed', 'kind': 'timeout', 'error': 'was not done within 5 s'}
    """
    try:
        return future.result()
    except FutureTimeoutError:
        return lost("timeout", f"was not done within {limits.timeout:g} s")
    except ProcessExpired as error:
        return _expired(error.exitcode or 0)
    except Exception as error:  # what the function did not catch itself, or could not send
        fact = one_line(error)
        return lost("memory" if isinstance(error, MemoryError) else "error", f"{type(error).__name__}: {fact}")


def _expired(code: int) -> Record:
    if code >= 0:
        return lost("crash", f"the process ended by itself with exit code {code}")
    name = signal.Signals(-code).name
    hint = ", which is what the system does when memory runs out" if name == "SIGKILL" else ""
    return lost("crash", f"the process was ended by {name}{hint}")


def lost(kind: str, error: str) -> Record:
    """Return the record of a task that did not come to an end.

    >>> lost("timeout", "was not done within 600 s")["status"]
    'failed'
    """
    return {"status": FAILED, "kind": kind, "error": error}


def guarded(function: Callable[..., Record], arguments: tuple[Any, ...], memory: int) -> Record:
    """Call the function in a process that may use so much memory, and that does not outlive the one that asked for it.

    >>> guarded(weigh, ("timm:resnet18",), GIGABYTE)
    {'parameters': 11689512}
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_memory(memory)
    return function(*arguments)


def _end_with_parent() -> None:
    process = multiprocessing.parent_process()
    if process is None:
        return
    wait_for([process.sentinel])
    # Nobody is left to take the result: what is half written stays under a name that nobody reads.
    os._exit(1)


def limit_memory(size: int) -> None:
    """Let an allocation fail that exceeds what the process has already by more than `size`, where the system can.

    >>> limit_memory(GIGABYTE)
    """
    with suppress(ImportError, OSError, ValueError):
        import resource

        limit = size + (_data_size() if sys.platform == "linux" else 0)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_size() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
