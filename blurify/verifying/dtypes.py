"""*Dtypes*: the converted model, with its filters, returns tensors of the original's names, sizes and dtypes."""

from __future__ import annotations

from collections import Counter

from blurify.verifying.outputs import Named
from blurify.verifying.verdict import Row


def dtypes(expected: Named, actual: Named) -> Row:
    """Compare the outputs in all but their values."""
    missing = [f"{name or 'the output'} is missing" for name in expected.keys() - actual.keys()]
    new = [f"{name or 'the output'} is new" for name in actual.keys() - expected.keys()]
    unlike = [
        f"{name or 'the output'} is {describe(actual, name)} and was {describe(expected, name)}"
        for name in expected
        if name in actual and describe(expected, name) != describe(actual, name)
    ]
    problems = missing + new + unlike
    counts = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in expected.values())
    listed = ", ".join(f"{count} {dtype}" for dtype, count in counts.items())
    text = f"all outputs keep name, size and dtype ({listed})" if not problems else "; ".join(problems[:3])
    return Row.of("dtypes", not problems, text)


def describe(outputs: Named, name: str) -> str:
    """Return an output's dtype and size."""
    size = "x".join(map(str, outputs[name].shape))
    return f"{str(outputs[name].dtype).removeprefix('torch.')} {size}".strip()
