"""The whole zoo, resumably: `python -m benchmarks.zoo [--stage S] [--pattern G] [--jobs N]`, then `--summary`."""

from __future__ import annotations

import argparse
import time
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.zoo.ledger import STAGES, Ledger
from benchmarks.zoo.summary import smallest_of_families, summary
from benchmarks.zoo.support import support
from blurify.zoo.pool import Task, run_all
from blurify.zoo.settings import GIGABYTE, Limits

RESULTS = Path(__file__).parent.parent / "results" / "zoo.jsonl"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--pattern", default="*", help="glob on names such as timm:resnet18, or a bare architecture")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--limit", type=int, help="at most so many models")
    parser.add_argument("--timeout", type=float, default=300, help="mean seconds that a stage of a model may take")
    parser.add_argument("--memory", type=float, default=12, help="gigabytes that a process may use")
    parser.add_argument("--retry-failed", action="store_true", help="run again what failed")
    parser.add_argument("--again", action="store_true", help="run again what is done, too")
    parser.add_argument("--families", action="store_true", help="only the smallest architecture of each family")
    parser.add_argument("--timm-only", action="store_true")
    parser.add_argument("--torchvision-only", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--summary", action="store_true", help="print what the results say, and run nothing")
    parser.add_argument("--support", type=Path, metavar="PAGE", help="write the page of what is supported, run nothing")
    return parser.parse_args()


def chosen_names(options: argparse.Namespace, ledger: Ledger) -> list[str]:
    from benchmarks.zoo.models import all_names

    libraries = {"timm": not options.torchvision_only, "torchvision": not options.timm_only}
    names = smallest_of_families(ledger) if options.families else all_names()
    names = [name for name in names if libraries[name.split(":")[0]]]
    return [n for n in names if fnmatchcase(n, options.pattern) or fnmatchcase(n.split(":")[1], options.pattern)]


def jobs_left(options: argparse.Namespace, ledger: Ledger) -> list[tuple[str, tuple[str, ...]]]:
    stages = STAGES if options.stage == "all" else (options.stage,)

    def is_left(name: str, stage: str) -> bool:
        outcome = ledger.outcome(name, stage)
        return outcome is None or options.again or (options.retry_failed and not outcome["ok"])

    jobs = [(name, tuple(s for s in stages if is_left(name, s))) for name in chosen_names(options, ledger)]
    return [job for job in jobs if job[1]][: options.limit]


def run(options: argparse.Namespace, ledger: Ledger) -> None:
    from benchmarks.zoo.stages import outcomes_of

    jobs = dict(jobs_left(options, ledger))
    memory = int(options.memory * GIGABYTE)
    limits = Limits(options.jobs, options.timeout * len(STAGES), memory * options.jobs)
    tasks = [Task(name, outcomes_of, (name, stages), memory) for name, stages in jobs.items()]
    begin = time.perf_counter()
    ledger.begin()
    for done, (task, outcomes) in enumerate(run_all(tasks, limits), 1):
        if "error" in outcomes:
            outcomes = {stage: {"ok": False, "error": outcomes["error"]} for stage in jobs[task.name]}
        for stage, outcome in outcomes.items():
            ledger.record(task.name, stage, outcome)
            verdict = "ok" if outcome["ok"] else f"FAILED {outcome.get('error', '')}"
            print(f"{done}/{len(tasks)} {time.perf_counter() - begin:.0f}s {task.name} {stage}: {verdict}", flush=True)
    ledger.compact()


def main() -> None:
    options = parse()
    ledger = Ledger(options.results)
    if options.support:
        options.support.write_text(support(ledger))
        return
    if not options.summary:
        run(options, ledger)
    print(summary(ledger))


if __name__ == "__main__":
    main()
