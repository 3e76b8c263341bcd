"""Time whole training steps on MNIST's images, whose many zeros fastnn leaves out.

    FASTNN_DATA=DIRECTORY python benchmarks/pixels.py --json pixels.json

Everything is as in `train_step.py`, but that the networks for 784 inputs read images instead of
normal numbers. FLOPs are those of products with all the zeros.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fastnn.benchmarks import train_step
from fastnn.benchmarks.networks import PIXELS


def run(argv: Sequence[str] | None = None) -> int:
    """The benchmark as a command; 1 when a peer was wrong, failed, or was named and is missing."""
    return train_step.run(argv, "pixels", PIXELS, "Time training steps on MNIST's images.")


if __name__ == "__main__":
    sys.exit(run())
