"""Batch-norm statistics estimated again, from what the batch-norms are fed now that there are blurs before them.

The running mean and variance become the averages over all batches, as by `torch.optim.swa_utils.update_bn`, which
trains the whole model for it; here nothing but the batch-norms behind a blur leaves evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from blurify.graph.module import TracedModule
from blurify.recovery.calls import downstream


def norms(traced: TracedModule, frozen: bool) -> list[_BatchNorm]:
    """Return the batch-norms behind a blur, but for frozen ones, which the model's own `.train()` leaves in evaluation.

    With `frozen`, these too.
    """
    exempt = set() if frozen else traced._modes.exceptions(True)
    paths = {str(n.target) for n in downstream(traced.eval_graph) if n.op == "call_module"}
    found = [traced.get_submodule(path) for path in sorted(paths - exempt)]
    return [norm for norm in found if isinstance(norm, _BatchNorm) and norm.track_running_stats]


def reestimate(traced: TracedModule, pictures: Tensor, batch_size: int, frozen: bool = False) -> int:
    """Estimate the statistics of the model, which is in evaluation mode, in place; return of how many norms.

    Every module's mode and momentum is left as found.
    """
    chosen = norms(traced, frozen)
    momenta = [norm.momentum for norm in chosen]
    try:
        for norm in chosen:
            norm.reset_running_stats()
            norm.momentum = None
            nn.Module.train(norm)
        for part in torch.split(pictures, batch_size):
            # A batch-norm of one value a channel has no variance.
            if len(part) > 1:
                traced(part)
    finally:
        for norm, momentum in zip(chosen, momenta, strict=True):
            norm.momentum = momentum
            nn.Module.eval(norm)
    return len(chosen)
