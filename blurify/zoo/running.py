"""Many models, from names to a folder that can be trusted: weigh, order, convert, record, and index what is there."""

from __future__ import annotations

import errno
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from blurify.byte_sizes import size_text
from blurify.errors import ArgumentError, FileError
from blurify.zoo import folder as folders
from blurify.zoo import index, job, pool
from blurify.zoo.ledger import Ledger
from blurify.zoo.pool import Task
from blurify.zoo.settings import FAILED, Limits, Record, Settings, versions
from blurify.zoo.storage import Store, is_full, is_url, open_store
from blurify.zoo.watching import Silent, Watcher

# Of a model that could not be weighed; most are smaller.
UNKNOWN = 100_000_000
Runner = Callable[..., Generator[tuple[Task, Record]]]


@dataclass(frozen=True)
class Result:
    """Hold the records of a finished run, and the models that it did not reach."""

    records: dict[str, Record]
    done_before: int
    left: list[str] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        """How many models ended in which way."""
        return Counter(record["status"] for record in self.records.values())


def convert_all(
    names: Sequence[str],
    settings: Settings,
    where: str,
    *,
    state: Path | None = None,
    limits: Limits | None = None,
    most_parameters: int | None = None,
    retry_failed: bool = False,
    watcher: Watcher | None = None,
    stopping: Callable[[], bool] = lambda: False,
    runner: Runner = pool.run_all,
) -> Result:
    """Convert every model into a folder or to a URL, going on where an earlier run ended.

    >>> convert_all(["timm:resnet18"], Settings(), "converted").counts
    Counter({'converted': 1})

    Args:
        names: what `choose` returned.
        settings: what decides the outputs.
        where: a path, or a URL that fsspec writes to, which then needs `state`.
        state: the folder of the ledger and the index.
        limits: processes, seconds and memory; by default one process.
        most_parameters: leave out models that have more.
        retry_failed: try again what failed, and what lacks something that was asked for.
        watcher: is told how it goes.
        stopping: asked often; once true, no further model is begun.
        runner: `pool.run_all`, or `cluster.runner(...)`.

    Raises:
        FileError: the folder cannot be used, or its disk is full.
        ArgumentError: a URL without `state`, settings that no job can follow, or no model is small enough.
    """
    if state is None and is_url(where):
        raise ArgumentError(f"The ledger of {where} must lie in a folder of this machine; name one with --state.")
    job.check(settings)
    limits, watcher = limits or Limits(), watcher or Silent()
    home = Path(where) if state is None else state
    with folders.opened(home, settings, where) as ledger:
        store, names = open_store(where), list(names)
        run = _Run(names, settings, store, home, limits, watcher, stopping, runner, ledger, most_parameters)
        return run.all(retry_failed)


def plan_all(
    names: Sequence[str],
    settings: Settings,
    limits: Limits,
    watcher: Watcher,
    stopping: Callable[[], bool],
    most_parameters: int | None = None,
) -> dict[str, Record]:
    """Plan the conversion of every model and write nothing; give the size of those that are too large.

    >>> plan_all(["timm:resnet18"], Settings(), Limits(), Silent(), lambda: False)["timm:resnet18"]["sites"]
    {'rewrite': 7, 'keep': 1}
    """
    job.check(settings)
    watcher.begin("planning", len(names))
    records = {}
    tasks = [Task(name, job.plan, (name, settings, most_parameters)) for name in names]
    with closing(pool.run_all(tasks, limits, lambda task: watcher.started(task.name), stopping)) as ended:
        for task, record in ended:
            records[task.name] = {"model": task.name} | record
            watcher.ended(task.name, record)
    return records


