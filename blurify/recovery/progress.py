"""How a training has gone so far: the scores of its epochs and the best weights, in a file that it can go on from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blurify.errors import FileError
from blurify.files.atomic import write_atomically
from blurify.recovery.judging import Score


class TrainingProgress:
    """The scores so far, the first of them before any training, and the best weights; in a file, if one is named.

    `parts` are what training changes besides the random state; the file holds them too.
    """

    def __init__(
        self, path: Path | None, student: nn.Module, parts: dict[str, Any], random: torch.Generator, mark: str = ""
    ) -> None:
        self.path, self.student, self.random, self.mark = path, student, random, mark
        self.parts = {"student": student} | parts
        self.scores: list[Score] = []
        self.best: dict[str, Tensor] = {}
        if path is not None and path.exists():
            self._read(path)

    @property
    def stale(self) -> int:
        """How many epochs in a row have not been better than the one before.

        The first at a high rate lie above the start, and come down from there.
        """
        better = [number for number in range(1, len(self.scores)) if self.scores[number] < self.scores[number - 1]]
        return len(self.scores) - 1 - max(better, default=0)

    @property
    def lost(self) -> bool:
        """Return whether the last epoch gave values that are not finite, so that there is nothing to go on from."""
        return len(self.scores) > 1 and not math.isfinite(self.scores[-1].error)

    def note(self, score: Score, write: bool = True) -> None:
        """Note the score of the weights as they are."""
        self.scores.append(score)
        if len(self.scores) == 1 or (math.isfinite(score.error) and score < self._lowest(self.scores[:-1])):
            self.best = {key: value.clone() for key, value in self.student.state_dict().items()}
        if self.path is not None and write:
            content = {name: part.state_dict() for name, part in self.parts.items()}
            scores = [tuple(score) for score in self.scores]
            content |= {"scores": scores, "best": self.best, "random": self.random.get_state(), "mark": self.mark}
            write_atomically(self.path, lambda file: torch.save(content, file))

    @staticmethod
    def _lowest(scores: list[Score]) -> Score:
        # A NaN is not below anything.
        return min((score for score in scores if math.isfinite(score.error)), default=scores[0])

    def _read(self, path: Path) -> None:
        try:
            content: dict[str, Any] = torch.load(path, weights_only=True)
            for name, part in self.parts.items():
                part.load_state_dict(content[name])
            self.scores, self.best = [Score(*score) for score in content["scores"]], content["best"]
            self.random.set_state(content["random"])
            mark = content["mark"]
        except Exception as error:  # whatever a broken file makes torch raise
            raise FileError(f"{path} is no checkpoint of this network's training; remove it to start again.") from error
        check_mark(path, mark, self.mark)


def check_mark(path: Path, found: object, wanted: str) -> None:
    """Refuse a file that another recovery left."""
    if found != wanted:
        raise FileError(
            f"{path} was left by a recovery with other weights, blurs, images, labels, seed, epochs or rate; "
            "repeat the command of that one, or remove the file to start again."
        )
