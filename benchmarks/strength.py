"""The strongest blurs that leave 95 of 100 answers as they were: `python -m benchmarks.strength [--quick]`.

EfficientNet-Lite0 with its ImageNet weights (see `benchmarks.recover`), filter 3, stem kept: the strengths are searched
for and recovered with crops of one half of the photographs, and tested on crops of the other half.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import photographs
from benchmarks.recover import ROOM, WINDOW, efficientnet
from benchmarks.timing import record, table
from blurify import antialias
from blurify.cli.recover_run import draw
from blurify.measure.consistency import agreement, shifted_answers
from blurify.measure.estimate import estimate
from blurify.recovery.searching import strongest
from blurify.recovery.trials import Trial


def tested(networks: dict[str, nn.Module], crops: Tensor, rounds: int) -> list[dict[str, object]]:
    answers = {name: shifted_answers(n, crops, WINDOW, rounds=rounds, batch_size=16) for name, n in networks.items()}
    wanted = answers["original"]
    rows = []
    for name, given in answers.items():
        change = estimate(agreement(given) - agreement(wanted)).as_change()
        same = str(estimate((given == wanted).double().mean((1, 2))))
        rows.append(
            {"network": name, "agreement": same, "consistency": str(estimate(agreement(given))), "change": change}
        )
    return rows


def tell(trial: Trial) -> None:
    print(
        f"{trial.weights}  {trial.strength:.3f}  {trial.agreement}  {trial.consistency}  {trial.change.as_change()}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strength", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few images and trials")
    parser.add_argument("--min-agreement", type=float, default=95.0)
    parser.add_argument("--crops", type=int, help="instead of 256 to search with, and as many to test on")
    parser.add_argument("--trials", type=int, help="instead of 8")
    parser.add_argument("--rounds", type=int, default=2, help="pairs of windows of each test crop")
    parser.add_argument("--picture", type=Path, help="where to draw the trade-off")
    options = parser.parse_args()
    count = options.crops or (48 if options.quick else 256)
    searching, testing = photographs.split(photographs.find())
    print(f"{len(searching)} photographs to search with, {len(testing)} to test on", flush=True)
    crops = photographs.crops(searching, count, WINDOW + ROOM, seed=2)
    original = efficientnet()
    smooth = antialias(original, 3, exclude=["_conv_stem*"])
    begin = time.monotonic()
    found = strongest(
        original,
        smooth,
        crops,
        size=WINDOW,
        min_agreement=options.min_agreement,
        trials=options.trials or (2 if options.quick else 8),
        tell=tell,
    )
    print(f"{found}\n{torch.get_num_threads()} threads, {time.monotonic() - begin:.0f} s", flush=True)
    if options.picture is not None:
        draw(found, options.picture)
    networks = {"original": original, "carried": found.carried, "recovered": found.model}
    rows = tested(networks, photographs.crops(testing, count, WINDOW + ROOM, seed=3), options.rounds)
    print(f"on {count} crops of the other photographs:\n{table(rows)}\nwritten to {record('strength', rows)}")


if __name__ == "__main__":
    main()
