"""One model: from its name and the settings to files in a store, and a record that says what they are.

A job depends on nothing else and changes nothing else, so it may run anywhere, be killed and be run again. If the store
has what it would make, it returns the record of that.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from blurify import api, files
from blurify.cost import cost
from blurify.errors import BlurifyError
from blurify.graph_module import TracedModule
from blurify.planning import Plan
from blurify.proofs import verify
from blurify.tracing.inputs import Inputs
from blurify.verdict import Verdict
from blurify.zoo import architectures, cards, sources, storage
from blurify.zoo.settings import CONVERTED, FAILED, GIGABYTE, KEPT, Record, Settings, versions
from blurify.zoo.telling import randomize

# What can be written, and under which name.
FORMATS = {"native": "model.pt"}


def weigh(name: str) -> Record:
    """How many parameters a model has, and its planned sites are not looked at.

    >>> weigh("timm:resnet18")
    {'parameters': 11689512}
    """
    try:
        return {"parameters": architectures.parameter_count(architectures.on_meta(sources.bare(name)))}
    except Exception as error:
        return failure(error)


def needed_memory(parameters: int) -> int:
    """The bytes that the job of a model of so many parameters is expected to need.

    >>> needed_memory(25_000_000)
    1400000000
    """
    # Twice the weights, once more while the proof has others, once on their way into a file.
    return GIGABYTE + 16 * parameters


def plan(name: str, settings: Settings) -> Record:
    """What converting a model would do, found without storage for its weights.

    >>> plan("timm:resnet18", Settings())["sites"]
    {'rewrite': 7, 'keep': 1}
    """
    begin = time.perf_counter()
    try:
        with _own_business():
            model = architectures.on_meta(sources.bare(name))
            made = api.plan(
                model, settings.filt_size, strength=settings.strength, example_inputs=_given_inputs(name, model)
            )
        found = _of_plan(model, made) | {"parameters": architectures.parameter_count(model)}
    except Exception as error:
        found = failure(error)
    return {"model": name, **found, "seconds": round(time.perf_counter() - begin, 2)}


def convert(name: str, settings: Settings, where: str, threads: int = 1) -> Record:
    """Convert a model, prove it, and put it into the store; of whatever goes wrong, return the record.

    >>> convert("timm:resnet18", Settings(), "converted")["status"]
    'converted'
    """
    torch.set_num_threads(threads)
    begin = time.perf_counter()
    asked: Record = {"model": name, "settings": settings.as_json(), "versions": versions()}
    try:
        store = storage.open_store(where)
        found = storage.finished(store, name, asked["settings"], asked["versions"])
        if found is not None:
            return found
        with _own_business(), store.part() as part:
            record = asked | _made(name, settings, part) | spent(begin)
            if record["status"] != FAILED:
                record["files"] = {path.name: storage.digest(path) for path in sorted(part.iterdir())}
                (part / storage.REPORT).write_text(json.dumps(record, indent=1) + "\n")
                store.put(part, name)
        return record
    except Exception as error:
        return asked | failure(error) | spent(begin)


@contextmanager
def _own_business() -> Iterator[None]:
    """What libraries warn of while they build and trace a model is not what a bulk run is read for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _made(name: str, settings: Settings, part: Path) -> Record:
    loaded = sources.read(name, pretrained=settings.pretrained)
    model = loaded.model
    given = _given_inputs(name, model)
    converted = api.antialias(model, settings.filt_size, strength=settings.strength, example_inputs=given)
    made: Plan = converted.meta["blurify"]
    facts = _of_plan(model, made) | {"parameters": architectures.parameter_count(model)}
    if facts["status"] == CONVERTED:
        facts |= _priced(name, model, converted)
        verdict = prove(name, model, converted, settings.pretrained)
        facts |= _of_verdict(verdict)
        if not verdict.ok:
            return facts | {"status": FAILED, "kind": "proof", "error": " ".join(str(verdict).split())}
        for form in settings.formats:
            files.save(converted, part / FORMATS[form], arch=loaded.arch)
        facts["arch"] = loaded.arch
    cards.write(part, name, settings, model, made, facts)
    return facts


