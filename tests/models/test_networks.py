"""The laws on real networks: identity, names, values, shapes."""

from __future__ import annotations

import pytest
import torch
import torchvision

from blurify import verify
from blurify.graph.paths import node_paths
from blurify.layers import Blur
from blurify.verifying.shapes import subsampling_paths
from tests.conftest import as_graph as antialias
from tests.conftest import relative_error, run, tiered
from tests.models.nets import ALL, EVERYDAY, size
from tests.networks import network


# LeViT keeps what it has computed from its weights, which a graph computes each time.
@pytest.mark.filterwarnings("ignore:The graph of LevitDistilled leaves out:blurify.errors.OmissionWarning")
@pytest.mark.parametrize("name", tiered(ALL, *EVERYDAY))
def test_laws(name: str) -> None:
    model, side = network(name), size(name)
    x = torch.randn(2, 3, side, side)
    expected = run(model, x)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    assert relative_error(expected, run(antialias(model, 1, stem=True), x)) <= 1e-5

    converted = antialias(model)
    assert list(converted.state_dict()) == list(before)
    assert [n for n, _ in converted.named_parameters()] == [n for n, _ in model.named_parameters()]
    converted.load_state_dict(before, strict=True)
    model.load_state_dict(converted.state_dict(), strict=True)
    verdict = verify(model, converted, x)
    assert verdict.ok, str(verdict)
    assert verdict.identity_error <= 1e-5
    # Sites of auxiliary heads are in the graph of `.train()` alone, and run at larger sizes only.
    sites = [d.site for d in converted.meta["blurify"].rewritten if not d.site.startswith("AuxLogits")]
    assert [s.site for s in verdict.shapes] == sites
    assert sites
    blurred = run(converted, x)
    assert blurred.shape == expected.shape
    assert relative_error(expected, blurred) > 1e-6
    # The caller's model is as it was.
    assert torch.equal(run(model, x), expected)
    assert not any(isinstance(m, Blur) for m in model.modules())


# The smallest height that the original runs on.
SMALLEST = {"resnet18": 1, "googlenet": 1, "densenet121": 29}
HEIGHTS = {"17 to 43": range(17, 44), "44 to 70": range(44, 71)}


@pytest.mark.parametrize("heights", tiered(HEIGHTS, "17 to 43"))
@pytest.mark.parametrize("name", ["resnet18", "googlenet", pytest.param("densenet121", marks=pytest.mark.slow)])
def test_sizes_of_every_height(name: str, heights: str) -> None:
    """The output of every site, for every input height from 17 to 70, through the meta device."""
    model = network(f"torchvision:{name}").to("meta")
    converted = antialias(model)
    sites = [d.site for d in converted.meta["blurify"].rewritten]
    paths = subsampling_paths(converted.eval_graph, converted.meta["blurify"])
    nodes = node_paths(converted.eval_graph)
    sizes: dict[str, dict[str, torch.Size]] = {"original": {}, "converted": {}}

    def record(kind: str, site: str):  # type: ignore[no-untyped-def]
        return lambda module, args, output: sizes[kind].__setitem__(site, output.shape)

    for site in sites:
        model.get_submodule(site).register_forward_hook(record("original", site))
        node = nodes[paths[site]]
        converted.get_submodule(str(node.target)).register_forward_hook(record("converted", site))
    for height in HEIGHTS[heights]:
        x = torch.empty(1, 3, height, 64, device="meta")
        if height < SMALLEST[name]:
            # The original itself needs larger images; then the converted one must not pretend to run.
            with pytest.raises(RuntimeError):
                run(model, x)
            with pytest.raises(RuntimeError):
                run(converted, x)
            continue
        expected = run(model, x).shape
        assert run(converted, x).shape == expected
        assert set(sizes["original"]) == set(sites)
        assert sizes["converted"] == sizes["original"], height


def test_too_small_for_the_hand_written_networks() -> None:
    """At 32x32 the last maps are smaller than a reflected filter needs."""
    for name in ("resnet18", "vgg16_bn", "mobilenet_v2"):
        with torch.device("meta"):
            model = getattr(torchvision.models, name)()
        assert run(antialias(model, 4), torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 1000)
