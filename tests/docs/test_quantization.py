"""The page on deploying shows how to quantize, and its example is run: blurs stay in the graph, as floats."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from blurify.tracing.export import quietly
from tests.conftest import relative_error
from tests.docs.pages import DOCS, blocks

aten = torch.ops.aten


def from_integers(node: Any) -> bool:
    return "dequantize" in str(node.target)


@pytest.mark.slow
def test_a_converted_model_is_quantized_and_its_blurs_stay() -> None:
    with quietly():
        pytest.importorskip("torchao")
        (example,) = (b.text for b in blocks(DOCS / "deploy.md", "python") if "prepare_pt2e" in b.text)
        names: dict[str, Any] = {}
        exec(compile(example, "deploy.md", "exec"), names)
    model, quantized, x = names["model"], names["quantized"], names["images"][:3]
    convs = [node for node in quantized.graph.nodes if node.target is aten.conv2d.default]
    # Only blurs are in groups in this network.
    blurs = [node for node in convs if len(node.args) == 7 and node.args[6] > 1]
    assert len(blurs) == len(model.meta["blurify"].rewritten) == 7
    assert not any(from_integers(node.args[1]) for node in blurs)
    assert all(from_integers(node.args[1]) for node in convs if node not in blurs)
    with torch.no_grad():
        error = relative_error(model(x), quantized(x))
    assert 0 < error < 0.2
