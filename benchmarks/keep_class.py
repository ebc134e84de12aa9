"""For how many architectures `keep_class` holds: `python -m benchmarks.keep_class [--families] [--every N]`.

Of every timm and torchvision architecture, without storage: whether modules can express all that `antialias` rewrites.
Those with a site whose stride is an argument of a function are counted apart. With `--families`, one small network of
each family: whether the outputs of both forms are equal, bit by bit, with random weights, and everything asked for.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.zoo import models
from benchmarks.zoo.stages import outputs
from blurify import antialias
from blurify.api import trace_and_plan
from blurify.planning.spec import Spec
from blurify.rewriting.keep.converting import changes_for
from blurify.sites import Reason
from tests.models.families import FAMILIES

HOLDS, FUNCTIONS, LEFT, NOTHING = "holds", "strides in functions", "sites left", "nothing to rewrite"


def expressible(name: str) -> tuple[str, str]:
    """What becomes of an architecture, and the first site that is left."""
    model = models.make(name)
    given = models.given_inputs(name, model)
    traced, made = trace_and_plan(model, Spec.of(4), given)
    if not made.rewritten:
        return NOTHING, ""
    left = list(changes_for(model, traced, made.rewritten, given).left.values())
    if not left:
        return HOLDS, ""
    in_function = [decision for decision in left if "argument of a function" in decision.detail]
    return FUNCTIONS if in_function else LEFT, f"{len(left)} of {len(made.rewritten)}, {(in_function or left)[0].site}"


def equal(family: str) -> tuple[str, str]:
    """Whether a family's small network gives the same in both forms; what is left is left in both."""
    network = FAMILIES[family]
    name = f"{family.partition(':')[0]}:{network.architecture}"
    model = models.make(name, "cpu", **network.sizes)
    inputs = models.inputs_of(name, model, network.shapes[0])
    kept = antialias(
        model, stem=True, patch_embed=True, example_inputs=inputs.args, keep_class=True, partial=True, inplace=True
    )
    made = kept.meta["blurify"]
    if not made.rewritten:
        return NOTHING, ""
    graph = made.apply(model, inplace=True, form="graph", example_inputs=inputs.args)
    if not same_outputs(graph.eval(), kept.eval(), inputs):
        return "DIFFERS", ""
    left = [decision for decision in made.kept if decision.reason is Reason.NO_MODULE]
    return ("equal, some left", f"{len(left)}, {left[0].site}") if left else ("equal", "")


def same_outputs(one: nn.Module, other: nn.Module, inputs: models.Inputs) -> bool:
    """Whether both models give the same, bit by bit."""
    with torch.no_grad():
        return all(map(torch.equal, *(outputs(model, inputs) for model in (one, other))))


def outcomes(names: list[str], families: bool) -> Iterator[tuple[str, str, str]]:
    """What becomes of each, a failure included."""
    for name in names:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield name, *(equal(name) if families else expressible(name))
        except Exception as error:
            yield name, "fails", f"{type(error).__name__}: {str(error)[:150]}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keep_class", description=__doc__.splitlines()[0])
    parser.add_argument("--families", action="store_true", help="run one small network of each family")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one name in N")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    names = list(FAMILIES if options.families else models.all_names())[:: options.every]
    counts: Counter[str] = Counter()
    for name, outcome, more in outcomes(names, options.families):
        counts[outcome] += 1
        if more or outcome == "DIFFERS":
            print(f"{name}: {outcome} ({more})", flush=True)
    for outcome, count in counts.most_common():
        print(f"{count:5d}  {outcome}")
    of_modules = counts[HOLDS] + counts[LEFT] + counts["fails"]
    if of_modules:
        print(f"holds for {counts[HOLDS]} of {of_modules} ({counts[HOLDS] / of_modules:.1%}) whose sites are modules")


if __name__ == "__main__":
    main()
