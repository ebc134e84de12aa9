"""Find the branch of a condition that does nothing but raise: a check of the input, which a valid input passes."""

from __future__ import annotations

import dis
from bisect import bisect_left
from types import FrameType

# How many instructions a branch may take to raise; a message takes some.
LONGEST = 200
LEAVES = ("RETURN", "YIELD", "FOR_ITER", "SETUP", "RERAISE", "SEND")


def passing_answer(frame: FrameType) -> bool | None:
    """Return the truth value that passes the check which `frame` is about to take; None where it is no check.

    `assert c`, `if c: raise ...` and `if a or b: raise ...` are checks. `frame` stands at the jump that asks.
    """
    instructions = list(dis.get_instructions(frame.f_code))
    at = _position(instructions, frame.f_lasti)
    while at < len(instructions) and instructions[at].opname in ("TO_BOOL", "CACHE"):
        at += 1
    jump = instructions[at] if at < len(instructions) else None
    if jump is None or "POP_JUMP" not in jump.opname or not jump.opname.endswith(("IF_TRUE", "IF_FALSE")):
        return None
    jumps_on = jump.opname.endswith("IF_TRUE")
    raises_there, raises_here = (
        _raises(instructions, _position(instructions, jump.argval)),
        _raises(instructions, at + 1),
    )
    if raises_there == raises_here:
        return None
    return jumps_on if raises_here else not jumps_on


def unpacked_length(frame: FrameType) -> int | None:
    """Return into how many names `frame` is about to unpack a value; None where it does something else with it."""
    instructions = list(dis.get_instructions(frame.f_code))
    at = instructions[_position(instructions, frame.f_lasti)]
    return int(at.argval) if at.opname == "UNPACK_SEQUENCE" else None


def _position(instructions: list[dis.Instruction], offset: int) -> int:
    return bisect_left([instruction.offset for instruction in instructions], offset)


def _raises(instructions: list[dis.Instruction], start: int) -> bool:
    """Return whether the instructions from `start` lead straight to a `raise`."""
    for instruction in instructions[start : start + LONGEST]:
        if instruction.opname == "RAISE_VARARGS":
            return True
        if "JUMP" in instruction.opname or instruction.opname.startswith(LEAVES):
            return False
    return False
