"""`blurify MODEL`: read, plan, rewrite, prove, write."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from blurify.cli.options import (
    CONTEXT,
    default_output,
    form_option,
    format_option,
    json_option,
    let_user_modules_in,
    model_options,
    request_of,
)

if TYPE_CHECKING:
    from torch import nn

    from blurify.cli.report import Saying
    from blurify.cli.session import Session


@click.command(context_settings=CONTEXT)
@model_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Output file.  [default: MODEL.blur4.pt next to MODEL]",
)
@format_option
@form_option
@click.option(
    "--partial",
    is_flag=True,
    help="Convert what can be: parts that can be traced, sites that the class can express.",
)
@click.option("--dynamic-size", is_flag=True, help="Let a program (pt2, onnx, torchscript) take images of any size.")
@click.option("--no-verify", is_flag=True, help="Skip the proofs.")
@click.option("--force", is_flag=True, help="Overwrite the output.")
@json_option
def convert(
    output: Path | None,
    format_name: str | None,
    model_form: str,
    partial: bool,
    dynamic_size: bool,
    no_verify: bool,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Antialias MODEL and write the result.

    MODEL is a file (a pickled module, a state_dict or safetensors with --arch, blurify's own, a torch.export archive,
    TorchScript or ONNX), a folder with config.json and weights, timm:NAME or torchvision:NAME. An output named
    *.safetensors holds weights and a recipe. One named *.pt2 is a program of torch.export and one named *.onnx an ONNX
    graph; both run without blurify.
    """
    request = request_of(options)
    let_user_modules_in(request.arch, request.allow)
    from blurify import files
    from blurify.cli import report, session
    from blurify.planning.plan import plan_of

    form = files.choose_format(output, format_name) or (None if output else files.own_format(Path(request.model)))
    if files.is_onnx(Path(request.model)):
        from blurify.cli import onnx_graph

        onnx_graph.check_options(request, form, model_form, dynamic_size=dynamic_size)
        onnx_graph.convert(request, output, report.Saying(as_json), verify=not no_verify, force=force)
        return
    target = output or default_output(request, form.suffix if form else ".pt")
    if dynamic_size and not (form and form.is_program):
        raise click.UsageError(f"--dynamic-size is for programs, and {target} is none; name a *.pt2 or *.onnx with -o.")
    if form is not None:
        form.check()
    source = Path(request.model)
    if source.exists() or files.looks_like_architecture(request.model):
        files.check_output(target, source=source, force=force)
    opened = session.open_model(request, partial)
    if output is None and opened.request != request:
        target = default_output(opened.request, form.suffix if form else ".pt")
        files.check_output(target, source=source, force=force)
    if dynamic_size and opened.loaded.signature is not None:
        raise click.UsageError(
            f"{request.model} is an exported program; its dynamic shapes are kept. Remove --dynamic-size."
        )
    remarks = session.remarks(opened)
    if opened.plan.rewritten:
        with report.stage("rewriting"):
            converted = session.convert(opened, model_form, partial)
        opened = replace(opened, plan=plan_of(converted) or opened.plan)
        remarks = session.remarks_on(opened, converted, remarks)
    report.print_remarks(remarks)
    saying = report.Saying(as_json)
    saying.plan(opened.plan)
    if not opened.plan.rewritten:
        saying.line(
            f"{session.nothing_to_do(opened)} Nothing was written.", cost={"before": asdict(opened.cost)}, written=None
        )
        saying.end()
        return
    arch = opened.loaded.arch
    form = files.fitting_format(form, arch)
    _say_form(converted, saying)
    _prove(opened, converted, saying, verify=not no_verify)
    wanted = files.SaveOptions(arch, opened.loaded.signature or opened.examples[0], dynamic_size, force)
    with report.stage("writing"):
        if no_verify:
            remark, row = form.write(converted, target, wanted), None
        else:
            remark, row = form.write_proved(converted, target, wanted)
    report.print_remarks([remark] if remark else [])
    if row is not None:
        proofs = saying.content["proofs"]
        saying.line(str(row), proofs=proofs | {"rows": [*proofs["rows"], asdict(row)]})
    saying.line(report.written(target, form), written=str(target))
    saying.end()


def _say_form(converted: nn.Module, saying: Saying) -> None:
    meta: dict[str, Any] = vars(converted)["meta"]
    saying.content["form"] = meta["blurify_form"]
    saying.content["optimized"] = list(meta["optimized"])
    for line in meta["optimized"]:
        saying.line(f"optimized: {line}")


def _prove(opened: Session, converted: nn.Module, saying: Saying, *, verify: bool) -> None:
    from blurify.cli import report, session
    from blurify.measure.cost import cost

    before, after = opened.cost, cost(converted, *opened.examples)
    prices = {"before": asdict(before), "after": asdict(after)}
    saying.line(report.arithmetic(before, after, len(opened.examples[0])), cost=prices)
    if verify:
        with report.stage("proving"):
            verdict = session.verify(opened, converted)
        saying.line(str(verdict), proofs={"ok": verdict.ok} | asdict(verdict))
        if not verdict.ok:
            saying.end()
            raise click.ClickException(f"The proofs failed for {opened.request.model}; nothing was written.")
