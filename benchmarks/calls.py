"""What benchmarks of single kernels share: calls of compiled kernels, and of Python functions."""

from __future__ import annotations

import inspect
import time
import typing
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastnn.kernels import provider
from fastnn.kernels.aot import executor
from fastnn.kernels.op import OPS, Binding
from fastnn.kernels.provider import Provider


def providers(dtype: str) -> list[Provider]:
    """Every provider of compiled kernels for a number type, each at its best level."""
    found = []
    for make in vars(provider).values():
        if not inspect.isfunction(make) or make.__module__ != provider.__name__:
            continue
        if typing.get_type_hints(make).get("return") is Provider:
            try:
                found.append(make(dtype))
            except ImportError:  # of an optional package
                continue
    return found


def bind(
    kernels: Provider, op: str, operands: Sequence[np.ndarray | None], **attrs: Any
) -> np.ndarray:
    """One call of an op's kernel over arrays (inputs, then outputs): a CALL array of one entry.

    The caller keeps the arrays alive, and sets ``step``.
    """
    call = np.zeros(1, executor.CALL)
    contract = OPS[op]
    for i, operand in enumerate(operands):
        call["buffers"][0, i] = 0 if operand is None else operand.ctypes.data
    dims = contract.dims([None if operand is None else operand.shape for operand in operands])
    given = {
        o.name for o, array in zip(contract.operands, operands, strict=True) if array is not None
    }
    call["kernel"] = kernels.kernel(op, dims, attrs, given, 1)
    for name, values in {
        "sizes": contract.sizes(dims, attrs, Binding()),
        "constants": contract.constants(attrs),
    }.items():
        call[name][0, : len(values)] = values
    # The identity stands for no formula at all, as in the runtime.
    if contract.formula is not None and attrs.get("function", "identity") != "identity":
        call["formulas"] = kernels.formulas[contract.formula, attrs["function"]]
    return call


def repeat(call: Callable[[], object]) -> Callable[[float], float]:
    """A Python call as a function of how long to run it, returning seconds per call."""

    def measure(seconds: float) -> float:
        call()
        runs, start = 0, time.perf_counter()
        while (spent := time.perf_counter() - start) < seconds:
            call()
            runs += 1
        return spent / max(runs, 1)

    return measure


def alternate(before: Callable[[], object], call: Callable[[], object]) -> Callable[[float], float]:
    """The same, where something uncounted comes ``before`` each call."""

    def measure(seconds: float) -> float:
        runs, spent, start = 0, 0.0, time.perf_counter()
        while runs == 0 or time.perf_counter() - start < seconds:
            before()
            began = time.perf_counter()
            call()
            spent += time.perf_counter() - began
            runs += 1
        return spent / runs

    return measure
