"""The checks are themselves checked: wrong kernels are planted, and each must be caught.

A planted kernel is a C function of ``abi.h``'s type, made by ctypes, round the right one: what it
does wrong is one line below. ``test_ops.py`` runs the same checks over the same cases.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import op_cases
import pytest
from op_cases import (
    Kernels,
    check_definition,
    check_in_place,
    check_nan,
    check_shards,
    check_threads,
    kernels_of,
    named,
)

from fastnn.kernels.aot import executor
from fastnn.kernels.op import OPS

KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)


@dataclass
class Call:
    """One call of a planted kernel: a copy of the table's entry, and the right kernel to run it."""

    entry: np.ndarray
    run: Callable[[], None]
    alone: Callable[[], None]
    thread: int
    threads: int
    dtype: np.dtype
    scratch_bytes: int

    @property
    def sizes(self) -> np.ndarray:
        return self.entry["sizes"][0]

    @property
    def buffers(self) -> np.ndarray:
        return self.entry["buffers"][0]

    @property
    def last(self) -> bool:
        """Whether this is the last of the threads, and so all parts are done."""
        return self.thread == self.threads - 1

    def real(self, buffer: int, n: int) -> np.ndarray:
        """Numbers of a buffer, which may go beyond its end."""
        memory = (ctypes.c_byte * int(n * self.dtype.itemsize)).from_address(
            int(self.buffers[buffer])
        )
        return np.frombuffer(memory, self.dtype)

    def step(self) -> np.ndarray:
        """The step of the call, to be changed in place."""
        memory = (ctypes.c_byte * executor.STEP.itemsize).from_address(int(self.entry["step"][0]))
        return np.frombuffer(memory, executor.STEP)


def plant(kernels: Kernels, op: str, fault: Callable[[Call], None]) -> Kernels:
    """The same kernels, but for one that ``fault`` runs, or does not run, or spoils."""
    right = KERNEL(kernels.provider.kernels[op])

    def planted(address: int, thread: int, threads: int) -> None:
        memory = (ctypes.c_byte * executor.CALL.itemsize).from_address(address)
        entry = np.frombuffer(memory, executor.CALL).copy()
        fault(
            Call(
                entry, lambda: right(entry.ctypes.data, thread, threads),
                lambda: right(entry.ctypes.data, 0, 1), thread, threads, np.dtype(kernels.dtype),
                kernels.provider.scratch_bytes,
            )
        )  # fmt: skip

    function = KERNEL(planted)
    address = ctypes.cast(function, ctypes.c_void_p).value
    provider = replace(kernels.provider, kernels={**kernels.provider.kernels, op: address})
    return _Alive(provider, kernels.dtype, function)


@dataclass(frozen=True)
class _Alive(Kernels):
    """Kernels that keep a planted function from being collected."""

    function: Any = None


def failures(kernels: Kernels, op: str, check: Callable, large: bool) -> tuple[int, int]:
    """How many cases a check refuses, of how many."""
    found, cases = 0, op_cases.cases(OPS[op], kernels, large)
    for case in cases:
        try:
            check(kernels, case)
        except AssertionError:
            found += 1
    return found, len(cases)


# ------------------------------------------------------------------ what can be wrong


def nothing(call: Call) -> None:
    call.run()


def last_row_left_out(call: Call) -> None:
    call.sizes[0] = max(call.sizes[0] - 1, 0)
    call.run()


def one_row_too_many(call: Call) -> None:
    call.sizes[0] += 1
    call.run()


def last_column_missed(call: Call) -> None:
    call.run()
    rows, columns = call.sizes[0], call.sizes[2]
    if call.last:
        call.real(3, rows * columns)[columns - 1 :: columns] = 0


def tail_behind_whole_vectors_missed(call: Call) -> None:
    vector = 64 // call.dtype.itemsize
    call.sizes[0] -= call.sizes[0] % vector if call.sizes[0] > vector else 0
    call.run()


def numbers_beyond_a_block_missed(call: Call) -> None:
    call.sizes[0] = min(call.sizes[0], 1024)
    call.run()


def bias_dropped(call: Call) -> None:
    call.buffers[2] = 0
    call.run()


def weights_of_rows_ignored(call: Call) -> None:
    call.buffers[3] = 0
    call.run()


