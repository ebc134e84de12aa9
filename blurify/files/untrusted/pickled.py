"""Find out what a pickle would make, by following its opcodes without making anything.

The weights-only unpickler calls harmless functions only, yet with any arguments: a class that allocates what it is told
to, a tensor larger than what it is stored in, a key that takes for ever to hash. `follow` walks the same operations on
stand-ins and refuses what `torch.save` never writes. It knows the operations of torch's unpickler, and no other.
"""

from __future__ import annotations

import pickle
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from pathlib import Path
from pickletools import genops
from typing import Any, NoReturn

import torch

from blurify.errors import FileError

# Tensors that say more than they store (an expanded buffer): a file may hold this much of them in all.
MOST_EXPANDED = 64 * 2**20

_STRIDED = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_qtensor")
_REBUILD = frozenset(
    f"torch._utils.{name}"
    for name in (*_STRIDED, "_rebuild_parameter", "_rebuild_parameter_with_state", "_rebuild_sparse_tensor")
)
# Calling these takes no more than their arguments do.
_CALLED = frozenset(
    {
        *("collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "_codecs.encode"),
        *("torch.serialization._get_layout", "torch._utils._rebuild_meta_tensor_no_storage"),
        *("builtins.set", "builtins.complex", "builtins.bytearray"),
    }
)
_SETS = ("builtins.set", "builtins.frozenset")
_SCALARS = (str, bytes, int, float, type(None))
_VALUES = ("BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "LONG1")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_MARK = object()


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    nbytes: int
    itemsize: int


@dataclass
class _Made:
    """Anything made; `plain` as long as all that was put into it can be hashed at once."""

    kind: str
    plain: bool = True


@dataclass
class Following:
    """One pickle: what it may call besides tensors, and how many bytes are stored under a key."""

    path: Path
    callable_names: Collection[str] = ()
    stored: Callable[[str, int], int | None] = lambda key, nbytes: None
    # Classes that are rebuilt from their state alone.
    bare: Collection[str] = ()
    expanded: int = 0
    # The names of what items are put into.
    filled: set[str] = field(default_factory=set)
    memo: dict[int, Any] = field(default_factory=dict)
    stack: list[Any] = field(default_factory=list)

    def follow(self, code: bytes) -> None:
        """Refuse the pickle if it would make what no file of `torch.save` makes.

        >>> Following(Path("m.pt")).follow(pickle.dumps({"a": 1}, protocol=2))

        Raises:
            FileError: it would, or is no pickle.
        """
        try:
            for opcode, argument, _ in genops(code):
                self._step(opcode.name, argument)
        except FileError:
            raise
        except Exception as error:  # a damaged pickle can fail in any way at all
            raise FileError(f"{self.path} holds a damaged pickle; save or copy it again.") from error

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name == "GLOBAL":
            stack.append(_Global(_full_name(argument)))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name not in ("PROTO", "STOP"):
            self._combine(name)

    def _combine(self, name: str) -> None:
        stack = self.stack
        if name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            stack.append(_Made(name.removeprefix("EMPTY_").lower()))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._popped(int(name[5:]) if name[5:] else None)))
        elif name in ("APPEND", "APPENDS"):
            self._put(self._popped(1 if name == "APPEND" else None))
        elif name in ("SETITEM", "SETITEMS"):
            self._set(self._popped(2 if name == "SETITEM" else None))
        elif name in ("REDUCE", "NEWOBJ"):
            function, arguments = self._popped(2)
            stack.append(self._called(function, arguments, new=name == "NEWOBJ"))
        elif name == "BUILD":
            self._build(*self._popped(2))
        elif name == "BINPERSID":
            stack.append(self._storage(stack.pop()))
        else:
            self._refuse(f"uses {name}, which torch.save does not write")

    def _popped(self, count: int | None) -> list[Any]:
        """Return the topmost so many, or all above the last mark."""
        start = len(self.stack) - (count or 0)
        if count is None:
            start = next(at for at in range(len(self.stack) - 1, -1, -1) if self.stack[at] is _MARK)
        if start < 0:
            raise pickle.UnpicklingError
        items = self.stack[start:]
        del self.stack[start:]
        if count is None:
            return items[1:]
        if any(item is _MARK for item in items):
            raise pickle.UnpicklingError
        return items

    def _put(self, items: list[Any]) -> None:
        self.stack[-1].plain &= all(_hashes(item) for item in items)

    def _set(self, items: list[Any]) -> None:
        if not all(_hashes(key) for key in items[::2]):
            self._refuse("has a dict whose keys are neither text nor numbers")
        if isinstance(self.stack[-1], _Made):
            self.filled.add(self.stack[-1].kind)

    def _build(self, made: Any, state: Any) -> None:
        if isinstance(made, _Made) and made.kind == "tensor":
            self._refuse("changes a tensor after it was made")
        self.stack.append(made)

    def _called(self, function: Any, arguments: Any, *, new: bool = False) -> Any:
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            self._refuse("calls what is not named in it")
        name = function.name
        if name == "torch.Size":
            return tuple(arguments[0])
        if name == "torch._tensor._rebuild_from_type_v2":
            return self._called(arguments[0], arguments[2])
        if name in _REBUILD:
            return self._tensor(name, arguments)
        if new and name == "torch.nn.parameter.Parameter":
            return _Made("tensor")
        if name in self.bare and (arguments or not new):
            self._refuse(f"makes a {name} with arguments, where it may only be rebuilt from its state")
        elif (new and not name.startswith("torch.")) or name in self.callable_names:
            pass
        elif new and (arguments or not name.startswith("torch.nn.")):
            self._refuse(f"makes a {name} with arguments, as torch.save does not")
        elif not new and name not in _CALLED:
            self._refuse(f"calls {name}, as torch.save does not")
        if name == "builtins.bytearray" and any(isinstance(argument, int) for argument in arguments):
            self._refuse("makes a bytearray of a size without saying what is in it")
        if name in _SETS and not all(getattr(each, "plain", _hashes(each)) for each in arguments):
            self._refuse("has a set of what is neither text nor numbers")
        return _Made(name)

    def _storage(self, key: Any) -> _Storage:
        kind, storage, name, _, numel = key[:5]
        if kind not in ("storage", b"storage") or not isinstance(storage, _Global):
            raise pickle.UnpicklingError
        itemsize = _itemsize(storage.name)
        nbytes = _count(numel) * itemsize
        held = self.stored(name if isinstance(name, str) else name.decode(), nbytes)
        if held is None:
            self._refuse(f"lacks the numbers of its storage {ascii(name)[:80]}")
        if held != nbytes:
            self._refuse(f"says that a storage has {nbytes} bytes where it holds {held}")
        return _Storage(nbytes, itemsize)

    def _tensor(self, name: str, arguments: tuple[Any, ...]) -> _Made:
        short = name.rpartition(".")[2]
        if short in _STRIDED:
            storage, offset, size, stride = arguments[:4]
            itemsize = _itemsize(arguments[6].name) if short.endswith("v3") else storage.itemsize
            self._fits(storage.nbytes, itemsize, _count(offset), [*map(_count, size)], [*map(_count, stride)])
        return _Made("tensor")

    def _fits(self, nbytes: int, itemsize: int, offset: int, size: list[int], stride: list[int]) -> None:
        if len(size) != len(stride):
            raise pickle.UnpicklingError
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if 0 not in size and (last + 1) * itemsize > nbytes:
            self._refuse(f"has a tensor of {(last + 1) * itemsize} bytes in a storage of {nbytes}")
        said = prod(size) * itemsize
        if said > nbytes:
            self.expanded += said
        if self.expanded > MOST_EXPANDED:
            self._refuse(
                f"has expanded tensors that would take {self.expanded} bytes, of which it stores next to nothing"
            )

    def _refuse(self, fact: str) -> NoReturn:
        raise FileError(f"{self.path} is damaged or made to do damage: its pickle {fact}; download it again.")


def _full_name(argument: str) -> str:
    module, name = argument.split(" ", 1)
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[(module, name)]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _hashes(value: Any) -> bool:
    """Return whether its hash is found at once: a tuple of tuples of itself would take for ever."""
    flat = value if isinstance(value, tuple) else (value,)
    return all(isinstance(item, (*_SCALARS, _Global)) for item in flat)


@lru_cache
def _itemsize(name: str) -> int:
    if name in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        return 1
    value = getattr(torch, name.removeprefix("torch.").removeprefix("storage."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the storage classes that torch.save still names are deprecated
        dtype = value if isinstance(value, torch.dtype) else value.dtype
    return int(dtype.itemsize)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise pickle.UnpicklingError
    return value
