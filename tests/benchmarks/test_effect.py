"""The training benchmark: networks that only their subsampling disturbs, runs that come out the same, whole tables."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.digits import Digits, read_mnist, small_digits
from benchmarks.effect import __main__ as command
from benchmarks.effect.experiment import DATA, QUICK, TAPS, Recipe, runs
from benchmarks.effect.networks import NETWORKS, variant
from benchmarks.effect.page import COLUMNS, page
from benchmarks.effect.results import append, read
from benchmarks.effect.summary import METRICS, Summary, spread

SMOKE = replace(QUICK, epochs=3, rounds=1, slid=50)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("effect") / "effect.jsonl"
    command.run_all(SMOKE, 1, path)
    return path


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("name", NETWORKS)
def test_only_subsampling_notices_a_circular_shift(name: str, taps: int) -> None:
    network = variant(name, taps, seed=0).eval()
    x = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        still, whole, odd = (network(x.roll((s, s), (2, 3))) for s in (0, 8, 3))
    torch.testing.assert_close(whole, still, rtol=0, atol=1e-6)
    assert not torch.allclose(odd, still, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_variant_of_a_seed_starts_with_the_same_weights(name: str) -> None:
    plain, other = variant(name, 1, seed=0), variant(name, 1, seed=1)
    for taps in TAPS[1:]:
        smooth = variant(name, taps, seed=0)
        assert {d.filt_size for d in smooth.meta["blurify"].rewritten} == {(taps, taps)}
        for key, value in plain.state_dict().items():
            assert torch.equal(value, smooth.state_dict()[key]), key
    assert not torch.equal(next(plain.parameters()), next(other.parameters()))


@pytest.mark.slow
def test_every_variant_learns(results: Path) -> None:
    found = read(results)
    assert set(found) == set(runs(SMOKE, 1))
    for run, line in found.items():
        # A guess is right once in ten.
        assert line["accuracy"][0] > 70, (run, line)
        assert all(line[metric][1] <= line[metric][0] <= line[metric][2] for metric in METRICS)


@pytest.mark.slow
def test_the_table_has_every_variant(results: Path) -> None:
    text = page(read(results))
    for network in NETWORKS:
        for name in ("plain", "filter 2", "filter 3", "filter 4", "filter 5"):
            rows = [line for line in text.splitlines() if line.startswith(f"| {network} | {name} |")]
            # Means, and differences except for the plain network.
            assert len(rows) == (1 if name == "plain" else 2)
            assert rows[0].count("|") == len(COLUMNS) + 3
        assert f"- {network}: mean consistency " in text


@pytest.mark.slow
def test_the_same_seed_gives_the_same_line_and_finished_runs_are_skipped(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = results.read_text().splitlines()
    path = tmp_path / "effect.jsonl"
    path.write_text("".join(line + "\n" for line in lines[1:]))
    command.run_all(SMOKE, 1, path)
    assert sorted(path.read_text().splitlines()) == sorted(lines)
    monkeypatch.setitem(DATA, "digits", lambda: pytest.fail("read the images of runs that are done"))
    command.run_all(SMOKE, 1, path)


def test_a_line_cut_off_by_a_crash_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "effect.jsonl"
    first, second = runs(SMOKE, 1)[:2]
    append(path, first, {})
    whole = path.read_text()
    path.write_text(whole + whole[:40])
    assert [*read(path)] == [first]
    append(path, second, {})
    assert [*read(path)] == [first, second]


def test_intervals_over_seeds() -> None:
    assert str(spread([1.0])) == "1.00"
    # Student's t of two degrees of freedom times the standard error: 4.303 * 1 / sqrt(3).
    assert str(spread([1.0, 2.0, 3.0])) == "2.00 ± 2.48"


def test_differences_are_taken_within_a_seed() -> None:
    recipe = Recipe("mnist", 32, 1, 1, 1, 1)
    found = {
        run: {"consistency": [10.0 * run.seed + run.taps, 0, 0]} for run in runs(recipe, 3) if run.network == "vgg"
    }
    change = Summary(found, "mnist").change("vgg", 3, "consistency")
    assert (change.mean, change.half) == (2.0, 0.0)


def test_a_seed_that_is_not_done_is_left_out_of_the_means() -> None:
    every = runs(Recipe("mnist", 32, 1, 1, 1, 1), 2)
    found = {run: {"consistency": [10.0 * run.seed, 0, 0]} for run in every}
    assert Summary(found, "mnist").seeds == [0, 1]
    del found[every[-1]]
    summary = Summary(found, "mnist")
    assert summary.seeds == [0]
    assert summary.mean("vgg", 1, "consistency").mean == 0


def test_small_digits_are_all_of_them() -> None:
    digits = small_digits()
    assert isinstance(digits, Digits)
    assert (len(digits.pictures), len(digits.test)) == (1200, 597)
    assert digits.pictures.dtype == torch.uint8
    assert (int(digits.pictures.min()), int(digits.pictures.max())) == (0, 255)
    assert digits.labels[:4].tolist() == [0, 1, 2, 3]


def test_mnist_is_read_without_running_code() -> None:
    parts = [(np.full((n, 784), 255 / 256, np.float32), np.arange(n)) for n in (3, 2, 1)]
    # The real file names what NumPy 1 called its module.
    old = pickle.dumps(parts, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    digits = read_mnist(io.BytesIO(old))
    assert (digits.pictures.shape, digits.test.shape) == ((5, 28, 28), (1, 28, 28))
    assert digits.labels.tolist() == [0, 1, 2, 0, 1]
    assert int(digits.pictures.min()) == 255
    with pytest.raises(pickle.UnpicklingError, match="is not an array"):
        read_mnist(io.BytesIO(pickle.dumps(Path("x"))))
