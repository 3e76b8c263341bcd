"""Running a program: one runner per backend, with the same interface.

A runner owns the memory that a program's plan asks for, and runs any number of steps per call. The
flat parameters and the optimizer's state belong to the model and are only referred to.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter
from typing import Any

import numpy as np

from .compiler import Node, Program, Tensor, feed_name
from .compiler.meet import waits
from .compiler.plan import concrete, tensor_bytes
from .kernels import aot, provider, ref
from .kernels.aot import executor
from .kernels.formula import FORMULAS
from .kernels.op import BATCH, Binding, Op, Shape
from .kernels.ref.random import shuffled
from .pace import SAMPLE, Pace

Feeds = Mapping[str, np.ndarray]

#: The calls for a whole batch and for the last one of an epoch, each with what they view.
_Tables = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

#: Seconds of one native call, so that Ctrl-C and the progress bar are served in time.
SLICE = 0.05

#: FLOPs of a call from Python from which on other Python threads run meanwhile: to let them takes
#: a microsecond, and to come back as long as they wish.
LONG = 1e7

FINISHED, OUT_OF_TIME, NOT_FINITE = executor.FINISHED, executor.OUT_OF_TIME, executor.NOT_FINITE

_CODES = {np.dtype(np.uint8): 0, np.dtype(np.float32): 1, np.dtype(np.float64): 2}
_TYPES: dict[str, np.dtype] = {"int32": np.dtype(np.int32), "double": np.dtype(np.float64)}

address_of = executor.address_of

#: Backends that a user can name. ``auto`` is ``cython``.
BACKENDS = ("auto", "cython", "numba", "numpy")


def aligned(n: int, dtype: str | np.dtype = "uint8") -> np.ndarray:
    """An array of n zeros that starts on a cache line."""
    size = n * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -address_of(raw) % 64
    return raw[start : start + size].view(dtype)


@dataclass
class State:
    """What training changes: parameters, the optimizer's slots, what layers keep beside their
    parameters, and how far it has come."""

    parameters: np.ndarray
    slots: list[np.ndarray]
    seed: int
    updates: int = 0
    epochs: int = 0
    buffers: np.ndarray = field(default_factory=lambda: aligned(0, "float32"))
    #: Memory for a copy of all that, while nobody uses it: new memory takes the system longer than
    #: a copy takes.
    spare: list[np.ndarray] = field(default_factory=list, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"spare": []}

    @property
    def arrays(self) -> list[np.ndarray]:
        """All that training changes."""
        return [self.parameters, *self.slots, self.buffers]

    def copy(self, dtype: str | None = None) -> State:
        """The same with arrays of its own, perhaps of another number type."""

        def copied(array: np.ndarray) -> np.ndarray:
            made = aligned(array.size, dtype or array.dtype)
            made[:] = array
            return made

        parameters, *slots, buffers = map(copied, self.arrays)
        return replace(self, parameters=parameters, slots=slots, buffers=buffers, spare=[])


@dataclass
class Order:
    """The order of the rows in the current epoch, with room to sort the next one."""

    rows: int
    order: np.ndarray = field(init=False)
    keys: np.ndarray = field(init=False)
    epoch: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        if self.rows >= 1 << 32:  # a row's number and its key are sorted as one of 64 bits
            raise ValueError(f"X: fewer than 2**32 rows can be shuffled, got {self.rows}")
        self.order = np.empty(2 * self.rows, np.int64)
        self.keys = np.empty(self.rows, np.uint32)
        self.epoch = np.array([-1], np.int64)


@dataclass(frozen=True)
class _Span:
    """Which steps to run, and how: the arguments of `Runner.run`."""

    rows: int
    batch: int
    first: int
    last: int
    order: Order | None
    seconds: float
    times: np.ndarray | None
    update: bool
    workers: int | None

    def whole_steps(self, step: int) -> float:
        """How many whole batches are as many rows as the steps before this one have."""
        epochs, rest = divmod(step, -(-self.rows // self.batch))
        return epochs * self.rows / self.batch + rest


class Runner:
    """What runners share; ``progress`` holds the next step, also when a run was interrupted.

    A runner's memory serves one run at a time: ``lock`` is held within one, and by who reads
    afterwards what it left.
    """

    name: str
    program: Program
    state: State
    progress: np.ndarray
    lock: threading.RLock

    @property
    def providers(self) -> list[str]:
        """Where the kernel of each call comes from."""
        return [self.name] * len(self.program.nodes)

    def gradients(self) -> np.ndarray:
        """The flat gradients of the last step (with several shards, of the first)."""
        raise TypeError("a runner defines gradients()")

    def run(
        self,
        feeds: Feeds,
        totals: np.ndarray,
        *,
        rows: int,
        batch: int,
        first: int = 0,
        last: int,
        order: Order | None = None,
        seconds: float = 1e9,
        times: np.ndarray | None = None,
        update: bool = True,
        workers: int | None = None,
    ) -> tuple[int, int]:
        """Run steps ``first`` to ``last`` of batches of ``batch`` out of ``rows`` rows.

        Sums are added to ``totals`` (epochs, sums) and seconds per call to ``times``. Without
        ``update`` nothing is changed. So many ``workers`` do the work of the program's threads, or
        as many as these are; by default the runner chooses. Returns how the run ended
        (``FINISHED``, ``OUT_OF_TIME``, ``NOT_FINITE``) and the next step, or the one whose loss is
        lost.
        """
        with self.lock:
            span = _Span(rows, batch, first, last, order, seconds, times, update, workers)
            return self._run(feeds, totals, span)

    def _run(self, feeds: Feeds, totals: np.ndarray, span: _Span) -> tuple[int, int]:
        raise TypeError("a runner defines _run()")

    def run_all(
        self,
        feeds: Feeds,
        totals: np.ndarray,
        *,
        rows: int,
        batch: int,
        workers: int | None = None,
    ) -> None:
        """Run over all rows once, in slices that leave Python time to handle signals."""
        steps = -(-rows // batch)
        step = 0
        while step < steps:
            status, step = self.run(
                feeds, totals, rows=rows, batch=batch, first=step, last=steps, seconds=SLICE,
                workers=workers,
            )  # fmt: skip
            # A loss that is not finite is a result here: go on.
            step += status == NOT_FINITE


class NumpyRunner(Runner):
    """Runs a program with the NumPy definitions: the oracle, and the honest baseline."""

    name = "numpy"

    def __init__(self, program: Program, state: State) -> None:
        self.program, self.state = program, state
        self.lock = threading.RLock()
        self._gradients = np.zeros(program.gradients, program.dtype)
        self._arena = aligned(program.plan.arena_bytes)
        self._results = aligned(program.plan.rows_bytes)
        self._views: dict[int, dict[Tensor, np.ndarray]] = {}
        self.progress = np.zeros(1, np.int64)

    def _view(self, tensor: Tensor, rows: int) -> np.ndarray:
        views = self._views.setdefault(rows, {})
        if tensor not in views:
            views[tensor] = self._make_view(tensor, concrete(tensor.shape, rows))
        return views[tensor]

    def _make_view(self, tensor: Tensor, shape: tuple[int, ...]) -> np.ndarray:
        dtype = _TYPES.get(tensor.type) or np.dtype(self.program.dtype)
        count = int(np.prod(shape))
        if tensor.region in ("arena", "rows"):
            memory = self._arena if tensor.region == "arena" else self._results
            start = self.program.plan.offsets[tensor]
            return memory[start : start + count * dtype.itemsize].view(dtype).reshape(shape)
        if tensor.region == "table":
            return self.program.tables[tensor]
        if tensor.region == "state":
            flat = self.state.slots[tensor.slot]
        elif tensor.region == "gradients":
            flat = self._gradients
        else:
            flat = self.state.buffers if tensor.region == "buffers" else self.state.parameters
        return flat[tensor.offset : tensor.offset + count].reshape(shape)

    def execute(self, node: Node, feeds: Feeds, step: ref.Step, rows: int) -> None:
        """Run one call."""
        operands = [
            None if t is None else feeds[t.name] if t.region == "feed" else self._view(t, rows)
            for t in node.operands
        ]
        extra = {"step": step} if node.op.uses_step else {}
        node.op.define(*operands, **node.attrs, **extra)

    def results(self, node: Node, rows: int) -> list[np.ndarray]:
        """What a call has written, outside the user's arrays."""
        return [self._view(t, rows) for t in node.outputs if t is not None and t.region != "feed"]

    def gradients(self) -> np.ndarray:
        return self._gradients

    def _run(self, feeds: Feeds, totals: np.ndarray, span: _Span) -> tuple[int, int]:
        deadline = perf_counter() + span.seconds
        self.progress[0] = span.first
        per_epoch = -(-span.rows // span.batch)
        nodes, compute = self.program.nodes, self.program.compute
        for s in range(span.first, span.last):
            step = self._step(s, span.rows, span.batch, span.order)
            with np.errstate(all="ignore"):
                self._execute_all(0, nodes[:compute], feeds, step, span.times)
                if not self._take_sums(totals, s // per_epoch, step.rows):
                    return NOT_FINITE, s
                if span.update:
                    self._execute_all(compute, nodes[compute:], feeds, step, span.times)
            if span.update:
                self.progress[0] = s + 1
            if s + 1 < span.last and perf_counter() >= deadline:
                return OUT_OF_TIME, s + 1
        return FINISHED, span.last

    def _step(self, s: int, rows: int, batch: int, order: Order | None) -> ref.Step:
        epoch, position = divmod(s, -(-rows // batch))
        start = position * batch
        step = ref.Step(
            step=self.state.updates + s,
            rows=min(batch, rows - start),
            first=start,
            seed=self.state.seed,
        )
        if order is not None:
            number = self.state.epochs + epoch
            if order.epoch[0] != number:
                order.order[:rows] = shuffled(self.state.seed, number, rows)
                order.epoch[0] = number
            step.order = order.order
        return step

    def _execute_all(
        self,
        first: int,
        nodes: Sequence[Node],
        feeds: Feeds,
        step: ref.Step,
        times: np.ndarray | None,
    ) -> None:
        for i, node in enumerate(nodes, first):
            began = perf_counter()
            self.execute(node, feeds, step, step.rows)
            if times is not None:
                times[i] += perf_counter() - began

    def first_not_finite(
        self, feeds: Feeds, *, rows: int, batch: int, step: int, order: Order | None
    ) -> str:
        """Name of the first op of a step with a NaN or an infinity in its result."""
        context = self._step(step, rows, batch, order)
        with np.errstate(all="ignore"):
            for i, node in enumerate(self.program.nodes[: self.program.compute]):
                self.execute(node, feeds, context, context.rows)
                for result in self.results(node, context.rows):
                    if not np.isfinite(result).all():
                        return f"call {i}, {node.op.name} ({', '.join(map(repr, node.inputs))})"
        return "the loss"

    def _take_sums(self, totals: np.ndarray, epoch: int, rows: int) -> bool:
        finite = True
        for i, result in enumerate(self.program.sums):
            total = self._view(result.tensor, rows).sum()
            totals[epoch, i] += total if result.per_row else total * rows
            finite &= bool(np.isfinite(total)) or not result.is_loss
        return finite


class NativeRunner(Runner):
    """Runs a program with compiled kernels: whole epochs in one call, without the GIL.

    ``others`` names calls whose kernels come from another provider. Those that are not compiled yet
    are compiled by a thread of their own, and take their places between two runs. Without a
    ``pace`` that chooses, there is a worker for each of the program's threads.
    """

    def __init__(
        self,
        program: Program,
        state: State,
        kernels: provider.Provider,
        others: Mapping[int, provider.Provider] | None = None,
        pace: Pace | None = None,
    ) -> None:
        others = others or {}
        scratch = max(k.scratch_bytes for k in (kernels, *others.values()))
        program = replace(program, scratch=program.split.threads * scratch)
        self.program, self.state, self.provider = program, state, kernels
        self.lock = threading.RLock()
        self.name = ", ".join(dict.fromkeys(k.name for k in (kernels, *others.values())))
        plan, split = program.plan, program.split
        self._shards = split.threads if split.mode == "shard" else 1
        self._item = np.dtype(program.dtype).itemsize
        self._gradients = aligned(program.copies * program.gradients, program.dtype)
        self._arenas = [aligned(plan.arena_bytes) for _ in range(program.copies)]
        self._results = [
            aligned(plan.rows_bytes) for _ in range(program.copies if program.by_units else 1)
        ]
        # While one thread reads the terms of a sum, another may write its own of the next.
        self._exchanged = aligned(2 * program.exchanged)
        #: Where units are divided, each thread's own of the model's vectors.
        sizes = [*[program.parameters] * (1 + program.states), program.buffers]
        self._own = [
            [aligned(size, program.dtype) for size in sizes]
            for _ in range(split.threads if program.by_units else 0)
        ]
        self._moves = self._own_moves()
        self._scratch = [aligned(scratch) for _ in range(split.threads)]
        self._steps = aligned(split.threads, executor.STEP)
        self._steps["scratch"] = [address_of(s) for s in self._scratch]
        self._sums = np.zeros((len(self._results), len(program.sums)), executor.SUM)
        for results, line in zip(self._results, self._sums, strict=True):
            for entry, result in zip(line, program.sums, strict=True):
                entry["values"] = address_of(results) + plan.offsets[result.tensor]
                entry["count"] = -1 if result.per_row else result.tensor.shape[0]
                entry["is_loss"] = result.is_loss
        #: By number of rows, and of workers.
        self._tables: dict[tuple[int, int], np.ndarray] = {}
        self._meetings: dict[tuple[int, ...], list[bool]] = {}
        #: Where the user's arrays lay when a table was last pointed at them, and what it views.
        self._places: dict[tuple[int, int], tuple[Any, np.ndarray]] = {}
        self.progress = np.zeros(1, np.int64)
        #: Of each call, the kernel's address and the name of its provider.
        self._chosen = {
            i: (self._kernel(node, kernels), kernels.name) for i, node in enumerate(program.nodes)
        }
        self._pace, self._lasted = pace, np.zeros(1)
        self._arrived: dict[int, int] = {}
        self._others = others
        if others:
            self._take_others()

    @property
    def providers(self) -> list[str]:
        return [name for _, name in self._chosen.values()]

    def ready_table(self, rows: int) -> np.ndarray:
        """The calls for a batch, over made-up data, after one step: for measuring each."""
        rng = np.random.default_rng(0)
        feeds = {}
        for i, j, name in self._feed_places:
            tensor = self.program.nodes[i].operands[j]
            assert tensor is not None
            shape = concrete(tensor.shape, rows)
            numbers = rng.normal(size=shape) if tensor.type == "real" else np.zeros(shape)
            feeds[name] = numbers.astype(_TYPES.get(tensor.type, self.program.dtype))
        totals = np.zeros((1, len(self.program.sums)))
        order = Order(rows)
        workers = self.program.split.threads
        self.run(feeds, totals, rows=rows, batch=rows, last=1, order=order, workers=workers)
        self._measured = feeds, order  # the calls point to them
        return self.table(rows)

    def _take_others(self) -> None:
        """Take the kernels of other providers that are there, and have the rest compiled."""
        from .kernels.jit import compiled

        late = []
        for i, other in self._others.items():
            try:
                with compiled.loading_only():
                    self._take(i, self._kernel(self.program.nodes[i], other))
            except compiled.NotCompiled:
                late.append(i)
        if late:  # no daemon: the compiler must not be stopped in the middle
            threading.Thread(target=self._compile, args=(late,)).start()

    def _take(self, i: int, kernel: int) -> None:
        self._chosen[i] = kernel, self._others[i].name
        for (_, workers), table in self._tables.items():
            table["kernel"][self._doers(i, workers), i] = kernel
        self._places.clear()

    def _doers(self, i: int, workers: int) -> list[int]:
        """Threads that do a call. What all threads would do alike, the lowest of each worker does;
        what only prepares a step is for each thread."""
        lowest = executor.lowest_of_worker(self.program.split.threads, workers)
        node = self.program.nodes[i]
        alike = i in self.program.repeated and (node.outputs or node.op.writes)
        return sorted(set(lowest)) if alike else list(range(len(lowest)))

    def _compile(self, calls: Sequence[int]) -> None:
        arrived, failed = {}, []
        for i in calls:
            try:
                arrived[i] = self._kernel(self.program.nodes[i], self._others[i])
            except Exception as error:  # training goes on with the kernel that it has
                failed.append(i)
                warnings.warn(f"a kernel that was chosen cannot be compiled: {error}", stacklevel=1)
        # In this order: what has arrived is looked up among the others, in another thread.
        self._others = {i: other for i, other in self._others.items() if i not in failed}
        self._arrived = arrived

    def _take_arrived(self) -> None:
        """Take what has been compiled meanwhile: between runs, where no thread is in a kernel."""
        for i, kernel in self._arrived.items():
            self._take(i, kernel)
        self._arrived = {}

    def gradients(self) -> np.ndarray:
        return self._gradients[: self.program.gradients]

    def _address(self, tensor: Tensor, shard: int, first_row: int) -> int:
        flat = tensor.offset * self._item
        match tensor.region:
            case "arena":
                return address_of(self._arenas[shard]) + self.program.plan.offsets[tensor]
            case "rows":
                row = first_row * 8 if tensor.shape[0] == BATCH else 0
                results = self._results[shard if self.program.by_units else 0]
                return address_of(results) + self.program.plan.offsets[tensor] + row
            case "parameters" if self.program.by_units:
                return address_of(self._own[shard][0]) + flat
            case "state" if self.program.by_units:
                return address_of(self._own[shard][1 + tensor.slot]) + flat
            case "buffers" if self.program.by_units:
                return address_of(self._own[shard][-1]) + flat
            case "parameters":
                return address_of(self.state.parameters) + flat
            case "buffers":
                return address_of(self.state.buffers) + flat
            case "gradients":
                shard_start = shard * self.program.gradients * self._item
                return address_of(self._gradients) + shard_start + flat
            case "state":
                return address_of(self.state.slots[tensor.slot]) + flat
            case "table":
                return address_of(self.program.tables[tensor])
        return 0  # a feed, or what threads exchange: filled in for each run

    def _own_moves(self) -> np.ndarray:
        """What each thread copies to memory of its own, and back, a line per thread."""
        moves: list[list[tuple[int, int, int, int, int, bool]]] = []
        for thread, owned in enumerate(self._own):
            moves.append([])
            *vectors, buffers = zip(self.state.arrays, owned, strict=True)
            for part in self.program.parts:
                for theirs, mine in [buffers] if part.own.region == "buffers" else vectors:
                    start, rows, length, stride = part.place(thread)
                    moves[-1].append((
                        address_of(theirs) + start * self._item,
                        address_of(mine) + part.own.offset * self._item,
                        rows, length * self._item, stride * self._item,
                        part.axis is not None or thread == 0,
                    ))  # fmt: skip
        return np.array(moves, executor.MOVE).reshape(self.program.split.threads, -1)

    def table(self, rows: int, workers: int = 0) -> np.ndarray:
        """The calls for a batch of ``rows`` rows, one line per thread, for so many workers."""
        workers = workers or self.program.split.threads
        if (rows, workers) not in self._tables:
            threads = self.program.split.threads
            lowest = executor.lowest_of_worker(threads, workers)
            table = np.zeros((threads, len(self.program.nodes)), executor.CALL)
            for thread in range(threads):
                shard, first, span = self._part(rows, thread)
                step = address_of(self._steps) + thread * self._steps.itemsize
                table[thread]["step"] = step
                for call, node in zip(table[thread], self.program.nodes, strict=True):
                    self._bind(call, node, shard, first, span, lowest[thread])
            for i, (kernel, _) in self._chosen.items():
                table["kernel"][self._doers(i, workers), i] = kernel
            self._tables[rows, workers] = table
        return self._tables[rows, workers]

    def _part(self, rows: int, thread: int) -> tuple[int, int, int]:
        """Of a batch of so many rows, a thread's arena, its first row and how many it has."""
        if self.program.by_units:
            return thread, 0, rows
        shard = thread if self._shards > 1 else 0
        first = rows * shard // self._shards
        return shard, first, rows * (shard + 1) // self._shards - first

    def _is_shared(self, op: Op) -> bool:
        """Whether threads that each run all calls divide the work of this one."""
        return op.shared and not self.program.by_units

    def _bind(
        self, call: Any, node: Node, shard: int, first: int, rows: int, lowest: int = 0
    ) -> None:
        """Fill in a thread's call; ``lowest`` has what all threads of its worker make alike."""
        op = node.op
        shared = self._is_shared(op)
        if shared:  # the threads divide one call among them: it is the same for all
            shard, first = 0, 0
        call["shared"] = shared
        for i, tensor in enumerate(node.operands):
            if tensor is not None:
                alike = self.program.by_units and tensor in self.program.common
                call["buffers"][i] = self._address(tensor, lowest if alike else shard, first)
        shapes = [concrete(t.shape, rows) if t is not None else None for t in node.operands]
        divided = self.program.by_units and not self.program.is_repeated(node)
        binding = Binding(first_row=first, copies=self._shards, part=shard if divided else 0)
        sizes = op.sizes(op.dims(shapes), node.attrs, binding)
        call["sizes"][: len(sizes)] = sizes
        constants = op.constants(node.attrs)
        call["constants"][: len(constants)] = constants
        if op.formula is not None and node.attrs["function"] != "identity":
            formula = FORMULAS[op.formula][node.attrs["function"]]
            call["formulas"] = self.provider.loops(formula)

    def _kernel(self, node: Node, kernels: provider.Provider) -> int:
        """The kernel of a call, made for a whole batch if for any: a smaller one can use it too."""
        split, op = self.program.split, node.op
        rows = -(-self.program.batch // self._shards)
        shapes = [concrete(t.shape, rows) if t is not None else None for t in node.operands]
        threads = split.threads if split.mode == "split" or self._is_shared(op) else 1
        operands = zip(op.operands, node.operands, strict=True)
        given = {operand.name for operand, tensor in operands if tensor is not None}
        return kernels.kernel(op.name, op.dims(shapes), node.attrs, given, threads)

    def direct(
        self, rows: int, example: Shape, output: Shape, refuse: Callable[[Any, Any], None]
    ) -> executor.Direct | None:
        """The program for so many rows as a function of two arrays, without what `run` does for
        any program; None where threads divide it, BLAS takes part, or dimensions are too many.

        The function calls ``refuse(x, out)`` with arrays that do not fit. It has this runner to
        itself: `run` would leave other steps behind.
        """
        dimensions = 1 + max(len(example), len(output))
        if self.program.split.threads > 1 or "blas" in self.providers:
            return None
        if dimensions > executor.MOST_DIMENSIONS:
            return None
        self._steps["rows"], self._steps["first"], self._steps["order"] = rows, 0, 0
        numbers = {"float32": b"-f", "float64": b"--d"}[self.program.dtype]
        places = {
            name: [(i, j) for i, j, feed in self._feed_places if feed == name]
            for name in (feed_name("x", 0), feed_name("out", 0))
        }
        return executor.Direct(
            self.table(rows)[0],
            self._steps,
            (places[feed_name("x", 0)], (rows, *example), b"Bfd"),
            (places[feed_name("out", 0)], (rows, *output), numbers),
            self.program.flops(rows) > LONG,
            threading.Lock(),
            refuse,
            self,
        )

    @property
    def is_waiting(self) -> bool:
        """Whether kernels that were chosen are still being compiled."""
        return any(self._chosen[i][1] != other.name for i, other in self._others.items())

    @cached_property
    def _feed_places(self) -> tuple[tuple[int, int, str], ...]:
        """Call, operand and name of each of the user's arrays."""
        return tuple(
            (i, j, tensor.name)
            for i, node in enumerate(self.program.nodes)
            for j, tensor in enumerate(node.operands)
            if tensor is not None and tensor.region == "feed"
        )

    @cached_property
    def _exchanges(self) -> tuple[tuple[int, int, Tensor], ...]:
        """Call, operand and tensor of what threads write for each other."""
        return tuple(
            (i, j, tensor)
            for i, node in enumerate(self.program.nodes)
            for j, tensor in enumerate(node.operands)
            if tensor is not None and tensor.region == "exchange"
        )

    @cached_property
    def _copies(self) -> tuple[tuple[int, str, np.dtype, Tensor, tuple[tuple[int, int], ...]], ...]:
        """Calls that only copy rows of the user's arrays: their numbers, the arrays, and the
        copies, with their type and the calls and operands that read them. A copy that is changed
        later has to be one."""
        found = []
        for i, node in enumerate(self.program.nodes):
            if not node.op.copies(node.attrs):
                continue
            (source,), (copy,) = node.inputs, node.outputs
            assert source is not None and copy is not None
            readers = [
                (call, j, reader.op.operands[j].name in reader.op.writes)
                for call, reader in enumerate(self.program.nodes)
                for j, tensor in enumerate(reader.operands)
                if tensor is copy and call != i
            ]
            if not any(written for *_, written in readers):
                dtype = _TYPES.get(copy.type, np.dtype(self.program.dtype))
                places = tuple((call, j) for call, j, _ in readers)
                found.append((i, source.name, dtype, copy, places))
        return tuple(found)

    def _feed(self, table: np.ndarray, feeds: Feeds) -> None:
        """Point the calls that touch the user's arrays at these arrays."""
        buffers, sizes = table["buffers"], table["sizes"]
        for i, j, name in self._feed_places:
            array = feeds[name]
            buffers[:, i, j] = address_of(array)
            sizes[:, i, 3:6] = _CODES.get(array.dtype, 0), array.strides[0], array.strides[-1]

    def _views(
        self, table: np.ndarray, rows: int, workers: int, feeds: Feeds, ordered: bool
    ) -> np.ndarray:
        """Where calls find what moves from step to step, a line per thread.

        Where rows are taken in order and as they lie, nothing is copied: who would read the copy
        reads the array.
        """
        views: list[list[tuple[int, int, int, int, int]]] = [[] for _ in table]
        left_out: tuple[int, ...] = ()
        lowest = executor.lowest_of_worker(len(table), workers)
        for i, name, dtype, copy, readers in self._copies:
            array = feeds[name]
            as_it_lies = array.flags.c_contiguous and array.flags.aligned
            view = ordered and as_it_lies and array.dtype == dtype
            table["kernel"][self._doers(i, workers), i] = 0 if view else self._chosen[i][0]
            left_out += (i,) if view else ()
            row_bytes = array.nbytes // len(array)
            for thread, lines in enumerate(views):
                shard, first, _ = self._part(rows, thread)
                for call, j in readers:
                    if view:
                        start = address_of(array) + first * row_bytes
                        lines.append((call, j, start, row_bytes, 0))
                    else:
                        # Threads that divide the units all have all rows: they are made alike.
                        owner = lowest[thread] if self.program.by_units else shard
                        table["buffers"][thread, call, j] = self._address(copy, owner, first)
        # Two pieces of memory take turns, and after an odd number of them also from step to step.
        room, odd = self.program.exchanged, len({t.slot for *_, t in self._exchanges}) % 2
        for i, j, tensor in self._exchanges:
            size = tensor_bytes(tensor, rows, self.program.dtype)
            second = tensor.slot % 2
            for thread, lines in enumerate(views):
                own = thread * size if tensor.shape[0] == BATCH else 0
                start = address_of(self._exchanged) + second * room + own
                lines.append((i, j, start, 0, odd * (-room if second else room)))
        table["waits"] = self._waits(left_out)
        return np.array(views, executor.VIEW).reshape(len(table), -1)

    def _waits(self, left_out: tuple[int, ...]) -> list[bool]:
        """Of each call, whether threads meet before it."""
        if left_out not in self._meetings:
            self._meetings[left_out] = waits(self.program, left_out)
        return self._meetings[left_out]

    def _fed(
        self, rows: int, feeds: Feeds, ordered: bool, workers: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """The calls for a batch, pointed at the user's arrays, and what they view of these."""
        workers = workers or self.program.split.threads
        table, key = self.table(rows, workers), (rows, workers)
        arrays = [(a.dtype, a.shape, a.strides, address_of(a)) for a in feeds.values()]
        place = ordered, arrays
        if key not in self._places or self._places[key][0] != place:
            self._places.pop(key, None)  # until all of this is done
            self._feed(table, feeds)
            self._places[key] = place, self._views(table, rows, workers, feeds, ordered)
        return table, self._places[key][1]

    def _run(self, feeds: Feeds, totals: np.ndarray, span: _Span) -> tuple[int, int]:
        # Memory for exchanges takes turns over whole steps.
        assert span.update or not self.program.by_units or span.last - span.first <= 1
        if self._arrived:
            self._take_arrived()
        pace, threads = self._pace, self.program.split.threads
        workers = min(span.workers or threads, threads)
        if pace is None or workers < threads or span.times is not None:
            return self._execute(workers, self._fed_all(workers, feeds, span), totals, span)
        if not span.update:
            return self._execute(
                pace.workers, self._fed_all(pace.workers, feeds, span), totals, span
            )
        deadline = perf_counter() + span.seconds
        while True:
            left = max(0.0, deadline - perf_counter())
            part = replace(span, seconds=min(SAMPLE, left) if pace.begin() else left)
            # Before the clock is looked at: tables are made once, not in every call.
            tables = self._fed_all(pace.workers, feeds, span)
            began = perf_counter()
            status, step = self._execute(pace.workers, tables, totals, part)
            now = perf_counter()
            steps = span.whole_steps(step) - span.whole_steps(span.first)
            pace.ran(steps, float(self._lasted[0]), now - began)
            if status != OUT_OF_TIME or now >= deadline:
                return status, step
            span = replace(span, first=step)

    def _fed_all(self, workers: int, feeds: Feeds, span: _Span) -> _Tables:
        """`_fed` for whole batches, and for the last."""
        workers = workers if self.program.by_units else self.program.split.threads
        ordered, rest = span.order is None, span.rows % span.batch
        full = self._fed(min(span.batch, span.rows), feeds, ordered, workers)
        return full, self._fed(rest, feeds, ordered, workers) if rest else full

    def _execute(
        self, workers: int, tables: _Tables, totals: np.ndarray, span: _Span
    ) -> tuple[int, int]:
        """One native call."""
        order = span.order
        (full, views), (partial, partial_views) = tables
        with blas_threads("blas" in self.providers):
            return executor.run(
                full,
                partial,
                self._steps,
                self._sums,
                totals,
                compute=self.program.compute,
                split=self.program.split.mode == "split",
                rows=span.rows,
                batch=span.batch,
                first=span.first,
                last=span.last,
                updates=self.state.updates,
                epochs=self.state.epochs,
                seed=self.state.seed,
                order=order.order if order else None,
                keys=order.keys if order else None,
                order_epoch=order.epoch if order else None,
                seconds=span.seconds,
                times=span.times,
                update=span.update,
                progress=self.progress,
                views=(views, partial_views),
                moves=self._moves,
                workers=workers,
                lasted=self._lasted,
            )


class _OneBlasThread:
    """One thread for BLAS in this process while anybody is within: programs have their own threads.

    The first to enter sets it and the last to leave sets back what was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._limits: Any = None
        self._controller: Any = None

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                if self._controller is None:
                    from threadpoolctl import ThreadpoolController

                    self._controller = ThreadpoolController()
                self._limits = self._controller.limit(limits=1, user_api="blas")
            self._within += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0:
                self._limits.restore_original_limits()


_one_blas_thread = _OneBlasThread()


def blas_threads(limited: bool) -> AbstractContextManager[None]:
    """One thread for BLAS meanwhile, if it takes part.

    Raises
    ------
    ImportError
        threadpoolctl is missing.
    """
    return _one_blas_thread if limited else nullcontext()


def make_runner(
    program: Program,
    state: State,
    backend: str,
    choices: Mapping[str, str] | None = None,
    pace: Pace | None = None,
) -> Runner:
    """The runner of a backend, for one program over one model's state.

    ``choices`` are providers by the signature of a call, where they are not the backend's own;
    ``pace`` is for `NativeRunner`.
    """
    program.verify()
    if backend == "numpy":
        return NumpyRunner(program, state)
    if backend != "cython":
        kernels = provider.BY_NAME[backend](program.dtype)
        runner = NativeRunner(program, state, kernels, pace=pace)
        runner.table(program.batch)  # everything is compiled now
        return runner
    signatures = enumerate(signature(node, program) for node in program.nodes)
    others = {
        i: provider.BY_NAME[choices[name]](program.dtype)
        for i, name in signatures
        if choices and choices.get(name, "cython") != "cython"
    }
    return NativeRunner(program, state, provider.cython(program.dtype), others, pace)


def signature(node: Node, program: Program) -> str:
    """What a choice of kernel for a call is good for: batches of any size, for one."""
    shapes = ["x".join("B" if n == BATCH else str(n) for n in t.shape) if t is not None else "-"
              for t in node.operands]  # fmt: skip
    function = node.attrs.get("function", "identity")
    way = f"{program.dtype} {program.split.mode} {program.split.threads}"
    return f"{node.op.name}[{function}] {' '.join(shapes)} {way}"


def most_threads(backend: str) -> int:
    """The most threads that a backend can use."""
    return 1 if backend == "numpy" else aot.executor.most_threads