def gradient_not_divided_by_the_rows(call: Call) -> None:
    call.run()
    if call.last and call.buffers[5]:
        call.real(5, call.sizes[0] * call.sizes[1])[:] *= call.step()["rows"][0]


def gradient_divided_by_its_own_rows(call: Call) -> None:
    """Instead of by those of the whole batch, of which a shard has a part."""
    call.run()
    if call.last and call.buffers[5] and call.sizes[0]:
        factor = call.step()["rows"][0] / call.sizes[0]
        call.real(5, call.sizes[0] * call.sizes[1])[:] *= factor


def one_number_beyond_the_output(call: Call) -> None:
    call.run()
    call.real(2, call.sizes[0] + 1)[-1] = 0


def one_number_before_the_output(call: Call) -> None:
    call.run()
    call.buffers[2] -= call.dtype.itemsize
    call.real(2, 1)[:] = 0


def doubles_beyond_the_output(call: Call) -> None:
    """Too far by one, in place: NaN stay NaN there, other numbers do not."""
    call.run()
    call.real(1, call.sizes[0] + 1)[-1:] *= 2


def scratch_overrun(call: Call) -> None:
    call.run()
    start = int(call.step()["scratch"][0])
    (ctypes.c_byte * 1).from_address(start + call.scratch_bytes)[0] = 0


def input_changed(call: Call) -> None:
    call.run()
    if call.sizes[0]:
        call.real(0, 1)[:] += 1


def input_zeroed_in_the_end(call: Call) -> None:
    call.run()
    if call.last:
        call.real(1, call.sizes[1] * call.sizes[2])[-1] = 0


def step_changed(call: Call) -> None:
    call.run()
    call.step()["rate"] *= 2


def last_bit_depends_on_the_threads(call: Call) -> None:
    call.run()
    if call.last and call.threads > 1 and call.sizes[0]:
        last = call.real(2, call.sizes[0])[-1:]
        last[:] = np.nextafter(last, 9)


def every_thread_does_everything(call: Call) -> None:
    """Harmless where a result is only written, wrong where it is added to."""
    call.alone()


def output_cleared_first(call: Call) -> None:
    if call.thread == 0:
        call.real(2, call.sizes[0])[:] = 0
    call.run()


def nan_becomes_zero(call: Call) -> None:
    call.run()
    if call.last:
        y = call.real(1, call.sizes[0])
        y[np.isnan(y)] = 0


