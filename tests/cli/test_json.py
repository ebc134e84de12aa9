"""What a command prints for people it prints as JSON for programs, figure by figure.

That the figures of `measure` and `recover` are right, their own tests say; of `demo`, see `tests/demo`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import blurify
from blurify.cli.measure_result import About, Measured, Sites
from blurify.cli.pricing import Price
from blurify.cli.recover_result import Report
from blurify.measure.estimate import Estimate
from blurify.recovery.calls import Skip
from blurify.recovery.fits import LayerFit
from blurify.recovery.recover import Recovered
from blurify.sites import Action
from tests.cli.conftest import Run

ARCH = "timm:test_resnet"
TINY = "tests.zoo.subjects:tiny"


def said(run: Run, *arguments: object, code: int = 0) -> Any:
    """What the command says with `--json`: one value, and nothing else."""
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def giga(count: int) -> str:
    return f"{count / 1e9:.3g}"


def test_convert(run: Run, tmp_path: Path) -> None:
    text = run(ARCH, "--input-size", "3,96,128").stdout
    found = said(run, ARCH, "--input-size", "3,96,128", "--force")
    before, after = found["cost"]["before"], found["cost"]["after"]
    assert before["size"] == [3, 96, 128]
    change = f"{after['macs'] / before['macs'] - 1:+.1%}".replace("%", " %")
    assert (
        f"arithmetic {giga(before['macs'])} -> {giga(after['macs'])} GMAC ({change}) for one input of 3x96x128" in text
    )
    assert before["parameters"] == after["parameters"] > 0
    assert 0 < before["activations"] < after["activations"]
    plan = blurify.Plan.from_json(json.dumps(found["plan"]))
    assert plan == blurify.load("test_resnet.blur4.pt").meta["blurify"]
    assert [line.removeprefix("optimized: ") for line in text.splitlines() if line.startswith("optimized: ")] == (
        found["optimized"]
    )
    assert found["proofs"]["ok"]
    assert f"differ by {found['proofs']['identity_error']:.1e} (relative; {found['proofs']['tolerance']:.0e}" in text
    shapes = found["proofs"]["shapes"]
    assert f"{len(shapes)} of {len(shapes)} rewritten sites" in text
    assert f"{found['proofs']['weights']['count']} parameters and buffers compared" in text
    assert found["written"] == "test_resnet.blur4.pt"
    assert len(text.splitlines()) > len(plan.decisions)


def test_convert_what_is_converted(run: Run, tmp_path: Path) -> None:
    run(ARCH, "--no-verify")
    found = said(run, "test_resnet.blur4.pt")
    assert found["written"] is None
    assert {decision["action"] for decision in found["plan"]["decisions"]} == {Action.KEEP}
    assert found["cost"]["before"]["macs"] > 0


def test_a_failed_proof_is_said_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = blurify.Verdict(0.5, 1e-5, (), a_verdict().weights)
    monkeypatch.setattr("blurify.cli.session.verify", lambda *_: failed)
    assert not said(run, ARCH, code=1)["proofs"]["ok"]
    assert list(tmp_path.iterdir()) == []


def a_verdict() -> blurify.Verdict:
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2))
    return blurify.verify(model, blurify.antialias(model))


def test_plan(run: Run) -> None:
    text = run("plan", ARCH).stdout
    decisions = said(run, "plan", ARCH)["decisions"]
    rewritten = [decision for decision in decisions if decision["action"] == "rewrite"]
    assert f"{len(rewritten)} of {len(decisions)} sites are rewritten" in text
    assert all(decision["site"] in text for decision in decisions)


def test_dry_run_of_a_zoo(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"model": TINY, "status": "converted", "sites": {"rewrite": 1, "keep": 0}, "parameters": 2_500_000_000}
    monkeypatch.setattr("blurify.cli.bulk.plan_all", lambda *_: {TINY: record})
    text, planned = run("zoo", TINY, "--dry-run").stdout, said(run, "zoo", TINY, "--dry-run")
    assert (planned["models"], planned["counts"]) == ({TINY: record}, {"converted": 1})
    assert f"{planned['parameters'] / 1e6:.0f} million parameters, about {planned['bytes'] / 1e9:.1f} GB" in text
    assert "2500 million parameters, about 10.0 GB" in text
    assert planned["seconds"] >= 0


def test_zoo(run: Run, tmp_path: Path) -> None:
    found = said(run, "zoo", TINY, "-o", "out", "--jobs", 1)
    record = found["models"][TINY]
    assert (record["status"], record["sites"]["rewrite"], record["sites"]["keep"]) == ("converted", 1, 0)
    assert all(macs > 0 for macs in record["macs"])
    assert (found["index"], found["left"], found["done_before"]) == ("out/index.html", [], 0)
    assert found.pop("models_per_hour") > 0
    again = run("zoo", TINY, "-o", "out", "--json")
    assert json.loads(again.stdout) == found | {"done_before": 1}
    status = said(run, "zoo", "status", "out")
    assert status["models"] == found["models"]
    assert (status["settings"]["filt_size"], status["left"], status["process"]) == (4, [], None)
    text = run("zoo", "status", "out").output
    assert re.search(r"^out: filt_size 4,.*\n1 models: 1 converted\nno run is under way$", text, re.MULTILINE)


ESTIMATES = [Estimate(50.0 + step, 40.0 + step, 60.0 + step, 25) for step in range(8)]


def numbers(value: Any) -> list[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict | list):
        return [number for each in (value.values() if isinstance(value, dict) else value) for number in numbers(each)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def printed(text: str) -> set[str]:
    """Every number with a point in a text."""
    return set(re.findall(r"\d+\.\d+", text))


def roundings(value: Any) -> set[str]:
    """How each number of a JSON value is printed, in one of the units that people read."""
    scales = (1, 1e6, 1e9, 2**20)
    return {f"{abs(n) / scale:.{digits}f}" for n in numbers(value) for scale in scales for digits in (1, 2, 3, 4)}


def test_measure() -> None:
    prices = {
        "a": Price(1_814_073_344, 11_689_512, 9_123_456, 12.345, 46_000_001),
        "b": Price(2_342_000_000, 11_689_512, 20_123_456, 18.9, None),
    }
    models = {"a": {"consistency": ESTIMATES[0]}, "b": {"consistency": ESTIMATES[1]}}
    sites = Sites("b", {"layer1": (ESTIMATES[2], ESTIMATES[3], ESTIMATES[4])}, ("aux1",))
    about = About("pictures", 25, True, "classify", 5, 224, 32, "picture", 0, (0.485,), (0.229,), "bilinear")
    both = {"consistency": ESTIMATES[5], "agreement": ESTIMATES[6]}
    measured = Measured(models, both, prices, sites, about, ["b.png: broken"])
    text, found = str(measured), json.loads(measured.as_json())
    assert len(printed(text)) > 20
    assert printed(text) <= roundings(found)
    assert [found["cost"], found["other"]["cost"]] == [asdict(price) for price in prices.values()]
    assert found["ratio"].keys() == asdict(prices["a"]).keys() - {"file"}
    assert found["ratio"]["milliseconds"] == 18.9 / 12.345
    assert "not run in .eval(): aux1" in text
    assert found["folded_not_run"] == ["aux1"]


def test_recover() -> None:
    layers = (LayerFit("conv2", 0.4321, 0.1234, 1e-4, None, 90, 1000, 10, 1.5), LayerFit("fc", 0.2, 0.2))
    errors, seconds = {"carried": 0.5678, "lstsq": 0.1234}, {"lstsq": 3.25}
    recovered = Recovered(None, layers, {"conv3": Skip.COMPUTED}, errors, seconds, 60)  # type: ignore[arg-type]
    report = Report({"carried": {"agreement": ESTIMATES[0]}}, recovered, "wrote out.pt", 30, ["b.png: broken"])
    text, found = str(report), json.loads(report.as_json())
    assert printed(text) <= roundings(found)
    assert {"0.5678", "0.1234", "50.0", "40.0", "60.0"} <= printed(text)
    fitted = [layer for layer in found["layers"] if layer["ridge"] is not None]
    assert f"{len(fitted)} of {len(found['layers']) + len(found['kept'])} layers behind a blur have new weights" in text
    assert f"from {found['pictures']} images in {sum(found['seconds'].values()):.0f} s" in text
