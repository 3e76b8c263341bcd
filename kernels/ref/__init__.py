"""The definition of every op in NumPy, beside its contract: the oracle, and the honest baseline.

Nothing here uses ``scalars.py``: two independent statements of a formula are what makes comparing
them worth something. The definitions write into the arrays they are given, as a good engineer
would who cares for speed in NumPy.
"""

from . import dense, images, losses, merging, normalization, pointwise, rows, update, weights
from .formulas import REFERENCE
from .step import Step

__all__ = [
    "REFERENCE",
    "Step",
    "dense",
    "images",
    "losses",
    "merging",
    "normalization",
    "pointwise",
    "rows",
    "update",
    "weights",
]