def nan_in_a_row_is_not_seen(call: Call) -> None:
    call.run()
    if call.last and call.sizes[0]:
        rows = call.real(4, call.sizes[0] * 8 // call.dtype.itemsize).view(np.float64)
        rows[np.isnan(rows)] = 0


def number_of_the_first_row_ignored(call: Call) -> None:
    call.sizes[2] = 0
    call.run()


def order_ignored(call: Call) -> None:
    step = call.step()
    order = step["order"].copy()
    step["order"] = 0
    call.run()
    step["order"] = order


def rounded_to_half_the_digits(call: Call) -> None:
    call.run()
    if call.last:
        y = call.real(3, call.sizes[0] * call.sizes[2])
        y[:] = y.astype(np.float32 if call.dtype == np.float64 else np.float16)


def state_not_kept(call: Call) -> None:
    before = [call.real(3 + s, call.sizes[0]).copy() for s in range(4) if call.buffers[3 + s]]
    call.run()
    for s, old in enumerate(before):
        call.real(3 + s, call.sizes[0])[:] = old


def copies_of_gradients_ignored(call: Call) -> None:
    call.sizes[1] = 1
    call.run()


def negative_derivative(call: Call) -> None:
    call.run()
    if call.last:
        call.real(3, call.sizes[0])[:] *= -1


#: Op, fault, and the check that must notice it.
FAULTS = [
    ("dense", last_row_left_out, check_definition),
    ("dense", one_row_too_many, check_definition),
    ("dense", last_column_missed, check_definition),
    ("dense", bias_dropped, check_definition),
    ("dense", input_zeroed_in_the_end, check_definition),
    ("dense", rounded_to_half_the_digits, check_definition),
    ("dense", scratch_overrun, check_definition),
    ("softmax", last_row_left_out, check_definition),
    ("gather", last_row_left_out, check_definition),
    ("gather", order_ignored, check_definition),
    ("gather", number_of_the_first_row_ignored, check_shards),
    ("store", one_row_too_many, check_definition),
    ("store", number_of_the_first_row_ignored, check_shards),
    ("dropout", number_of_the_first_row_ignored, check_shards),
    ("activation", doubles_beyond_the_output, check_threads),
    ("activation", nan_becomes_zero, check_nan),
    ("activation_grad", negative_derivative, check_definition),
    ("add", tail_behind_whole_vectors_missed, check_definition),
    ("add", numbers_beyond_a_block_missed, check_definition),
    ("add", one_number_beyond_the_output, check_definition),
    ("add", one_number_before_the_output, check_definition),
    ("add", input_changed, check_definition),
    ("add", step_changed, check_definition),
    ("add", last_bit_depends_on_the_threads, check_threads),
    ("add", output_cleared_first, check_in_place),
    ("softmax_cross_entropy", weights_of_rows_ignored, check_definition),
    ("softmax_cross_entropy", gradient_not_divided_by_the_rows, check_definition),
    ("softmax_cross_entropy", gradient_divided_by_its_own_rows, check_definition),
    ("softmax_cross_entropy", nan_in_a_row_is_not_seen, check_nan),
    ("update", state_not_kept, check_definition),
    ("update", every_thread_does_everything, check_threads),
    ("update", copies_of_gradients_ignored, check_definition),
]


@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize(
    ("op", "fault", "check"), FAULTS, ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_a_planted_error_is_caught(dtype, op, fault, check):
    # A row too many of a large matrix would reach beyond the guards, into memory of others.
    large = fault is numbers_beyond_a_block_missed
    found, of = failures(plant(kernels_of(dtype), op, fault), op, check, large)
    assert found, f"none of {of} cases notices"


@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize("op", sorted({op for op, _, _ in FAULTS}))
def test_a_right_kernel_in_the_same_place_passes(dtype, op):
    """So that it is the fault which is caught, and not the planting."""
    kernels = plant(kernels_of(dtype), op, nothing)
    for case in op_cases.cases(OPS[op], kernels, large=False):
        with named(kernels, case):
            check_definition(kernels, case)
            check_threads(kernels, case)


#: Faults that other checks cannot see: that is why there are as many checks.
INVISIBLE = [
    ("add", last_bit_depends_on_the_threads, check_definition),
    ("add", output_cleared_first, check_definition),
    ("store", number_of_the_first_row_ignored, check_definition),
    ("activation", nan_becomes_zero, check_definition),
    ("update", every_thread_does_everything, check_definition),
]


@pytest.mark.parametrize(
    ("op", "fault", "check"), INVISIBLE, ids=lambda v: v if isinstance(v, str) else v.__name__
)
def test_each_check_has_its_own_purpose(op, fault, check):
    assert failures(plant(kernels_of("float32"), op, fault), op, check, large=False)[0] == 0


# ------------------------------------------------------------------ wrong formulas


GRADIENT_LOOP = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p
)


@pytest.mark.parametrize("dtype", op_cases.DTYPES)
@pytest.mark.parametrize("op", ["activation_grad", "dense_dx"])
def test_a_wrong_sign_in_one_formula_is_caught(dtype, op):
    """In one derivative of all, in whatever kernel uses it."""
    kernels = kernels_of(dtype)
    loops = dict(kernels.provider.formulas)
    right = GRADIENT_LOOP(loops["activation", "tanh"][1])

    def wrong(d: int, x: int, y: int, n: int, p: int) -> None:
        right(d, x, y, n, p)
        memory = (ctypes.c_byte * (n * np.dtype(dtype).itemsize)).from_address(d)
        np.frombuffer(memory, dtype)[:] *= -1

    planted = GRADIENT_LOOP(wrong)
    address = ctypes.cast(planted, ctypes.c_void_p).value
    loops["activation", "tanh"] = loops["activation", "tanh"][0], address
    spoiled = Kernels(replace(kernels.provider, formulas=loops), dtype)
    for case in op_cases.cases(OPS[op], kernels):
        rows_of_something = all(np.prod(case.shape(o)) for o in case.op.outputs)
        if case.attrs["function"] == "tanh" and rows_of_something:
            with pytest.raises(AssertionError, match="numbers are wrong"):
                check_definition(spoiled, case)
        else:
            check_definition(spoiled, case)
