"""What the default run is held to: every law has a test in it, and none that takes long."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_runtest_call, pytest_xdist_auto_num_workers
from tests.laws import LAWS

HERE = Path(__file__).parent


def everyday_tests(path: Path) -> set[str]:
    """Return the names of the tests of a file that are not marked as another tier's."""
    body = ast.parse(path.read_text()).body
    marks = [ast.unparse(node) for node in body if isinstance(node, ast.Assign)]
    if any(mark.startswith("pytestmark") and ("mark.slow" in mark or "mark.zoo" in mark) for mark in marks):
        return set()
    tests = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return {test.name for test in tests if not _is_marked(test)}


def _is_marked(test: ast.FunctionDef) -> bool:
    return any(ast.unparse(decorator) in ("pytest.mark.slow", "pytest.mark.zoo") for decorator in test.decorator_list)


@pytest.mark.parametrize("law", LAWS)
def test_every_law_has_a_test_in_the_default_run(law: str) -> None:
    named = [test.partition("::")[::2] for test in LAWS[law]]
    assert named
    assert [(file, test) for file, test in named if test not in everyday_tests(HERE / file)] == []


def test_marked_tests_are_not_of_the_default_run(tmp_path: Path) -> None:
    path = tmp_path / "test_x.py"
    path.write_text("@pytest.mark.slow\ndef test_a(): ...\ndef test_b(): ...\n")
    assert everyday_tests(path) == {"test_b"}
    path.write_text("pytestmark = pytest.mark.slow\ndef test_b(): ...\n")
    assert everyday_tests(path) == set()


def guarded(limit: float | None, *marks: str) -> None:
    """Run a test of a twentieth of a second under the time limit."""
    config = SimpleNamespace(getoption=lambda _: limit)
    item = SimpleNamespace(
        nodeid="a.py::test_a", config=config, get_closest_marker=lambda mark: mark if mark in marks else None
    )
    call = pytest_runtest_call(item)  # type: ignore[arg-type]
    next(call)
    begin = time.process_time()
    while time.process_time() - begin < 0.05:
        pass
    with pytest.raises(StopIteration):
        call.send(None)


def test_a_test_over_the_limit_fails_by_name() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"a\.py::test_a took 0\.[0-9] s of processor .* or mark it slow"):
        guarded(0.001)


@pytest.mark.parametrize(("limit", "marks"), [(None, ()), (30, ()), (0.01, ("slow",)), (0.01, ("zoo",))])
def test_others_pass(limit: float | None, marks: tuple[str, ...]) -> None:
    guarded(limit, *marks)


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [(["tests/a.py"], 0), (["tests/a.py::test_b[c]"], 0), (["tests"], None), (["a.py"] * 4, None)],
)
def test_few_files_run_without_workers(arguments: list[str], workers: int | None) -> None:
    assert pytest_xdist_auto_num_workers(SimpleNamespace(args=arguments)) == workers  # type: ignore[arg-type]
