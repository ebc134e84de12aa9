"""Shared helpers: one way to compare outputs, and how the tests are shared out, bounded and regenerated."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from xdist.scheduler import LoadScopeScheduling

from blurify import antialias

# Small tensors gain nothing from a second thread, and on a busy machine threads that wait for each other cost minutes.
torch.set_num_threads(1)
# So do the threads of every process that a test starts.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _imported(request: pytest.FixtureRequest) -> None:
    """Import once what is slow to import, where tests are timed: it is no single test's."""
    if request.config.getoption("--time-limit"):
        torch.export.export(nn.ReLU(), (torch.zeros(1),))
        for name in ("onnx", "onnxruntime", "onnxscript"):
            with contextlib.suppress(ImportError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(name)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the garbage collector what was imported: to look through torch again and again took a sixth of a run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _spared() -> Iterator[None]:
    """Spare it what each file imported besides, once the file's own garbage is gone."""
    yield
    pytest_collection_finish()


def randomize_statistics(model: nn.Module) -> nn.Module:
    """Give every batch-norm statistics and affine values that would show a misplaced norm."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.7, 1.3)
            if module.affine:
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def relative_error(expected: Tensor, actual: Tensor) -> float:
    """Largest difference over the largest expected value; equal shapes, and values not all alike, are required."""
    assert expected.shape == actual.shape
    assert expected.std() > 0
    return float((expected - actual).abs().max() / expected.abs().max())


as_graph = partial(antialias, form="graph")


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The first output of `model` in eval mode, without gradients."""
    model.eval()
    with torch.no_grad():
        out = model(x)
    return out if isinstance(out, Tensor) else out[0]


def tiered(values: Iterable[Any], *everyday: Any) -> list[Any]:
    """Return the values as parameters: those named after them are of the default run, the others of the slow one."""
    values = list(values)
    assert set(everyday) <= set(values)
    return [value if value in everyday else pytest.param(value, marks=pytest.mark.slow) for value in values]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this suite."""
    parser.addoption("--regenerate", action="store_true", help="rewrite the golden plans instead of comparing")
    parser.addoption(
        "--time-limit", type=float, metavar="SECONDS", help="fail each test that is not marked slow and takes longer"
    )


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Run a few named files in this process, which starts sooner than workers do."""
    few = len(config.args) <= 3 and all(".py" in argument for argument in config.args)
    return 0 if few else None


# These start processes, servers or clusters of their own, which are not to compete with each other.
_PROCESSES = tuple(
    f"tests/{name}.py"
    for name in "zoo/test_cluster zoo/test_crashes zoo/test_ledger zoo/test_running recovery/test_team".split()
)
# Long tests that share nothing: they fill the end of a run.
_SINGLE = ("tests/models/", "tests/test_reference.py")


class Sharing(LoadScopeScheduling):
    """Give a worker a module at a time, which keeps its fixtures whole.

    Instead of marks of groups: pytest 9.2 keeps xdist 3.8 from reading those.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(_PROCESSES):
            return "processes"
        return nodeid if nodeid.startswith(_SINGLE) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Sharing | None:
    """Share the tests out as said above, where nothing else is asked for."""
    return Sharing(config, log) if config.getoption("dist") == "loadscope" else None


# A test that only waits, for processes of its own say, is slow too, but on a busy machine every test waits.
_WAITING = 12


@lru_cache
def _slowness() -> float:
    """Return how many times longer this machine takes than the quiet one that limits are meant for."""
    begin = time.process_time()
    sum(number * number for number in range(1_000_000))
    return max(1.0, (time.process_time() - begin) / 0.035)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Hold tests that are not marked slow to the time limit, in processor time, which other load hardly changes."""
    limit = item.config.getoption("--time-limit")
    begin, spent = time.perf_counter(), time.process_time()
    result = yield
    waited, spent = time.perf_counter() - begin, time.process_time() - spent
    bounded = limit and item.get_closest_marker("slow") is None and item.get_closest_marker("zoo") is None
    if bounded and (spent > limit * _slowness() or waited > _WAITING * limit):
        pytest.fail(
            f"{item.nodeid} took {spent:.1f} s of processor time and {waited:.1f} s in all; "
            f"{limit:g} s are allowed: make it faster or mark it slow",
            pytrace=False,
        )
    return result
