"""One formula of the benchmark of formulas: its operands in memory, and what is timed over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fastnn.benchmarks import calls
from fastnn.benchmarks.formula_cases import RATE, Case, attributes
from fastnn.kernels.aot import executor
from fastnn.kernels.op import OPS
from fastnn.kernels.provider import Provider
from fastnn.runtime import aligned

#: Steps of one call of the executor: more than fit into any turn.
ENDLESS = 1 << 30
#: A result may deviate by so many eps of the greatest of the numbers.
TOLERANCE = 64

Measure = Callable[[float], float]  # how long to run -> seconds per call


class Operands:
    """The arrays of a case in a block of memory, and the numbers that they are filled with.

    The numbers of a large case repeat a tile: a small case of the same formula, whose result is
    known. Outputs lie where the op lets them, as in a compiled model: in place of an input.
    """

    def __init__(self, case: Case, tile: Case, memory: np.ndarray) -> None:
        self.case, self.tile = case, tile
        self.contents = tile.draw()
        self.arrays: dict[str, np.ndarray] = {}
        at = 0
        types = {o.name: case.type(o) for o in case.op.operands}
        shared = case.op.in_place
        for name, shape in case.shapes().items():
            if name in shared:
                self.arrays[name] = self.arrays[shared[name]]
                continue
            length = int(np.prod(shape)) * types[name].itemsize
            self.arrays[name] = memory[at : at + length].view(types[name]).reshape(shape)
            # Not all from the same set of the caches on.
            at += -(-length // 64) * 64 + 17 * 64
        self.load()

    @property
    def rows(self) -> int:
        return next(iter(self.arrays.values())).shape[0] if self.case.kind.columns else 1

    def parts(self, name: str) -> np.ndarray:
        """An array as rows that are a tile each."""
        return self.arrays[name].reshape(self.case.numbers // self.tile.numbers, -1)

    def load(self) -> None:
        for operand in self.case.present(self.case.op.inputs):
            if operand.name == "segments":
                self.arrays["segments"][...] = [[0, self.case.numbers, 0, 0]]
            else:
                self.parts(operand.name)[...] = self.contents[operand.name].ravel()

    def clear(self) -> None:
        """No result of an earlier call may pass for one of the next."""
        for operand in self.case.present(self.case.op.outputs):
            self.arrays[operand.name].fill(np.nan)
        self.load()

    def restore(self) -> None:
        for operand in self.case.overwritten:
            self.parts(operand.name)[...] = self.contents[operand.name].ravel()

    def wrong(self, precision: str) -> str:
        """Which result deviates from the NumPy definition in float64; empty if none does."""
        expected = self.tile.define(self.contents, self.rows)
        for name, want in expected.items():
            most = TOLERANCE * np.finfo(precision).eps * (np.abs(want).max() or 1.0)
            parts = self.parts(name)
            for got in (parts[0], parts[-1]):
                # By rounding, a sign or a step may fall on the other side in single numbers.
                errors = ~(np.abs(got - want.ravel()) <= most)
                if errors.mean() > 1e-4:
                    return f"{errors.sum()} of {errors.size} numbers of {name} deviate"
        return ""


class NativeCalls:
    """A provider's kernel over operands, in the executor's loop as in training.

    Before each call, what it overwrites is restored by calls that are not counted: a function of
    its own result, again and again, would end at a fixed point or at zero.
    """

    def __init__(self, kernels: Provider, operands: Operands) -> None:
        self.operands = operands
        case = operands.case
        arrays = [operands.arrays.get(o.name) for o in case.op.operands]
        call = calls.bind(kernels, case.op.name, arrays, **case.attrs)
        entries = [*self._prepare(kernels), *self._restore(kernels), call]
        self._table = np.concatenate(entries)[None]
        self._scratch = aligned(kernels.scratch_bytes)
        self._step = np.zeros(1, executor.STEP)
        self._step["scratch"], self._step["rate"] = self._scratch.ctypes.data, RATE
        self._table["step"] = self._step.ctypes.data
        self._in_place = case.op.in_place and not call["formulas"].any()

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to compute: the identity, in place."""
        return bool(self._in_place)

    def _prepare(self, kernels: Provider) -> Iterator[np.ndarray]:
        """What comes first in a step: ops of the same kind of formula without operands."""
        case = self.operands.case
        for op in OPS.values():
            if not op.operands and op.formula == case.op.formula:
                yield calls.bind(kernels, op.name, (), **attributes(op, case.formula))

    def _restore(self, kernels: Provider) -> Iterator[np.ndarray]:
        for operand in self.operands.case.overwritten:
            source = self.operands.contents[operand.name].ravel()
            parts = self.operands.parts(operand.name)
            copy = calls.bind(
                kernels, "activation", (source, parts[0]), function="identity", parameters=()
            )
            copies = np.repeat(copy, len(parts))
            copies["buffers"][:, 1] += np.arange(len(parts), dtype=np.uintp) * source.nbytes
            yield copies

    def __call__(self, seconds: float) -> float:
        times = np.zeros(self._table.shape[1])
        rows = self.operands.rows
        _, runs = executor.run(
            self._table,
            self._table,
            self._step,
            np.zeros((1, 0), executor.SUM),
            np.zeros((1, 0)),
            compute=len(times),
            split=False,
            rows=rows * ENDLESS,
            batch=rows,
            first=0,
            last=ENDLESS,
            seconds=seconds,
            times=times,
        )
        return float(times[-1]) / runs


def definition(operands: Operands) -> Measure:
    """The NumPy definition over the same operands."""
    return calls.alternate(
        operands.restore, lambda: operands.case.call_definition(operands.arrays, operands.rows)
    )


def pytorch(operands: Operands) -> Measure | None:
    """PyTorch over the same operands, where it is installed and has the formula."""
    try:
        import torch

        from fastnn.benchmarks.torch_activations import TORCH
    except ImportError:
        return None
    case = operands.case
    if case.op.formula != "activation" or case.formula.name not in TORCH:
        return None
    torch.set_num_threads(1)
    forward, backward = TORCH[case.formula.name]
    tensors = [torch.from_numpy(a) for a in operands.arrays.values()]
    parameters = case.attrs["parameters"]
    if len(case.op.inputs) == 1:
        return calls.alternate(operands.restore, lambda: forward(tensors[0], *parameters))
    if backward is None:
        return None
    dy = torch.from_numpy(operands.arrays["dx"])
    x, y = (torch.from_numpy(operands.contents[name]) for name in ("x", "y"))
    return calls.alternate(operands.restore, lambda: backward(dy, x, y, *parameters))
