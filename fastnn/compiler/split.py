"""How threads divide a step: by rows of the batch, within each op, by hidden units, or not at all.

*shard*: each thread runs forward and backward on its rows with its own arena and its own gradients,
which the update pass sums: two barriers a step, but the gradients are written and read once per
thread. *split*: threads share each op, and meet where one needs what another has done. *units*:
each thread has its part of the units of every other hidden layer with all their weights, and they
meet for the sums behind these (`units.py`). The estimate below needs to be right only about which
of the four is best: that decides how numbers are summed, so it must not depend on what is measured.
Where the gain is doubtful one thread does the work; where threads gain nothing just now, one does
the work of all (`fastnn.pace`). Of shared calls a barrier is counted for each, although there are
fewer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

#: What the estimate assumes of the machine, measured on cores with AVX-512; only ratios matter.
FLOPS = 1e11  # of one thread, in the products of a training step
BYTES = 1e10  # per second and thread, to and from memory beyond the caches
HANDED = 8e9  # per second, from one thread to another (Zen 4: 14e9 in a cluster of cores, else 3e9)
BARRIER = 1.5e-6  # seconds for threads to meet
#: The same for each thread but one, where all have equal shares of the units and arrive together.
MEETING = 5e-7
LEAST_GAIN = 1.25  # over one thread, by the estimate


@dataclass(frozen=True)
class Units:
    """What a thread that has its part of the units does: its share of the FLOPs, how often it meets
    others, the bytes that it reads beside its part of all, and those that it copies in each native
    call."""

    share: float
    meetings: int
    moved: float
    copied: float


@dataclass(frozen=True)
class Split:
    """``mode`` is ``one``, ``shard``, ``split`` or ``units``; ``why`` is for people."""

    mode: str
    threads: int
    why: str


def available_threads() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def choose(
    flops: float,
    parameters: int,
    calls: int,
    rows: int,
    itemsize: int,
    threads: int,
    can_shard: bool = True,
    units: Units | None = None,
    moved: float = 0.0,
    steps: int = 1,
    forced: bool = False,
) -> Split:
    """The best way to divide a step over up to ``threads`` threads.

    ``flops`` and ``calls`` are those of forward and backward for ``rows`` rows, ``moved`` the bytes
    that calls hand on to each other; ``units`` is None where hidden units cannot be divided. A
    native call is of about ``steps`` steps. ``forced`` takes all the threads that were asked
    for, by the best way.
    """
    if threads == 1:
        return Split("one", 1, "one thread")
    alone = flops / FLOPS
    gradient_traffic = 2 * parameters * itemsize / HANDED
    # What one call writes another reads, weights among it, and of shared calls often from another
    # thread's cache.
    handed_on = (moved + parameters * itemsize) * (threads - 1) / threads / HANDED
    candidates = {"split": alone / threads + calls * BARRIER + handed_on}
    if can_shard and rows >= threads:
        # Each thread's products are lower, which costs a little; gradients pass once per thread.
        candidates["shard"] = alone / threads + 2 * BARRIER + gradient_traffic
    if units is not None:
        meeting = units.meetings * MEETING * (threads - 1)
        copies = units.copied / BYTES / steps
        candidates["units"] = alone * units.share + meeting + units.moved / HANDED + copies
    mode = min(candidates, key=lambda m: candidates[m])
    gain = alone / candidates[mode] if candidates[mode] else 1.0
    if gain < LEAST_GAIN and not forced:
        return Split("one", 1, f"one thread: {threads} would gain {gain:.2f}x by estimate")
    ways = {
        "shard": "each with its rows of the batch",
        "split": "sharing each call",
        "units": "each with its hidden units",
    }
    return Split(mode, threads, f"{threads} threads, {ways[mode]} (estimated gain {gain:.1f}x)")
