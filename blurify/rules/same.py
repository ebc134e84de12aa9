"""Names of timm's classes that compute TensorFlow's SAME padding from their own stride when they run.

At stride 1 their padding differs from that at stride s, by an offset of the grid (`functional.same_blur_pool`).
They are told by name, so that timm need not be imported to look at a model that has none of them.
"""

from __future__ import annotations

SAME_CONVS = frozenset({"Conv2dSame", "StdConv2dSame", "ScaledStdConv2dSame"})
SAME_MAX_POOLS = frozenset({"MaxPool2dSame"})
SAME_AVG_POOLS = frozenset({"AvgPool2dSame"})
