"""What changes from step to step, as the NumPy definitions see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Step:
    """``step`` updates came before; the batch has ``rows`` rows from position ``first`` on."""

    step: int = 0
    rows: int = 1
    first: int = 0
    order: np.ndarray | None = None
    seed: int = 0
    rate: float = 0.0

    def positions(self, rows: int) -> slice | np.ndarray:
        """Row numbers in the user's arrays."""
        span = slice(self.first, self.first + rows)
        return span if self.order is None else self.order[span]
