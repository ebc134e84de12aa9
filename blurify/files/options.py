"""What a user may say of a model that is read, besides its name."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from torch import Tensor

from blurify.files.untrusted.safety import Trust


@dataclass(frozen=True)
class ReadOptions:
    """The options of `read_model`.

    `arch` is the architecture of a state_dict. `allow` names what a pickle may use, and `allow_package` packages whose
    classes it may restore. `ema` asks for averaged weights and `key` for those at a place in the file. With `backbone`
    the classifier may be missing. Of more than `max_size` bytes, a file is refused. `input_size` is that of an image,
    and `inputs` are the arguments by name, for readers that run what they read.
    """

    arch: str | None = None
    allow: Collection[str] = ()
    allow_package: Collection[str] = ()
    pretrained: bool = False
    ema: bool = False
    key: str | None = None
    backbone: bool = False
    max_size: int | None = None
    input_size: tuple[int, ...] | None = None
    inputs: tuple[tuple[str, Tensor], ...] = field(default=())

    @property
    def trust(self) -> Trust:
        """What a pickle may use."""
        return Trust(tuple(self.allow), tuple(self.allow_package))