def _given_inputs(name: str, model: nn.Module) -> tuple[torch.Tensor, ...] | None:
    """What must be said because the model takes something else than one picture."""
    if architectures.task(name) in ("video", "optical_flow"):
        return architectures.inputs_of(name, model, architectures.own_shape(name, model)).args
    return None


def _inputs(name: str, model: nn.Module, batch: int = 1) -> Inputs:
    return architectures.inputs_of(name, model, architectures.own_shape(name, model), batch)


def _of_plan(model: nn.Module, made: Plan) -> Record:
    sites = {"rewrite": len(made.rewritten), "keep": len(made.kept)}
    if made.rewritten:
        return {"status": CONVERTED, "sites": sites}
    return {"status": KEPT, "sites": sites, "reason": api.no_effect(model, made)}


def _priced(name: str, model: nn.Module, converted: nn.Module) -> Record:
    example = _inputs(name, model).args
    before, after = cost(model, *example), cost(converted, *example)
    return {"macs": [before.macs, after.macs], "input_size": list(before.size)}


def prove(name: str, model: nn.Module, converted: TracedModule, pretrained: bool) -> Verdict:
    """The proofs, with weights that they can see through, and in float64 where float32 rounds too much.

    >>> prove("timm:resnet18", model, antialias(model), pretrained=False).ok
    True

    Untrained weights are as they were afterwards.
    """
    if pretrained:
        return _proved(name, model, converted)
    state = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    randomize(model, _inputs(name, model, batch=4))
    converted.load_state_dict(model.state_dict())
    verdict = _proved(name, model, converted)
    for each in (model, converted):
        each.load_state_dict(state, strict=False)
    return verdict


def _proved(name: str, model: nn.Module, converted: TracedModule) -> Verdict:
    verdict = verify(model, converted, example_inputs=_inputs(name, model).args)
    if verdict.ok or next(model.parameters()).dtype is not torch.float32:
        return verdict
    for each in (model, converted):
        each.double()
    try:
        return verify(model, converted, example_inputs=_inputs(name, model).args)
    finally:
        # Exact: every value was a float32.
        for each in (model, converted):
            each.float()


def _of_verdict(verdict: Verdict) -> Record:
    return {
        "proofs": {
            "ok": verdict.ok,
            "identity_error": verdict.identity_error,
            "tolerance": verdict.tolerance,
            "shapes": len(verdict.shapes),
            "weights": verdict.weights.count,
            "modes": list(verdict.modes),
        }
    }


def failure(error: Exception) -> Record:
    """The record of what went wrong: of which kind, and one sentence.

    >>> failure(MemoryError())["kind"]
    'memory'
    """
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    # Of an error that is not blurify's own, its type is half of what it says.
    sentence = text if isinstance(error, BlurifyError) else f"{type(error).__name__}: {text}"
    return {"status": FAILED, "kind": kind_of(error), "error": sentence[:1000]}


def kind_of(error: Exception) -> str:
    """Whether it was the disk, the memory, the network, or the model itself.

    >>> kind_of(MemoryError()), kind_of(ValueError())
    ('memory', 'error')
    """
    if storage.is_full(error):
        return "disk"
    if any(_is_memory(each) for each in sources.causes(error)):
        return "memory"
    return "network" if sources.is_network(error) else "error"


def _is_memory(error: BaseException) -> bool:
    words = ("can't allocate memory", "not enough memory", "std::bad_alloc", "cannot allocate memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def spent(begin: float) -> dict[str, Any]:
    """Seconds since, and the most memory that this process had.

    >>> sorted(spent(time.perf_counter()))
    ['peak_memory', 'seconds', 'time']
    """
    record: dict[str, Any] = {"seconds": round(time.perf_counter() - begin, 2), "time": round(time.time(), 1)}
    with suppress(ImportError):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        record["peak_memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return record
