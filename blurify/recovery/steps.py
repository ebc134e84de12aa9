"""One method of recovery after another, each kept only if it helps."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite

from blurify.graph.module import TracedModule
from blurify.recovery.judging import Judge, Score
from blurify.recovery.team import Team


class Steps:
    """Runs one method after another, and takes back what brings nothing."""

    def __init__(self, student: TracedModule, judge: Judge, team: Team) -> None:
        self.student, self.judge, self.team = student, judge, team
        self.best = self.score()
        self.scores = {"carried": self.best}
        self.seconds: dict[str, float] = {}

    def run(self, name: str, step: Callable[[], object], *, by_answers: bool = False) -> None:
        """Run one; keep what it did if it lowers the error, or else the whole score."""
        before = {key: value.clone() for key, value in self.student.state_dict().items()}
        begin = time.perf_counter()
        step()
        self.team.settle(self.student)
        self.seconds[name] = time.perf_counter() - begin
        found = self.score()
        better = found < self.best if by_answers else found.error < self.best.error
        # A NaN is not below anything.
        if not (better and isfinite(found.error)):
            self.student.load_state_dict(before)
        else:
            self.best = found
        self.scores[name] = found

    def score(self) -> Score:
        """How far the student is from what is wanted, as the first process has it."""
        return self.team.decided(self.judge.score(self.student))
