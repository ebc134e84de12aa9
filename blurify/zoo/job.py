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
from blurify.errors import ArgumentError
from blurify.planning.plan import Plan, plan_of
from blurify.rewriting.carrying import carried_out
from blurify.tracing.inputs import as_inputs
from blurify.zoo import architectures, cards, pictures, sources, storage
from blurify.zoo.failures import failure, noted
from blurify.zoo.proving import given_inputs, of_verdict, own_inputs, priced, prove
from blurify.zoo.settings import CONVERTED, FAILED, GIGABYTE, KEPT, LARGE, Record, Settings, versions


def formats() -> list[str]:
    """List the formats that can be written, each under its own name; a pickle next to a native file would share its.

    >>> formats()[:4]
    ['native', 'safetensors', 'pt2', 'onnx']
    """
    native = files.FORMATS["native"]
    return [name for name, form in files.FORMATS.items() if form is native or form.suffix != native.suffix]


def file_of(form: str) -> str:
    """Return the name of a model's file in that format.

    >>> file_of("native")
    'model.pt'
    """
    return f"model{files.FORMATS[form].suffix}"


def check(settings: Settings) -> None:
    """Refuse, before any slow work, what every job would fail of.

    >>> check(Settings(formats=("native", "onnx")))

    Raises:
        ArgumentError: a format is none of ours, or too few images are there.
        BlurifyError: what a format needs is not installed.
        FileError: a folder holds no images.
    """
    for form in settings.formats:
        if form not in formats():
            raise ArgumentError(f"{form!r} is no format of models; give one of {', '.join(formats())}.")
        files.FORMATS[form].check()
    settings.spec()
    pictures.shared_out(settings)


def weigh(name: str) -> Record:
    """How many parameters a model has, and its planned sites are not looked at.

    >>> weigh("timm:resnet18")
    {'parameters': 11689512}
    """
    try:
        return {"parameters": architectures.parameter_count(architectures.on_meta(sources.bare(name)))}
    except Exception as error:
        return failure(error)


def needed_memory(parameters: int, settings: Settings) -> int:
    """Return the bytes that the job of a model of so many parameters is expected to need.

    >>> needed_memory(25_000_000, Settings())
    1400000000
    """
    # Twice the weights, once more while the proof has others, once on their way into a file.
    needed = GIGABYTE + 16 * parameters
    if settings.recover is not None:
        # Two networks more, and the sums that layers are fitted from.
        needed += pictures.MEMORY + GIGABYTE + 8 * parameters
    return needed


def plan(name: str, settings: Settings, most_parameters: int | None = None) -> Record:
    """Plan the conversion of a model without storage for its weights; give the size of one that is too large.

    >>> plan("timm:resnet18", Settings())["sites"]
    {'rewrite': 7, 'keep': 1}
    """
    begin = time.perf_counter()
    try:
        with _own_business():
            model = architectures.on_meta(sources.bare(name))
            count = architectures.parameter_count(model)
            if most_parameters is not None and count > most_parameters:
                return {"status": LARGE, "parameters": count}
            _, made = api.trace_and_plan(model, settings.spec(), as_inputs(given_inputs(name, model)))
        found = _of_plan(model, made, settings) | {"parameters": count}
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
    """Silence the warnings of libraries while they build and trace a model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _made(name: str, settings: Settings, part: Path) -> Record:
    loaded = sources.read(name, pretrained=settings.pretrained)
    model = loaded.model
    inputs = as_inputs(given_inputs(name, model))
    traced, made = api.trace_and_plan(model, settings.spec(), inputs)
    converted = carried_out(made, model, traced, inputs, "auto", optimize=True)
    made = plan_of(converted) or made
    facts = _of_plan(model, made, settings) | {"parameters": architectures.parameter_count(model)}
    if facts["status"] == CONVERTED:
        facts |= priced(name, model, converted)
        verdict = prove(name, model, converted, settings.pretrained)
        facts |= of_verdict(verdict)
        if not verdict.ok:
            return facts | {"status": FAILED, "kind": "proof", "error": " ".join(str(verdict).split())}
        facts |= {"arch": loaded.arch} | _finished(name, settings, loaded, converted, part)
    cards.write(part, name, settings, model, made, facts)
    return facts


def _finished(name: str, settings: Settings, loaded: files.LoadedModel, converted: nn.Module, part: Path) -> Record:
    """Recover, measure and write; what fails of all that was asked for beside the model itself is told as missing."""
    facts: Record = {}
    missing: dict[str, str] = {}
    networks: dict[str, nn.Module] = {"original": loaded.model, "converted": converted}
    if settings.recover is not None:
        with noted("recover", missing):
            recovered, facts["recovered"] = pictures.recovered(settings, loaded, converted)
            networks = {"original": loaded.model, "carried": converted, "recovered": recovered}
            converted = recovered
    if settings.measure is not None or "recovered" in facts:
        with noted("measure", missing):
            facts["measured"] = pictures.measured(settings, loaded, networks)
    files.save(converted, part / file_of("native"), arch=loaded.arch)
    wanted = files.SaveOptions(loaded.arch, own_inputs(name, loaded.model).args[0])
    for form in settings.formats:
        if form != "native":
            with noted(form, missing):
                files.FORMATS[form].write(converted, part / file_of(form), wanted)
    facts["formats"] = [form for form in settings.formats if form not in missing]
    return facts | ({"missing": missing} if missing else {})


def _of_plan(model: nn.Module, made: Plan, settings: Settings) -> Record:
    facts: Record = {"sites": {"rewrite": len(made.rewritten), "keep": len(made.kept)}}
    notes = settings.spec().unmatched([decision.site for decision in made.decisions])
    facts |= {"notes": notes} if notes else {}
    if made.rewritten:
        return {"status": CONVERTED} | facts
    return {"status": KEPT, **facts, "reason": api.no_effect(type(model).__name__, made)}


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
