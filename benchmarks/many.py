"""Time the training of many networks at once, after checking that each is trained right.

    python benchmarks/many.py --json many.json

Everything is as in `train_step.py`, a step being one of every network: the peers are told apart by
how they train many. README.md states their settings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastnn.benchmarks import train_step
from fastnn.benchmarks.networks import MANY


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a peer was wrong, failed, or was named and is missing."""
    return train_step.run(argv, "many", MANY, "Time the training of many networks at once.")


if __name__ == "__main__":
    sys.exit(run())
