"""`blurify FILE.onnx` and `blurify plan FILE.onnx`: the graph in the file is planned, edited, proved and written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click

from blurify import files
from blurify.api import no_effect
from blurify.cli import report, session
from blurify.cli.options import Request, default_output
from blurify.errors import ArgumentError, FileError
from blurify.files.atomic import write_atomically
from blurify.measure.cost import Cost
from blurify.onnx.running import require_onnx
from blurify.planning.plan import Plan, moved_grid


@dataclass(frozen=True)
class Opened:
    """An ONNX file that was read and planned."""

    request: Request
    graph: Any
    plan: Plan
    remark: str = ""

    @property
    def remarks(self) -> list[str]:
        """Return what a user should know besides the plan."""
        moved = [moved_grid(self.plan)] if self.plan.moved else []
        return [*([self.remark] if self.remark else []), *moved]


def check_options(request: Request, form: files.Format | None, model_form: str, *, dynamic_size: bool) -> None:
    """Refuse what cannot be asked of an ONNX graph.

    >>> check_options(request, None, "auto", dynamic_size=False)

    Raises:
        ArgumentError: it is asked for.
    """
    if form is not None and form.name != "onnx":
        raise ArgumentError(
            f"{request.model} is an ONNX graph, which is written as one; name the output *.onnx, or convert the "
            "PyTorch model that it was exported from."
        )
    if model_form == "class":
        raise ArgumentError(f"{request.model} is an ONNX graph, which has no class to keep; remove --form.")
    if dynamic_size:
        raise ArgumentError(f"{request.model} is an ONNX graph, whose dynamic shapes are kept; remove --dynamic-size.")
    if request.arch is not None:
        raise ArgumentError(f"{request.model} is an ONNX graph, which needs no --arch; remove it.")


def open_onnx(request: Request) -> Opened:
    """Read the graph that a command line names, and plan its conversion.

    >>> open_onnx(request).plan.rewritten
    (...)
    """
    require_onnx()
    from blurify.onnx.converting import open_graph

    path = Path(request.model)
    with report.stage("reading"):
        files.check_size([path], path, request.max_size)
        graph = open_graph(path, request.inputs, request.input_size)
    with report.stage("planning"):
        plan = graph.plan(session.spec_of(request))
    if request.chose_filter or all(shift.most <= 1 for shift in plan.moved):
        return Opened(request, graph, plan)
    return Opened(*_with_odd_filters(request, graph, plan))


def _with_odd_filters(request: Request, graph: Any, plan: Plan) -> tuple[Request, Any, Plan, str]:
    odd, plan, remark = session.odd_filters(request, plan, lambda asked: graph.plan(session.spec_of(asked)))
    return odd, graph, plan, remark


def show(request: Request, as_json: bool) -> None:
    """Print the plan of a graph.

    >>> show(request, as_json=False)
    """
    opened = open_onnx(request)
    report.print_remarks(opened.remarks)
    if as_json:
        click.echo(opened.plan.to_json())
        return
    report.print_plan(opened.plan)
    click.echo(report.summary(opened.plan) if opened.plan.rewritten else no_effect(request.model, opened.plan))


def convert(request: Request, output: Path | None, saying: report.Saying, *, verify: bool, force: bool) -> None:
    """Convert a graph and write the result.

    >>> convert(request, Path("net.blur4.onnx"), report.Saying(as_json=False), verify=True, force=False)
    """
    source = Path(request.model)
    files.check_output(output or default_output(request, ".onnx"), source=source, force=force)
    opened = open_onnx(request)
    target = output or default_output(opened.request, ".onnx")
    files.check_output(target, source=source, force=force)
    report.print_remarks(opened.remarks)
    saying.plan(opened.plan)
    before = _cost(opened, opened.graph.file.model)
    if not opened.plan.rewritten:
        why = no_effect(request.model, opened.plan)
        saying.line(f"{why} Nothing was written.", cost={"before": asdict(before)}, written=None)
        saying.end()
        return
    with report.stage("rewriting"):
        result = opened.graph.converted(opened.plan)
    after = _cost(opened, result)
    saying.line(report.arithmetic(before, after), cost={"before": asdict(before), "after": asdict(after)})
    if verify:
        _prove(opened, result, saying)
    with report.stage("writing"):
        row = _write(opened, result, target, verify=verify, force=force)
    if row is not None:
        proofs = saying.content["proofs"]
        saying.line(str(row), proofs=proofs | {"rows": [*proofs["rows"], asdict(row)]})
    saying.line(report.written(target, files.FORMATS["onnx"]), written=str(target))
    saying.end()


def _cost(opened: Opened, model: Any) -> Cost:
    from blurify.onnx.arithmetic import macs_of, weights_of
    from blurify.onnx.shapes import infer

    trial = opened.graph.trial
    shapes = trial.shapes if model is opened.graph.file.model else infer(model, trial.sizes)
    size = next(iter(trial.sizes.values()), ())[1:]
    return Cost(macs_of(model, shapes), size, parameters=weights_of(model))


def _prove(opened: Opened, result: Any, saying: report.Saying) -> None:
    with report.stage("proving"):
        proofs = opened.graph.prove(opened.plan, result)
    saying.line(str(proofs), proofs={"ok": proofs.ok} | asdict(proofs))
    if not proofs.ok:
        saying.end()
        raise click.ClickException(f"the proofs failed for {opened.request.model}; nothing was written.")


def _write(opened: Opened, result: Any, target: Path, *, verify: bool, force: bool) -> Any:
    """Write the graph, and the files of its weights next to it, whole or not at all; return the row of its proof."""
    from blurify.onnx.proving import file_row
    from blurify.onnx.reading import copy_further

    content, rows = result.SerializeToString(), []

    def write(opened_file: BinaryIO) -> None:
        opened_file.write(content)

    def check(temporary: Path) -> None:
        rows.append(file_row(temporary, opened.graph.file, opened.graph.trial))
        if rows[0].state == "failed":
            raise FileError(f"the file failed its proof: {rows[0].text}; nothing was written.")

    copies = copy_further(opened.graph.file, target, force)
    try:
        write_atomically(target, write, check if verify else None)
    except BaseException:
        for copy in copies:
            copy.unlink(missing_ok=True)
        raise
    return rows[0] if rows else None
