"""What the results say: totals, timings, and every failure with its cause."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from benchmarks.zoo.ledger import STAGES, Entry, Ledger


def summary(ledger: Ledger) -> str:
    """Totals by stage, front-ends, sites, then the failures."""
    lines = ["stage         run      ok  failed  skipped    seconds"]
    lines += [_stage_line(stage, outcomes(ledger, stage)) for stage in STAGES]
    plans = [o for o in outcomes(ledger, "plan").values() if o["ok"]]
    lines += ["", *_counts("front-ends", Counter(o["front_end"] for o in plans))]
    sites: Counter[str] = Counter()
    for outcome in plans:
        sites.update(outcome["sites"])
    lines += _counts("sites", sites)
    lines += _timings(outcomes(ledger, "plan"))
    lines += ["", "failures", *_failures(ledger)]
    return "\n".join(lines)


def outcomes(ledger: Ledger, stage: str) -> dict[str, Entry]:
    """By model, what the stage gave at the current versions."""
    found = {name: ledger.outcome(name, stage) for name in sorted(ledger.entries)}
    return {name: outcome for name, outcome in found.items() if outcome is not None}


def _stage_line(stage: str, found: dict[str, Entry]) -> str:
    ok = sum(o["ok"] for o in found.values())
    skipped = sum("skipped" in o for o in found.values())
    seconds = sum(o.get("seconds", 0) for o in found.values())
    return f"{stage:10}{len(found):7}{ok - skipped:8}{len(found) - ok:8}{skipped:9}{seconds:11.0f}"


def _counts(title: str, counts: Counter[str]) -> list[str]:
    return [f"{title}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common())]


def _timings(plans: dict[str, Entry]) -> list[str]:
    seconds = sorted((o["trace_seconds"] + o["decide_seconds"], name) for name, o in plans.items() if o["ok"])
    if not seconds:
        return []
    slowest = ", ".join(f"{name} {value:.1f}" for value, name in reversed(seconds[-5:]))
    return [f"plan seconds: median {seconds[len(seconds) // 2][0]:.2f}; slowest {slowest}"]


def _failures(ledger: Ledger) -> Iterator[str]:
    for stage in STAGES:
        for name, outcome in outcomes(ledger, stage).items():
            if not outcome["ok"]:
                cause = outcome.get("error") or f"relative errors {outcome.get('errors')} in {outcome.get('dtype')}"
                where = f" ({' < '.join(reversed(outcome['where'][-2:]))})" if outcome.get("where") else ""
                yield f"{name} {stage}: {cause}{where}"


def smallest_of_families(ledger: Ledger) -> list[str]:
    """Of each family the architecture with the fewest parameters among those that the plan stage has seen."""
    members: dict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for name, outcome in outcomes(ledger, "plan").items():
        if outcome["ok"]:
            members[name.split(":")[0], outcome["family"]].append((outcome["parameters"], name))
    return sorted(min(group)[1] for group in members.values())
