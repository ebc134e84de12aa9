"""Train plain and antialiased networks on digits and measure both: `python -m benchmarks.effect [--quick]`.

Resumable: runs whose line is in the results are skipped.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.effect.experiment import DATA, MNIST, QUICK, Recipe, carry_out, runs
from benchmarks.effect.page import TITLES, means, page
from benchmarks.effect.picture import draw
from benchmarks.effect.results import append, read
from benchmarks.effect.summary import Summary

RESULTS = Path(__file__).parent.parent / "results" / "effect.jsonl"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effect", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="on the 8x8 digits of scikit-learn, in a minute or two")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path, help="write the page and img/effect.png beside it, run nothing")
    return parser.parse_args()


def run_all(recipe: Recipe, seeds: int, path: Path) -> None:
    """Every run that the file does not have."""
    done = read(path)
    left = [run for run in runs(recipe, seeds) if run not in done]
    if not left:
        return
    digits = DATA[recipe.data]()
    for number, run in enumerate(left):
        start = time.perf_counter()
        figures = carry_out(run, digits)
        append(path, run, figures)
        took = time.perf_counter() - start
        print(f"{number + 1}/{len(left)} {run.network} taps {run.taps} seed {run.seed}: {took:.0f} s", flush=True)


def write_page(path: Path, results: Path) -> None:
    found = read(results)
    path.write_text(page(found))
    picture = path.parent / "img" / "effect.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(draw(Summary(found, MNIST.data), TITLES[MNIST.data]))


def main() -> None:
    options = parse()
    if options.page:
        write_page(options.page, options.results)
        return
    torch.set_num_threads(options.threads)
    recipe = QUICK if options.quick else MNIST
    run_all(recipe, options.seeds, options.results)
    print("\n".join(means(Summary(read(options.results), recipe.data))))


if __name__ == "__main__":
    main()
