"""The strongest blur that leaves enough answers as they were: on the shipped classifier and its digits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blurify
from blurify import demo
from blurify.errors import ArgumentError, ArgumentTypeError
from blurify.measure.aliasing import folded_energy
from blurify.measure.consistency import agreement, shifted_answers
from blurify.measure.estimate import Estimate
from blurify.planning.plan import Plan
from blurify.recovery import searching
from blurify.recovery.recover import Recovered
from blurify.recovery.searching import strongest
from blurify.recovery.sensitivity import STEPS, Effects, Step, applied, with_strengths
from blurify.recovery.trials import Strongest, Trial
from blurify.recovery.ways import Way
from blurify.sites import Reason

SIZE, BUDGET = 40, 97.0


@pytest.fixture(scope="module")
def framed() -> Tensor:
    """Digits with room to shift."""
    return F.pad(demo.load_demo()[1], (3,) * 4)


@pytest.fixture(scope="module")
def original() -> nn.Module:
    return demo.load_demo()[0]


@pytest.fixture(scope="module")
def found(original: nn.Module, framed: Tensor) -> Strongest:
    return strongest(original, blurify.antialias(original, 5), framed[:160], size=SIZE, min_agreement=BUDGET, trials=4)


def test_what_is_chosen_meets_the_budget_on_other_pictures(
    found: Strongest, original: nn.Module, framed: Tensor
) -> None:
    others = framed[300:700]
    wanted = shifted_answers(original, others, SIZE, rounds=1)
    answers = shifted_answers(found.model, others, SIZE, rounds=1)
    assert float((answers == wanted).double().mean()) >= BUDGET / 100
    assert float(agreement(answers).mean()) >= float(agreement(wanted).mean())
    assert 0 < found.chosen.strength < 1
    assert found.chosen.meets(BUDGET)
    plan = found.model.meta["blurify"]
    blurred = {d.site: d.strength for d in plan.rewritten}
    assert blurred == {site: strength for site, strength in found.chosen.strengths.items() if strength}


def test_the_trade_off_goes_from_the_original_to_the_whole_blur(found: Strongest) -> None:
    for trials in ([trial for trial in found.trials if trial.recovered is recovered] for recovered in (False, True)):
        first, last = trials[0], trials[-1]
        assert first.strength == 0
        assert (first.agreement.percent, first.change.percent, first.folded) == (100, 0, 1)
        assert last.strength == 1
        assert last.agreement.percent < BUDGET
        assert not last.meets(BUDGET)
        assert all(one.strength < other.strength for one, other in pairwise(trials))
        assert len(trials) <= 1 + 4
    # The carried weights bear less of the same blurs.
    assert found.trials[-1].recovered
    whole = {trial.recovered: trial.agreement.percent for trial in found.trials if trial.strength == 1}
    assert whole[False] < whole[True]
    text = str(found)
    assert text.count(" * ") == 1
    assert all(site in text for site in found.chosen.strengths)


@pytest.mark.parametrize(
    ("agreed", "change", "meets"),
    [((97, 95, 99), 0.0, True), ((94.9, 93, 99), 0.0, False), ((99, 98, 100), -0.5, False)],
    ids=["enough", "not enough", "less consistent"],
)
def test_what_is_enough(agreed: tuple[float, float, float], change: float, meets: bool) -> None:
    trial = Trial({"a": 0.5}, 0.5, Estimate(*agreed, 9), Estimate(60, 50, 70, 9), Estimate(change, -2, 2, 9))
    assert trial.meets(95) is meets


def test_the_strongest_of_those_that_meet_the_budget_is_chosen(
    original: nn.Module, framed: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(strength: float, agrees: float, change: float) -> Trial:
        agreed = Estimate(agrees, agrees - 1, agrees + 1, 9)
        return Trial({"a": strength}, 1 - strength, agreed, Estimate(60, 50, 70, 9), Estimate(change, -2, 2, 9))

    trials = [trial(0.0, 98, 0), trial(0.2, 97, 1), trial(0.4, 96, 1), trial(0.6, 95.5, -1), trial(1.0, 90, 5)]
    monkeypatch.setattr(searching._Search, "run", lambda *_: trials)
    monkeypatch.setattr(searching._Search, "recovered", lambda search, strengths, pictures: (strengths, pictures.shape))
    found = strongest(original, blurify.antialias(original, 3), framed[:8], size=SIZE, min_agreement=95.0)
    assert found.chosen is trials[2]
    # It is recovered once more, from the middles of all images.
    assert (found.carried, found.recovered) == ({"a": 0.4}, (8, 1, SIZE, SIZE))


@pytest.mark.parametrize(
    ("change", "recovered", "said"),
    [(2.0, False, "with carried weights, the strongest"), (0.5, True, "with recovered weights, the strongest")],
    ids=["carried more consistent", "recovered more consistent"],
)
def test_of_both_ways_the_more_consistent_is_chosen(
    change: float, recovered: bool, said: str, original: nn.Module, framed: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, *others = (decision.site for decision in blurify.plan(original, 3).rewritten)

    def trial(strength: float, change: float, recovered: bool) -> Trial:
        enough = Estimate(98, 97, 99, 9)
        changed = Estimate(change, -2, 4, 9)
        return Trial({site: strength, **dict.fromkeys(others, 0.0)}, 1, enough, enough, changed, recovered)

    trials = [trial(0.1, 3, False), trial(0.2, change, False), trial(0.4, 1, True), trial(0.3, 2.5, True)]
    monkeypatch.setattr(searching._Search, "run", lambda *_: trials)
    found = strongest(original, blurify.antialias(original, 3), framed[:8], size=SIZE, min_agreement=95.0)
    assert found.chosen is trials[2 if recovered else 1]
    assert said in str(found)
    same = all(map(torch.equal, found.model.state_dict().values(), original.state_dict().values()))
    assert same is not recovered
    assert (str(found.recovered) == "the weights are the original's; nothing was fitted") is not recovered


def test_a_site_of_no_strength_is_what_it_was(
    original: nn.Module, framed: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = blurify.plan(original, 3)
    first, *others = (decision.site for decision in whole.rewritten)
    estimate = Estimate(99, 98, 100, 9)
    trials = [Trial({first: x, **dict.fromkeys(others, 0.0)}, 1 - x, estimate, estimate, estimate) for x in (0.0, 0.5)]
    monkeypatch.setattr(searching._Search, "run", lambda *_: trials)
    # A plan of before such sites were kept rewrites them.
    old = Plan.from_json(whole.to_json())
    old = Plan(tuple(replace(d, strength=0.0) if d.site == others[0] else d for d in old.decisions))
    found = strongest(original, old.apply(original), framed[:8], size=SIZE, min_agreement=95.0, method="bn")
    for model in (found.model, found.carried):
        kept = {d.site for d in model.meta["blurify"].kept if d.reason is Reason.NO_BLUR}
        assert kept == set(others)
        assert all(model.get_submodule(site).stride == original.get_submodule(site).stride for site in kept)
        assert [d.site for d in model.meta["blurify"].rewritten] == [first]


def test_both_models_and_the_random_state_are_left_as_found(original: nn.Module, framed: Tensor) -> None:
    smooth = blurify.antialias(original, 3)
    before = [value.clone() for value in (*original.state_dict().values(), *smooth.state_dict().values())]
    state = torch.get_rng_state()
    told = []
    found = strongest(original, smooth, framed[:64], size=SIZE, min_agreement=20.0, trials=1, tell=told.append)
    after = [*original.state_dict().values(), *smooth.state_dict().values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert torch.equal(state, torch.get_rng_state())
    # The whole blur agrees on more than a fifth, and then there is nothing to search for.
    assert [trial.strength for trial in told] == [1.0]
    assert found.chosen.strength == 1.0


def test_the_path_raises_a_part_at_a_time_and_foretells_the_error(original: nn.Module, framed: Tensor) -> None:
    plan = blurify.plan(original, 4)
    pictures = framed[:32, :, 3:43, 3:43].contiguous()
    effects = Effects(original, plan, pictures, 16)
    path = effects.path()
    assert len(path) == 1 + STEPS * len(effects.sites)
    assert path[0].error == 0
    assert path[0].folded == pytest.approx(1)
    assert set(path[-1].parts) == {STEPS}
    for one, other in pairwise(path):
        assert sum(other.parts) == sum(one.parts) + 1
        assert other.folded <= one.folded + 1e-12
    weak = next(step for step in path if sum(step.parts) == STEPS)
    shares = effects.shares(weak)
    with torch.no_grad():
        wanted, given = original(pictures), applied(with_strengths(plan, shares), original, pictures)(pictures)
    error = float((given - wanted).square().sum() / (wanted - wanted.mean(0)).square().sum())
    assert weak.error == pytest.approx(error, rel=0.5)
    whole = folded_energy(blurify.antialias(original, 4), pictures[:16])
    before, after = (sum(shares[:, column].mean() for shares in whole.values()) for column in (0, 1))
    assert path[-1].folded == pytest.approx(float(after / before), rel=1e-3)


class Fragile:
    """A search whose first sites fold most away, and where the blur of the last alone makes answers more consistent."""

    def __init__(self) -> None:
        self.effects = Effects.__new__(Effects)
        self.effects.sites = ["a", "b", "c"]
        self.effects._errors = torch.eye(3, dtype=torch.float64)
        left = 1 - torch.linspace(0, 1, STEPS + 1, dtype=torch.float64)
        self.effects._folded = torch.stack([8 * left, 4 * left, left])
        self.original, self.middle, self.fitted = None, torch.zeros(4), 2

    def strengths(self, step: Step) -> dict[str, float]:
        return self.effects.shares(step)

    def measured(self, step: Step, network: object, recovered: bool) -> Trial:
        agreed, change = 100 * (1 - step.error**0.5), float(step.parts[2] - step.parts[0] - step.parts[1])
        figures = (Estimate(value, value - 1, value + 1, 9) for value in (agreed, 60.0, change))
        return Trial(self.strengths(step), step.folded, *figures, recovered)


def test_where_the_path_gains_nothing_each_site_is_tried_alone() -> None:
    way = Way(Fragile(), lambda strengths, pictures: (None, Recovered(None, (), {}, {}, {}, 0)), False, 80.0, 12, print)
    trials = way.run()
    meeting = [trial.strengths for trial in trials if trial.meets(80.0) and trial.strength]
    assert meeting
    assert all(strengths["c"] > strengths["a"] + strengths["b"] for strengths in meeting)
    alone = [step for step in way.done if sum(map(bool, step.parts)) == 1]
    assert {step.parts.index(max(step.parts)) for step in alone} == {0, 1, 2}
    assert len(trials) <= 1 + 12


def test_every_trial_is_recovered_as_is_asked(
    original: nn.Module, framed: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"method": "bn", "memory": 1 << 30, "batch_size": 7, "seed": 3}
    asked |= {"frozen_norms": True, "epochs": 2, "rate": 0.5}

    def stop(*_: object, **options: object) -> None:
        assert options == asked
        raise ArgumentError("enough.")

    monkeypatch.setattr(searching, "recover", stop)
    with pytest.raises(ArgumentError, match="enough"):
        strongest(original, blurify.antialias(original), framed[:20], size=SIZE, min_agreement=BUDGET, **asked)


def test_a_budget_that_no_blur_meets_is_said(original: nn.Module, framed: Tensor, monkeypatch) -> None:
    monkeypatch.setattr(searching.Trial, "meets", lambda trial, min_agreement: False)
    with pytest.raises(ArgumentError, match=r"nothing is left of the blurs at a min_agreement of 99\.9 %: the weakest"):
        strongest(
            original, blurify.antialias(original, 5), framed[:24], size=SIZE, min_agreement=99.9, trials=2, method="bn"
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"min_agreement": 100.0}, "min_agreement must be above 0 and below 100 %, got 100."),
        ({"min_agreement": float("nan")}, "min_agreement must be above 0 and below 100 %, got nan."),
        ({"trials": 0}, "trials must be at least 1, got 0."),
        ({"size": 46}, "A window of 46 pixels fills the images, so it cannot shift; give larger images."),
        (
            {"images": torch.zeros(3, 1, 46, 46)},
            "The search needs images to fit to and to choose by, and there are 3",
        ),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_said(given: dict[str, object], said: str, original: nn.Module, framed: Tensor) -> None:
    arguments = {"images": framed[:16], "size": SIZE, "min_agreement": 95.0} | given
    with pytest.raises(ArgumentError) as caught:
        strongest(original, blurify.antialias(original, 3), **arguments)
    assert said in str(caught.value)


def test_other_things_than_pictures_are_refused(original: nn.Module) -> None:
    with pytest.raises(ArgumentTypeError, match=r"images must be a float tensor \[N, C, H, W\], got list"):
        strongest(original, blurify.antialias(original, 3), [], size=SIZE, min_agreement=95.0)
