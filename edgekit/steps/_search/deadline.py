"""What a search may still spend."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from edgekit.spec import Progress, Search


class TimeIsUp(Exception):
    """The search has no trial or no second left."""


@dataclass
class Deadline:
    """Trials and seconds that are left; `progress` is told after each."""

    limits: Search
    progress: Progress
    start: float = field(default_factory=time.monotonic)
    trials: int = 0
    over: bool = False
    """Whether a trial was refused."""

    @property
    def left(self) -> float:
        """Seconds that are left; below 0 when they are over."""
        return self.limits.seconds - (time.monotonic() - self.start)

    def spend(self, what: str) -> None:
        """Count a trial.

        Raises:
            TimeIsUp: there was none left, or no time.
        """
        if self.trials >= self.limits.trials or self.left <= 0:
            self.over = True
            raise TimeIsUp
        self.trials += 1
        self.say(what)

    def say(self, what: str) -> None:
        """Show what is being done and the time that is left."""
        self.progress(f"{what}, {max(self.left, 0):.0f} s left", self.trials, self.limits.trials)
