"""Whether a program's threads gain anything just now: measured while it runs."""

from __future__ import annotations

from dataclasses import dataclass

#: Seconds of a trial, and how many times as long the program runs before it: at first, and at most,
#: where one trial after the other changes nothing.
TRIAL, SOONEST, LATEST = 2e-3, 50, 400
#: How much faster the other way has to be, and how much slower than usual asks for a trial.
GAIN, CHANGE = 1.1, 1.25


@dataclass
class Pace:
    """Chooses between all of a program's threads and one that does the work of all.

    Threads that wait for each other gain nothing where their cores are far apart, or where somebody
    else's work takes turns on one of these, and how that is changes from second to second. How many
    *workers* do the work of a program's threads changes no result. So one call in a while is made
    the other way, for a fiftieth of the time at most, and the faster way is taken from then on.
    """

    threads: int
    workers: int = 0
    #: Seconds per step: of the last call, and of the fastest since the last trial.
    latest: float = 0.0
    usual: float = 0.0
    #: Seconds spent since the last trial, and for how many times its length the next one waits.
    spent: float = 0.0
    patience: int = SOONEST

    def __post_init__(self) -> None:
        self.workers = self.threads

    @property
    def other(self) -> int:
        """The number of workers that is not in use."""
        return self.threads if self.workers == 1 else 1

    @property
    def is_due(self) -> bool:
        """Whether the next call should be a short one with the other number of workers."""
        length = max(TRIAL, self.threads * self.latest)
        changed = self.latest > CHANGE * self.usual
        return self.spent >= (SOONEST if changed else self.patience) * length

    def went(self, steps: int, seconds: float) -> None:
        """A call with the workers in use made so many steps."""
        self.spent += seconds
        if steps:
            self.latest = seconds / steps
            self.usual = min(self.usual or self.latest, self.latest)

    def tried(self, steps: int, seconds: float) -> None:
        """A call with the other number of workers made so many steps."""
        self.spent = self.usual = 0.0
        self.patience = min(2 * self.patience, LATEST)
        if steps and GAIN * seconds / steps < self.latest:
            self.workers, self.patience = self.other, SOONEST