@dataclass
class _Run:
    names: list[str]
    settings: Settings
    store: Store
    home: Path
    limits: Limits
    watcher: Watcher
    stopping: Callable[[], bool]
    runner: Runner
    ledger: Ledger
    most_parameters: int | None
    ended: set[str] = field(default_factory=set)

    def all(self, retry_failed: bool) -> Result:
        """Weigh and convert what is left, then write the index."""
        left = [name for name in self.names if not self._is_done(name, retry_failed)]
        try:
            lost = self._weigh(left)
            self._leave_out_large()
            left = [name for name in left if name in self.names]
            self.ledger.begin(self.names, versions=versions(), left=len(left))
            self._convert([name for name in left if name not in lost])
            index.write(self.home, self.ledger)
        except BaseException as error:
            with suppress(OSError):
                index.write(self.home, self.ledger)
            if is_full(error):
                raise FileError(self._full()) from error
            raise
        records = {name: self.ledger.models[name] for name in self.names if name in self.ledger.models}
        return Result(records, len(self.names) - len(left), [name for name in left if name not in self.ended])

    def _is_done(self, name: str, retry_failed: bool = False) -> bool:
        record = self.ledger.models.get(name)
        if record is None:
            return False
        if retry_failed and (record["status"] == FAILED or "missing" in record):
            return False
        return record["status"] == FAILED or self.store.holds(record)

    def _leave_out_large(self) -> None:
        most = self.most_parameters
        if most is None:
            return
        asked, known = len(self.names), self.ledger.parameters
        self.names = [name for name in self.names if (known.get(name) or 0) <= most]
        if not self.names:
            raise ArgumentError(f"None of the {asked} models has {most:,} parameters or less; allow more.")

    def _weigh(self, left: list[str]) -> set[str]:
        """Count parameters, each model in a process, since to build it may be what hangs; return what was lost so."""
        unknown = [name for name in left if name not in self.ledger.parameters]
        self.watcher.begin("weighing", len(unknown))
        found: dict[str, int | None] = {}
        for task, record in self._run([Task(name, job.weigh, (name,)) for name in unknown]):
            if record.get("kind") in ("timeout", "crash", "memory"):
                self._record(task.name, record)
            else:
                found[task.name] = record.get("parameters")
            self.watcher.ended(task.name, record)
        if found:
            self.ledger.weighed(found)
        return self.ended.copy()

    def _convert(self, left: list[str]) -> None:
        self.watcher.begin("converting", len(left))
        known = self.ledger.parameters
        for task, record in self._run([self._task(name, known[name] or UNKNOWN) for name in left if name in known]):
            if record.get("kind") == "disk":
                raise OSError(errno.ENOSPC, record["error"])
            if record["status"] != FAILED and not self.store.holds(record):
                raise FileError(
                    f"{task.name} was converted, but {self.store.where} does not have its files as seen from here; "
                    "give an output that every machine sees as this one does."
                )
            self._record(task.name, record)
            self.watcher.ended(task.name, record)

    def _record(self, name: str, record: Record) -> None:
        self.ledger.add({"model": name} | record)
        self.ended.add(name)

    def _task(self, name: str, parameters: int) -> Task:
        arguments = (name, self.settings, self.store.where, self.limits.threads)
        return Task(name, job.convert, arguments, job.needed_memory(parameters, self.settings))

    def _run(self, tasks: list[Task]) -> Generator[tuple[Task, Record]]:
        with closing(
            self.runner(tasks, self.limits, lambda task: self.watcher.started(task.name), self.stopping)
        ) as ended:
            yield from ended

    def _full(self) -> str:
        left = [name for name in self.names if not self._is_done(name)]
        weights = sum(4 * (self.ledger.parameters.get(name) or UNKNOWN) for name in left)
        needed = weights * len(self.settings.formats) + 10**5 * len(left)
        free = "" if is_url(self.store.where) else f" ({size_text(shutil.disk_usage(self.home).free)} are free)"
        return (
            f"The disk of {self.store.where} is full: the {len(left)} remaining models need about "
            f"{size_text(needed)}{free}; free some space and run the same command again to continue."
        )
