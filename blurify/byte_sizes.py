"""Sizes in bytes as people write them: GB is 10^9 bytes, GiB is 2^30, wherever a size is read or printed."""

from __future__ import annotations

import re
from math import ceil

from blurify.errors import ArgumentError

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{0,15})?)\s*([kmgt]?)(i?)(b?)", re.ASCII | re.IGNORECASE)
_PRINTED = (("GB", 10**9), ("MB", 10**6))


def parse_size(text: str) -> int:
    """Return the bytes that a text names; K, M, G and T mean KB, MB, GB and TB.

    >>> parse_size("4GB"), parse_size("1.5 MiB")
    (4000000000, 1572864)

    Raises:
        ArgumentError: the text is no size, is zero, or has no unit.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or float(found[1]) == 0 or (found[3] and not (found[2] and found[4])):
        raise ArgumentError(f"{text!r} is not a size such as 500MB (10^6 bytes each) or 4GiB (2^30 bytes each).")
    number, prefix, binary, unit = found.groups()
    if not prefix and not unit:
        raise ArgumentError(f"{text!r} has no unit; write {number}GB (10^9 bytes each) or {number}GiB (2^30 bytes).")
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


def size_text(count: int) -> str:
    """Return a number of bytes, rounded up, as `parse_size` reads it.

    >>> size_text(1_500_000_000), size_text(999)
    ('1.5GB', '1KB')
    """
    for unit, size in _PRINTED:
        if count >= size:
            return f"{ceil(10 * count / size) / 10:g}{unit}"
    return f"{ceil(count / 1000)}KB"
