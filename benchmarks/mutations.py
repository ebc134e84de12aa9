"""One change after another to a file's bytes: of any sort, or of the sort that its kind can have.

Bits flipped, parts cut, filled and spliced; records of archives renamed, doubled and compressed; operations, numbers
and names of pickles exchanged; headers and indexes rewritten. All by the generator that is given.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import re
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise

NAMES = [
    *(b"os\nsystem\n", b"builtins\neval\n", b"builtins\ngetattr\n", b"torch.hub\nload\n", b"torch\nTensor\n"),
    *(b"torch\nload\n", b"torch.nn.modules.linear\nLinear\n", b"torch._utils\n_rebuild_tensor_v2\n"),
    *(b"torch._utils\n_rebuild_parameter\n", b"torch._tensor\n_rebuild_from_type_v2\n", b"builtins\nbytearray\n"),
    *(b"torch._utils\n_rebuild_sparse_tensor\n", b"torch.storage\nUntypedStorage\n", b"torch\nDoubleStorage\n"),
    *(b"functools\npartial\n", b"builtins\nset\n", b"collections\nCounter\n", b"torch\nSize\n", b"torch\ndevice\n"),
]
NUMBERS = [0, 1, 2, 127, 128, 255, 2**15, 2**31 - 1, 2**32 - 1]


def mutated(kind: str, data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The file with one to four changes, of the sort that its kind can have and of any sort."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        special = SPECIAL.get(kind)
        change = special if special and rng.random() < 0.6 else rng.choice(ANY)
        try:
            data = change(data, others, rng)
        except Exception:  # what was broken before cannot be changed with care any more
            data = _flip(data, others, rng)
    return data


def _flip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    content = bytearray(data or b"\0")
    for _ in range(rng.choice([1, 1, 3, 20])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def _cut(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    start, stop = sorted(rng.randrange(len(data)) for _ in range(2))
    return rng.choice([data[:start], data[start:], data[:start] + data[stop:]])


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    other = rng.choice([*others, data])
    start, stop = sorted(rng.randrange(len(other)) for _ in range(2))
    at = rng.randrange(len(data))
    return data[:at] + other[start:stop] + data[at + rng.choice([0, stop - start]) :]


def _fill(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at, length = rng.randrange(len(data)), rng.choice([1, 2, 4, 8])
    value = rng.choice([b"\0", b"\xff", b"\x7f", b"\x80"]) * length
    return data[:at] + value + data[at + length :]


def _zip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        held = [(info.filename, archive.read(info)) for info in archive.infolist()]
    at, change = rng.choice(
        [(at, change) for at, (name, _) in enumerate(held) for end, change in INSIDE.items() if name.endswith(end)]
    )
    what = rng.random()
    if what < 0.7:
        held[at] = (held[at][0], change(held[at][1], others, rng))
    elif what < 0.8:
        held.insert(rng.randrange(len(held)), rng.choice(held))
    elif what < 0.9:
        other = rng.randrange(len(held))
        held[other] = (rng.choice([held[other][0].upper(), "../" + held[other][0], held[0][0]]), held[other][1])
    else:
        other = rng.randrange(len(held))
        held[other] = (held[other][0], _cut(held[other][1] + b"\0\0", others, rng))
    buffer = io.BytesIO()
    form = zipfile.ZIP_DEFLATED if rng.random() < 0.05 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", form) as archive:
        for name, content in held:
            archive.writestr(name, content)
    return buffer.getvalue()


def _words(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Another word or number in a text."""
    parts = re.split(rb"(\w+)", data)
    words = range(1, len(parts), 2)
    parts[rng.choice(words)] = rng.choice([*(parts[at] for at in words), b"os", b"while", b"999999999", b"-1"])
    return b"".join(parts)


def _ops(code: bytes) -> list[bytes]:
    places = [place for _, _, place in pickletools.genops(code)] + [len(code)]
    return [code[place:after] for place, after in pairwise(places)]


def _pickle(code: bytes, others: list[bytes], rng: random.Random) -> bytes:
    ops = _ops(code)
    at = rng.randrange(len(ops))
    what = rng.choice(["number", "number", "name", "name", "drop", "double", "swap", "move", "make"])
    if what == "number":
        at = rng.choice([at for at, op in enumerate(ops) if op[:1] in b"KMJ"])
        ops[at] = b"J" + (rng.choice(NUMBERS) % 2**32).to_bytes(4, "little")
    elif what == "name":
        at = rng.choice([at for at, op in enumerate(ops) if op[:1] == b"c"])
        ops[at] = b"c" + rng.choice(NAMES)
    elif what == "drop":
        del ops[at]
    elif what == "double":
        ops.insert(at, ops[at])
    elif what == "swap":
        ops[at : at + 2] = ops[at : at + 2][::-1]
    elif what == "move":
        ops.insert(rng.randrange(len(ops)), ops.pop(at))
    else:  # call a name with a number
        ops[at:at] = [b"c" + rng.choice(NAMES), b"J" + rng.choice(NUMBERS[:-1]).to_bytes(4, "little"), b"\x85", b"R"]
    return b"".join(ops)


def _legacy(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    parts = []
    for _ in range(5):
        buffer = io.BytesIO(data)
        for _ in pickletools.genops(buffer):
            pass
        parts.append(data[: buffer.tell()])
        data = data[buffer.tell() :]
    at = rng.choice([0, 1, 2, 3, 3, 3, 3, 4])
    parts[at] = _pickle(parts[at], others, rng)
    return b"".join(parts) + data


def _header(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = _json(data[8 : 8 + length], others, rng)
    size = len(header) if rng.random() < 0.9 else rng.choice([0, 2**31, 2**39, 2**63, len(data) - 8])
    return size.to_bytes(8, "little") + header + data[8 + length :]


def _json(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Another value in some place of a JSON text."""
    content = json.loads(data)
    places = list(_places(content))
    holder, key = rng.choice(places)
    value = rng.choice([*NUMBERS, -1, 2**62, 1.5, None, True, "", "../index", "/etc/passwd", "index", [], {}, [2**40]])
    if rng.random() < 0.8:
        holder[key] = value
    elif isinstance(holder, dict):
        holder[rng.choice(["a", "0.weight", "__metadata__", "weight_map"])] = holder.pop(key)
    else:
        holder.append(value)
    return json.dumps(content).encode()


def _places(value: object) -> Iterator[tuple[object, object]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield value, key
        yield from _places(item)


Change = Callable[[bytes, list[bytes], random.Random], bytes]
# What is in a record whose name ends so.
INSIDE: dict[str, Change] = {"/data.pkl": _pickle, "model.json": _json, "config.json": _json, ".py": _words}
ANY = (_flip, _flip, _cut, _splice, _fill)
SPECIAL: dict[str, Change] = {
    **dict.fromkeys(("module", "weights", "native", "shard-2", "program", "torchscript"), _zip),
    **dict.fromkeys(("legacy", "legacy_weights"), _legacy),
    **dict.fromkeys(("safetensors", "recipe.safetensors", "shard-1"), _header),
    "index": _json,
}
