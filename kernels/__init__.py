"""Kernels: the arithmetic of fastnn, and nothing of its models.

``op`` is the contract of an operation, ``formula`` and ``scalars`` hold the pointwise formulas,
``ref`` defines every operation in NumPy, ``aot`` holds the compiled kernels and the executor.
This package is installed as ``fastnn.kernels`` and imports nothing from the rest of fastnn.
"""

if __name__ == "kernels":
    raise ImportError(
        "this package is fastnn.kernels; imported as 'kernels' (from the repository root) "
        "every operation would be registered twice"
    )

from . import ref, scalars

__all__ = ["ref", "scalars"]
