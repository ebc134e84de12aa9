"""A plan's text from anybody's hand: read to the plan that was written, or refused in one sentence."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from blurify import Plan, plan
from blurify.errors import PlanError

MADE = plan(torchvision.models.squeezenet1_1(), 3, stem=True, exclude="features.5")
CONTENT = json.loads(MADE.to_json())
FIRST = next(index for index, decision in enumerate(CONTENT["decisions"]) if decision["action"] == "rewrite")


def _with(**changes: Any) -> str:
    content = copy.deepcopy(CONTENT)
    content["decisions"][FIRST].update(changes)
    return json.dumps(content)


def _without(field: str) -> str:
    content = copy.deepcopy(CONTENT)
    del content["decisions"][FIRST][field]
    return json.dumps(content)


def _listing(*decisions: Any) -> str:
    return json.dumps({"version": 1, "decisions": decisions})


KEPT = {"site": "a", "kind": "conv", "action": "keep", "reason": "stem"}

CASES = {
    "empty": ("", "it is not JSON (Expecting value"),
    "cut": (MADE.to_json()[:-40], "it is not JSON ("),
    "list": ("[]", "it is a JSON list, not an object"),
    "number": ("1e999", "it is a JSON number, not an object"),
    "nan": ('{"version": NaN, "decisions": []}', "it is not JSON (NaN is no number of JSON)"),
    "infinity": ('{"version": 1, "decisions": [-Infinity]}', "it is not JSON (-Infinity is no number of JSON)"),
    "overflow": ('{"version": 1e999, "decisions": []}', "its version is inf, not the integer 1"),
    "deep": ("[" * 200_000, "it is nested too deeply"),
    "deep inside": (_listing("@").replace('"@"', "[" * 100_000 + "]" * 100_000), "it is nested too deeply"),
    "long": (" " * 16_000_001, "it has 16000001 characters, more than 16000000"),
    "long number": (_with(stride=[0]).replace('"stride": [0', '"stride": [' + "9" * 5000), "it is not JSON ("),
    "no version": ('{"decisions": []}', "its version is None, not the integer 1"),
    "true version": ('{"version": true, "decisions": []}', "its version is True, not the integer 1"),
    "float version": ('{"version": 1.0, "decisions": []}', "its version is 1.0, not the integer 1"),
    "no decisions": ('{"version": 1}', "its 'decisions' are None, not a list"),
    "dict of decisions": ('{"version": 1, "decisions": {}}', "its 'decisions' are a JSON object of 0, not a list"),
    "more": ('{"version": 1, "decisions": [], "run": "rm"}', "it has the unknown field 'run'"),
    "list in list": (_listing([]), "decision 0 is a list of 0, not an object"),
    "text": (_listing("rewrite"), "decision 0 is 'rewrite', not an object"),
    "null": (_listing(KEPT, None), "decision 1 is None, not an object"),
    "nothing": (_listing({}), "decision 0 has no field 'site'"),
    "unknown field": (_with(code="x"), "has the unknown field 'code'"),
    "non-ASCII field": (_with(ändern="x"), r"has the unknown field '\xe4ndern'"),
    "site number": (_with(site=5), "site must be a string, got 5"),
    "site empty": (_with(site=""), "site must not be empty"),
    "kind": (_with(kind="pool"), "kind 'pool' is unknown; it is one of max, avg, conv, "),
    "kind list": (_with(kind=["max"]), "kind a list of 1 is unknown"),
    "kind never rewritten": (_with(kind="blur"), "rewrites a site of kind blur, which is always kept"),
    "action": (_with(action="run"), "action 'run' is unknown; it is one of rewrite, keep"),
    "reason": (_with(reason="because"), "reason 'because' is unknown; it is one of stem, "),
    "no landing": (_without("landing"), "rewrites its site without a 'landing'"),
    "no filter": (_without("filt_size"), "rewrites its site without a 'filt_size'"),
    "no stride": (_without("stride"), "rewrites its site without a 'stride'"),
    "no padding": (_without("pad_type"), "rewrites its site without a 'pad_type'"),
    "landing list": (_with(landing=["x"]), "landing must be a string, got a list of 1"),
    "train landing": (_with(train_landing=None), "train_landing must be a string, got None"),
    "stride text": (_with(stride="2"), "stride must be a list of integers, one per axis, got '2'"),
    "stride number": (_with(stride=2), "stride must be a list of integers, one per axis, got 2"),
    "stride float": (_with(stride=[2.0, 2]), "stride must hold integers, got 2.0"),
    "stride true": (_with(stride=[True, 2]), "stride must hold integers, got True"),
    "stride none": (_with(stride=[0, 2]), "stride must be at least 1, got 0"),
    "stride nested": (_with(stride=[[2], 2]), "stride must hold integers, got a list of 1"),
    "stride long": (_with(stride=[2] * 100_000), "stride must be a list of integers, one per axis, got a list of 1000"),
    "filter negative": (_with(filt_size=[-1, -1]), "filt_size must be at least 1, got -1"),
    "filter enormous": (
        _with(filt_size=[10**9] * 2),
        "has filters of 1000000000 by 1000000000 taps, which",
    ),
    "filter vast": (_with(filt_size=[10**400] * 2), "has filters of an integer of 1329 bits by "),
    "filters together": (
        _with(filt_size=[1024] * 3, stride=[2] * 3, kernel_size=[2] * 3),
        "has filters of 1024 by 1024 by 1024 taps, which is too many",
    ),
    "filter axes": (_with(filt_size=[3]), "has 1 values of 'filt_size' and 2 of 'stride', not one per spatial axis"),
    "kernel axes": (_with(kernel_size=[3] * 3), "has 3 values of 'kernel_size' and 2 of 'stride', not one per "),
    "four axes": (_with(**dict.fromkeys(("stride", "filt_size", "kernel_size"), [2] * 4)), "has 4 values of 'stride'"),
    "padding": (_with(pad_type="mirror"), "pad_type 'mirror' is unknown; use one of refl, "),
    "padding number": (_with(pad_type=0), "pad_type must be a string, got 0"),
    "statistics": (_with(statistics="norm"), "statistics must be a list of strings, got 'norm'"),
    "statistics numbers": (_with(statistics=[1]), "statistics must be a string, got 1"),
    "detail": (_with(detail={}), "detail must be a string, got a JSON object of 0"),
    "kept without a reason": (_listing({"site": "a", "kind": "max", "action": "keep"}), "keeps its site without a 're"),
    "twice": (_listing(KEPT, {**KEPT, "kind": "max"}), "it decides 'a' twice"),
    "long name": (_with(site="x" * 10**6, kind=1), "xxx...'"),
    "new line": (_with(site="a\nb", kind=1), r"'a\nb'"),
    "surrogate": (_with(site="\ud800", kind=1), r"'\ud800'"),
}


@pytest.mark.parametrize(("text", "fact"), CASES.values(), ids=CASES.keys())
def test_refused_in_one_sentence(text: str, fact: str) -> None:
    with pytest.raises(PlanError) as refusal:
        Plan.from_json(text)
    message = str(refusal.value)
    assert message.startswith("this text is no plan of blurify: ")
    assert fact in message
    assert message.endswith("; write one with Plan.to_json().")
    assert message.isascii()
    assert message.isprintable()
    assert len(message) < 600


@pytest.mark.parametrize("text", [None, b"{}", 5, MADE])
def test_what_is_no_text(text: Any) -> None:
    with pytest.raises(PlanError, match=f"A plan is read from text, got a {type(text).__name__}; pass what Plan.to"):
        Plan.from_json(text)


def test_what_a_kept_site_may_be() -> None:
    # A slice backwards over four axes, and what lies in a leaf that is called outside of it too.
    odd = {**KEPT, "kind": "slice", "reason": "not_spatial", "stride": [-1, -1, 2, 0], "kernel_size": [1]}
    hidden = {**KEPT, "kind": "opaque", "reason": "opaque", "detail": "größer 图"}
    read = Plan.from_json(_listing(odd, hidden))
    assert read.decisions[0].stride == (-1, -1, 2, 0)
    assert Plan.from_json(read.to_json()) == read


VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 5), st.integers(), st.floats(), st.text(max_size=5)),
    *(st.lists(st.integers(-1, 5), max_size=4), st.just([]), st.just({}), st.just([[]])),
    st.sampled_from(["max", "conv", "blur", "opaque", "keep", "rewrite", "stem", "reflect", "zero", "é\n"]),
)


@st.composite
def damaged(draw: st.DrawFn) -> str:
    content = copy.deepcopy(CONTENT)
    for _ in range(draw(st.integers(1, 3))):
        decisions = content["decisions"]
        where = draw(st.integers(0, len(decisions) - 1))
        field = draw(st.sampled_from([*sorted(decisions[FIRST]), "reason", "detail", "statistics", "train_landing"]))
        match draw(st.sampled_from(["drop", "field", "decision", "move", "top", "letter"])):
            case "drop":
                decisions[where] = {key: value for key, value in dict(decisions[where]).items() if key != field}
            case "field":
                decisions[where] = {**dict(decisions[where]), field: draw(VALUES)}
            case "decision":
                return json.dumps({**content, "decisions": [*decisions, draw(VALUES)]})
            case "move":
                decisions.append(decisions[where])
            case "top":
                content = {**content, draw(st.sampled_from(["version", "decisions", "x"])): draw(VALUES)}
                return json.dumps(content)
            case "letter":
                text = json.dumps(content)
                at = draw(st.integers(0, len(text) - 1))
                return text[:at] + draw(st.text(max_size=2)) + text[at + 1 :]
    return json.dumps(content)


@settings(max_examples=200, derandomize=True, deadline=None, database=None)
@given(damaged())
def test_any_damage_is_read_or_refused(text: str) -> None:
    with suppress(PlanError):
        read = Plan.from_json(text)
        assert Plan.from_json(read.to_json()) == read
