"""Whether a program's threads gain anything just now: measured while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Seconds of calls that are looked at together, and of a trial at least.
SAMPLE = 2e-3
#: How many times as long as a trial the program runs before it: at first, and at most, where one
#: trial after the other changes nothing.
SOONEST, LATEST = 50, 300
#: Of a sample in the average: a single one may be disturbed.
WEIGHT = 0.25
#: How much faster the other way has to be, and how much slower than usual asks for a trial.
GAIN, CHANGE = 1.1, 1.25


@dataclass
class Pace:
    """Chooses between all of a program's threads and one that does the work of all.

    Threads that wait for each other gain nothing where their cores are far apart, or where somebody
    else's work takes turns on one of these, and how that is changes from second to second. How many
    *workers* do the work of a program's threads changes no result. So now and then some calls are
    made the other way, for about a fiftieth of the time at most, and the faster way is taken from
    then on.
    """

    threads: int
    #: Workers in use, and whether the other number of them is being tried.
    usual: int = field(init=False)
    trying: bool = field(default=False, init=False)
    #: Seconds per step: a moving average over samples, and about the least that it was of late.
    latest: float = field(default=0.0, init=False)
    least: float = field(default=0.0, init=False)
    #: Steps of a call with the workers in use, over which what a call costs by itself is spread.
    call: float = field(default=1.0, init=False)
    #: Seconds since the last trial, how long that took, and for how many times as long to wait.
    since: float = field(default=0.0, init=False)
    trial: float = field(default=SAMPLE, init=False)
    patience: int = field(default=SOONEST, init=False)
    #: Of the sample so far: calls, steps, seconds of these, and seconds of all.
    sample: tuple[int, float, float, float] = field(default=(0, 0.0, 0.0, 0.0), init=False)

    def __post_init__(self) -> None:
        self.usual = self.threads

    @property
    def workers(self) -> int:
        """How many are to make the next call."""
        other = self.threads if self.usual == 1 else 1
        return other if self.trying else self.usual

    def begin(self) -> bool:
        """Before a call: whether it belongs to a trial, and should take no longer than a sample."""
        changed = self.latest > CHANGE * self.least
        length = max(self.trial, self.threads * self.latest)
        if not self.trying and self.since >= (SOONEST if changed else self.patience) * length:
            self.trying, self.sample = True, (0, 0.0, 0.0, 0.0)
        return self.trying

    def ran(self, steps: float, within: float, seconds: float) -> None:
        """After a call, which took so many seconds, those ``within`` it for its steps."""
        calls, all_steps, all_within, total = self.sample
        self.sample = calls + 1, all_steps + steps, all_within + within, total + seconds
        self.since += seconds
        if self.sample[1] and self.sample[3] >= SAMPLE:
            self._judge(*self.sample)
            self.sample = (0, 0.0, 0.0, 0.0)

    def _judge(self, calls: int, steps: float, within: float, seconds: float) -> None:
        if not self.trying:
            each, self.call = seconds / steps, steps / calls
            self.latest += (each - self.latest) * (WEIGHT if self.latest else 1)
            self.least = min(self.least or self.latest, self.latest)
            return
        # A trial's calls may be shorter than others.
        each = within / steps + (seconds - within) / calls / max(self.call, steps / calls)
        if GAIN * each < self.latest:
            self.usual, self.patience, self.latest, self.least = self.workers, SOONEST, each, each
        else:  # what was a change is less of one the next time
            self.patience = min(2 * self.patience, LATEST)
            self.least = min(self.latest, CHANGE * self.least)
        self.trying, self.trial, self.since = False, seconds, 0.0
