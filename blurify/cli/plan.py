"""`blurify plan MODEL`: the decisions of a conversion, and nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from blurify.cli.options import CONTEXT, let_user_modules_in, model_options, request_of


@click.command(context_settings=CONTEXT)
@model_options
@click.option("--partial", is_flag=True, help="Plan the parts that can be traced, where the whole cannot.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON and nothing else.")
def plan(partial: bool, as_json: bool, **options: Any) -> None:
    """Show what converting MODEL would do, site by site; write nothing."""
    request = request_of(options)
    let_user_modules_in(request.arch, request.allow)
    from blurify import files
    from blurify.cli import onnx_graph, report, session

    if files.is_onnx(Path(request.model)):
        onnx_graph.show(request, as_json)
        return
    opened = session.open_model(request, partial)
    report.print_remarks(session.remarks(opened))
    if as_json:
        click.echo(opened.plan.to_json())
        return
    report.print_plan(opened.plan)
    click.echo(report.summary(opened.plan) if opened.plan.rewritten else session.nothing_to_do(opened))
