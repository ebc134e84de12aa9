"""Results of many models as lines: one each, and one for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import mean, median
from typing import Any

from blurify.zoo.index import lacking
from blurify.zoo.settings import FAILED, LARGE, Record, Settings

# Failures that are printed at the end; the index has them all.
SHOWN = 20


def outcome(record: Record) -> str:
    """Describe a model's result in one line.

    >>> outcome({"status": "failed", "kind": "timeout", "error": "was not done within 5 s"})
    'failed (timeout): was not done within 5 s'
    """
    if record.get("status") == FAILED:
        return f"failed ({record['kind']}): {record['error']}"
    if record.get("status") == LARGE:
        return f"left out, {record['parameters'] / 1e6:.0f} million parameters"
    sites = record["sites"]
    said = [f"{record['status']}, {sites['rewrite']} sites rewritten and {sites['keep']} kept", *_figures(record)]
    if "seconds" in record:
        said.append(f"{record['seconds']:.1f} s")
    if "missing" in record:
        said.append(f"without {' and '.join(record['missing'])}")
    said += [f"note: {note}" for note in record.get("notes", [])]
    return ", ".join(said)


def _figures(record: Record) -> Iterable[str]:
    if "recovered" in record:
        before, after = error_of(record)
        yield f"error {before:.3g} -> {after:.3g}"
    if "measured" in record:
        before, after = consistency_of(record)
        yield f"consistency {before:.1f} -> {after:.1f} %"


def consistency_of(record: Record) -> tuple[float, float]:
    """Of the original, and of what was written."""
    first, *_, last = record["measured"]["networks"].values()
    return first["consistency"]["percent"], last["consistency"]["percent"]


def error_of(record: Record) -> tuple[float, float]:
    """Of the outputs on held-out images, with the carried weights and with those that were kept."""
    errors = record["recovered"]["errors"]
    return errors["carried"], min(errors.values())


def falls_short(record: Record) -> bool:
    """Return whether something that was asked for is not there.

    >>> falls_short({"status": "converted", "missing": {"onnx": "it has no such operator"}})
    True
    """
    return record.get("status") == FAILED or "missing" in record


def telling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that differ from the defaults, and always the taps, the weights and the formats.

    >>> telling({"filt_size": 4, "measure": None, "recover": None, "calib": 256})
    {'filt_size': 4}
    """
    usual = Settings().as_json()
    always = {"filt_size", "pretrained", "formats", *(["calib"] if settings.get("recover") is not None else [])}
    return {key: value for key, value in settings.items() if key in always or value != usual.get(key)}


def summary(records: Mapping[str, Record]) -> list[str]:
    """Return the counts, the means of what was measured, and what failed or lacks something, with the reasons.

    >>> summary({})
    ['0 models: none yet']
    """
    counts = Counter(record["status"] for record in records.values())
    lines = [f"{len(records)} models: {', '.join(f'{n} {s}' for s, n in sorted(counts.items())) or 'none yet'}"]
    lines += _means(list(records.values()))
    short = [
        f"  {name}: {reason}"
        for name, record in records.items()
        for reason in ([outcome(record)] if record["status"] == FAILED else lacking(record))
    ]
    return lines + short[:SHOWN] + ([f"  and {len(short) - SHOWN} more, in the index"] if len(short) > SHOWN else [])


def _means(records: list[Record]) -> Iterable[str]:
    pairs = [error_of(record) for record in records if "recovered" in record]
    if pairs:
        before, after = (median(column) for column in zip(*pairs, strict=True))
        yield f"error of the outputs after recovery, median of {len(pairs)}: {before:.3g} -> {after:.3g}"
    pairs = [consistency_of(record) for record in records if "measured" in record]
    if pairs:
        before, after = (mean(column) for column in zip(*pairs, strict=True))
        better = sum(second > first for first, second in pairs)
        yield (
            f"consistency under shifts, mean of {len(pairs)}: {before:.1f} -> {after:.1f} %; higher in {better} of them"
        )
