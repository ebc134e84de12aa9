"""Models an hour: one worker, two, and Ray on this machine; what pool, ledger and driver cost beside the jobs.

`python -m benchmarks.scale [--quick] [--ray]`. The models are timm's between five and twelve million parameters.
"""

from __future__ import annotations

import argparse
import tempfile
import time

from blurify.zoo import cluster, job, pool, settings
from blurify.zoo.pool import Task
from blurify.zoo.running import Silent, convert_all
from blurify.zoo.settings import Limits, Record, Settings, most_memory

MODELS = [
    *("resnet18", "resnet10t", "efficientnet_b0", "mobilenetv2_100", "densenet121", "regnety_008", "ghostnet_130"),
    *("mixnet_l", "mobilenetv3_large_100", "hardcorenas_f", "resnet14t", "fbnetv3_b", "tinynet_a", "semnasnet_100"),
]


class Clock(Silent):
    """When converting began, and the seconds of all jobs."""

    def begin(self, stage: str, total: int) -> None:
        if stage == "converting":
            self.begun, self.busy = time.perf_counter(), 0.0

    def ended(self, name: str, record: Record) -> None:
        if "seconds" in record:
            self.busy += record["seconds"]


def measure(label: str, names: list[str], jobs: int, runner: object) -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        limits = Limits(jobs, memory=most_memory())
        result = convert_all(names, Settings(), folder, limits=limits, watcher=clock, runner=runner)  # type: ignore[arg-type]
    seconds = time.perf_counter() - clock.begun
    rate = 3600 * len(names) / seconds
    beside = 1 - clock.busy / (jobs * seconds)
    print(
        f"{label:12} {rate:6.0f} models an hour, {seconds:.0f} s for {len(names)}, jobs' own {clock.busy:.0f} s, "
        f"beside them {beside:.1%} of the workers' time; {dict(result.counts)}",
        flush=True,
    )
    return rate


def cost_of_a_task(runner: object, count: int) -> float:
    """Seconds a task that does nothing takes when one follows another: start, report and record of each."""
    tasks = [Task(f"timm:nothing{number}", nothing, (number,)) for number in range(count)]
    begin = time.perf_counter()
    list(runner(tasks, Limits(1), lambda task: None, lambda: False))  # type: ignore[operator]
    return (time.perf_counter() - begin) / count


def nothing(number: int) -> Record:
    return {"number": number}


def driver_cost(ray: object, count: int) -> float:
    """Seconds the driver itself needs for a task: to submit it, to be told of its end, to record it."""
    echo = ray.remote(nothing)  # type: ignore[attr-defined]
    ray.get([echo.remote(0)])  # type: ignore[attr-defined]
    begin = time.process_time()
    for reference in [echo.remote(number) for number in range(count)]:
        ray.get(reference)  # type: ignore[attr-defined]
    return (time.process_time() - begin) / count


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four models")
    parser.add_argument("--ray", action="store_true", help="Ray too; needs blurify[cluster]")
    options = parser.parse_args()
    # One thread a job, whatever the number of workers: else one worker's jobs would be other jobs than two's.
    settings.cores = lambda: 1
    names = [f"timm:{name}" for name in (MODELS[:4] if options.quick else MODELS)]
    # Whoever is first would pay for reading the libraries from the disk.
    list(pool.run_all([Task(names[0], job.weigh, (names[0],))], Limits()))
    one = measure("one worker", names, 1, pool.run_all)
    two = measure("two workers", names, 2, pool.run_all)
    print(f"two workers against one: {two / one:.2f} times")
    print(f"an empty task in the pool: {cost_of_a_task(pool.run_all, 20) * 1000:.0f} ms")
    if options.ray:
        runner = cluster.runner("local")
        print(f"Ray, two workers, against the pool's: {measure('Ray', names, 2, runner) / two:.2f} times")
        print(f"an empty task on Ray: {cost_of_a_task(runner, 20) * 1000:.0f} ms")
        print(f"the driver's processor time a task: {driver_cost(cluster.connect('local'), 500) * 1000:.2f} ms")


if __name__ == "__main__":
    main()
