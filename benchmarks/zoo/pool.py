"""Processes that take one model at a time: what crashes, hangs or exhausts memory is one model's failure."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

Job = tuple[str, tuple[str, ...]]
Outcome = dict[str, Any]
Record = Callable[[str, str, Outcome], None]

CONTEXT = multiprocessing.get_context("spawn")


def serve(connection: Connection, gigabytes: float) -> None:
    """The process's loop: take a job, send back each stage's outcome."""
    limit_memory(gigabytes)
    from benchmarks.zoo.stages import Subject, run_stages

    while job := connection.recv():
        name, stages = job
        for stage, outcome in run_stages(Subject(name), stages):
            connection.send((stage, outcome))


def limit_memory(gigabytes: float) -> None:
    """Let an allocation beyond the limit fail, where the system can limit it."""
    try:
        import resource
    except ImportError:
        return
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


class Worker:
    """One process, started anew after each death."""

    def __init__(self, timeout: float, gigabytes: float) -> None:
        self.timeout = timeout
        self.gigabytes = gigabytes
        self.process: Any = None

    def run(self, job: Job) -> Iterator[tuple[str, Outcome]]:
        """The outcome of each stage of the job, as it comes; after a death the remaining stages have none."""
        if self.process is None:
            self._start()
        self.connection.send(job)
        for stage in job[1]:
            # The first job of a process waits for its imports as well.
            if not self.connection.poll(self.timeout):
                self.stop()
                yield stage, {"ok": False, "error": f"no answer within {self.timeout:g} s"}
                return
            try:
                yield self.connection.recv()
            except (EOFError, ConnectionError):
                self.process.join()
                code = self.process.exitcode
                self.stop()
                yield stage, {"ok": False, "error": f"the process died with exit code {code}"}
                return

    def _start(self) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=serve, args=(theirs, self.gigabytes), daemon=True)
        self.process.start()
        theirs.close()

    def finish(self) -> None:
        """Let the process end by itself."""
        if self.process is not None:
            self.connection.send(None)
            self.process.join(10)
            self.stop()

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.connection.close()
            self.process.kill()
            self.process.join()
            self.process = None


def run_all(jobs: list[Job], count: int, timeout: float, gigabytes: float, record: Record) -> None:
    """Run the jobs on so many processes. `record` is called by one thread at a time."""
    waiting = iter(jobs)
    lock = threading.Lock()

    def work() -> None:
        worker = Worker(timeout, gigabytes)
        while True:
            with lock:
                job = next(waiting, None)
            if job is None:
                worker.finish()
                return
            for stage, outcome in worker.run(job):
                with lock:
                    record(job[0], stage, outcome)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
