"""Broken and hostile files by the thousand: each is read, or refused in one sentence, in time and without much memory.

    python -m benchmarks.fuzz [--count 12000] [--seed 0]

Valid files of every readable kind are mutated (see `mutations`), each by its number and the seed alone. They are read
in a child process, which ends after 10 seconds on one file or with 2 GB more than it began with.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

import blurify
from benchmarks.mutations import mutated
from blurify.errors import BlurifyError
from blurify.files import read_model, save_program
from blurify.onnx.converting import open_graph
from blurify.planning.spec import Spec
from blurify.tracing.export import quietly

SECONDS, BYTES = 10, 2 * 2**30
ARCH = "benchmarks.fuzz:tiny"
SIZE, PROGRAMS = (3, 32, 32), ("program", "torchscript")
READ, REFUSED = "read", "refused"


def tiny() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)).eval()


def valid(folder: Path) -> dict[str, Path]:
    """A valid file of every kind; shards are read by their index."""
    torch.manual_seed(0)
    model, converted = tiny(), blurify.antialias(tiny(), stem=True)
    state = model.state_dict()
    torch.save(model, folder / "module")
    torch.save({"epoch": 1, "state_dict": state, "optimizer": {"state": {0: {"m": torch.ones(3)}}}}, folder / "weights")
    torch.save(model, folder / "legacy", _use_new_zipfile_serialization=False)
    torch.save(state, folder / "legacy_weights", _use_new_zipfile_serialization=False)
    blurify.save(converted, folder / "native", arch=ARCH)
    blurify.save(converted, folder / "recipe.safetensors", arch=ARCH)
    safetensors.torch.save_file(state, folder / "safetensors")
    with quietly():
        save_program(model, folder / "program", torch.zeros(1, *SIZE))
        torch.jit.trace(model, torch.zeros(1, *SIZE)).save(str(folder / "torchscript"))
    torch.onnx.export(model, (torch.zeros(1, *SIZE),), folder / "onnx", dynamo=True, external_data=False, verbose=False)
    names = list(state)
    safetensors.torch.save_file({name: state[name] for name in names[:3]}, folder / "shard-1")
    torch.save({name: state[name] for name in names[3:]}, folder / "shard-2")
    places = {name: "shard-1" if at < 3 else "shard-2" for at, name in enumerate(names)}
    (folder / "index").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return {path.name: path for path in sorted(folder.iterdir())}


def converted(path: Path) -> None:
    """Convert an ONNX graph and prove it: what is read of one is the graph itself."""
    graph = open_graph(path, size=SIZE)
    plan = graph.plan(Spec.of())
    graph.prove(plan, graph.converted(plan))


def outcome(path: Path) -> str:
    """What came of reading a file: `read`, `refused`, or what should not have been."""
    try:
        if path.name == "onnx":
            converted(path)
            return READ
        read_model(path, arch=None if path.name in PROGRAMS else ARCH, input_size=SIZE)
    except BlurifyError as error:
        text = str(error)
        if "\n" in text or not text.endswith(".") or len(text) > 5000:
            return f"a message that is not one sentence: {text[:200]!a}"
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
                return f"memory: {str(cause)[:200]!a}"
            cause = cause.__cause__
        return REFUSED
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]!a}"
    return READ


def attempts(numbers: range, seed: int, folder: Path) -> Iterator[tuple[int, str, str]]:
    """Make and read the mutations of these numbers; each depends on its number and the seed alone."""
    kinds = valid(folder)
    contents = {kind: path.read_bytes() for kind, path in kinds.items()}
    names = list(kinds)
    for number in numbers:
        kind = names[number % len(names)]
        rng = random.Random(f"{seed} {number}")
        path = kinds[kind]
        path.write_bytes(mutated(kind, contents[kind], list(contents.values()), rng))
        yield number, kind, outcome(folder / "index" if kind.startswith("shard") else path)
        path.write_bytes(contents[kind])


def work(numbers: range, seed: int) -> None:
    """Be the child: a line for every mutation."""
    torch.set_num_threads(1)
    before = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (before + BYTES, before + BYTES))
    with tempfile.TemporaryDirectory() as folder:
        faulthandler.dump_traceback_later(60, exit=True)  # the first imports what reading needs
        for number, kind, result in attempts(numbers, seed, Path(folder)):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            print(number, kind, result, flush=True)
    faulthandler.cancel_dump_traceback_later()
    print("peak", "KB", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


def run(count: int, seed: int) -> int:
    """Lead the children; print what they found."""
    results: Counter[tuple[str, str]] = Counter()
    findings: list[str] = []
    start, peak, begun = 0, 0, time.monotonic()
    while start < count:
        # Not a pipe, which a child with much to say would fill and wait at.
        with tempfile.TemporaryFile("w+") as said:
            command = [sys.executable, "-m", "benchmarks.fuzz", "--worker", str(start), str(count), "--seed", str(seed)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)
            for line in child.stdout:
                number, kind, result = line.rstrip("\n").split(" ", 2)
                if number == "peak":
                    peak = max(peak, int(result))
                    continue
                start = int(number) + 1
                results[kind, result] += 1
                if result not in (READ, REFUSED):
                    findings.append(f"{number} {kind}: {result}")
            if child.wait() != 0:
                said.seek(0)
                findings.append(f"{start}: the process ended with {child.returncode}: {said.read()[-1500:]}")
                start += 1
    for kind in sorted({kind for kind, _ in results}):
        print(f"{kind:20} {results[kind, READ]:6} read {results[kind, REFUSED]:6} refused")
    print(*findings, sep="\n")
    print(
        f"{count} mutations in {time.monotonic() - begun:.0f} s, peak {peak / 2**20:.2f} GB, {len(findings)} findings"
    )
    return 1 if findings else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(range(*arguments.worker), arguments.seed)
        return 0
    return run(arguments.count, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
