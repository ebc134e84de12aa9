"""The operators that a program may call: those that compute with tensors and numbers, and can do nothing else."""

from __future__ import annotations

import re
from typing import Any

import torch

ATEN = re.compile(r"torch\.ops\.aten\.(\w+)\.(\w+)")
OTHERS = {
    *(
        f"_operator.{name}"
        for name in "add sub mul floordiv truediv mod pow neg pos eq ne lt le gt ge and_ or_ not_ abs getitem".split()
    ),
    *(f"math.{name}" for name in ("ceil", "floor", "trunc", "sqrt")),
    *(f"torch.sym_{name}" for name in "float int ite max min not sum".split()),
    *(
        f"torch.ops.torchvision.{name}.default"
        for name in "nms roi_align roi_pool ps_roi_align ps_roi_pool deform_conv2d".split()
    ),
    # Their graphs lie in the file as well, and are checked alike.
    "torch.ops.higher_order.wrap_with_set_grad_enabled",
    "torch.ops.higher_order.wrap_with_autocast",
    "torch.ops.higher_order.cond",
}


def is_known_operator(name: str) -> bool:
    """Return whether a program may call it: an aten operator that takes no file name, or one of a short list.

    >>> is_known_operator("torch.ops.aten.conv2d.default"), is_known_operator("torch.ops.aten.save.default")
    (True, False)
    """
    found = ATEN.fullmatch(name)
    return name in OTHERS if found is None else _computes(*found.groups())


def _computes(name: str, overload: str) -> bool:
    packet = getattr(torch.ops.aten, name, None)
    found: Any = getattr(packet, overload, None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    if not isinstance(found, torch._ops.OpOverload):
        return False
    schema = found._schema
    types = [str(argument.type) for argument in (*schema.arguments, *schema.returns)]
    touches_files = any("file" in argument.name for argument in schema.arguments)
    # `save` takes anything at all.
    return not touches_files and "Any" not in types and not any(kind == "t" for kind in types)
