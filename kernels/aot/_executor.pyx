"""The executor: one native call runs any number of training steps over a table of kernel calls.

It knows kernels only as functions of ``abi.h``'s type, neither what they compute nor which compiler
made them. Tables are built and checked in Python; nothing is allocated and nothing checked here.
"""

from cpython.buffer cimport (PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release,
                             PyObject_GetBuffer)
from libc.math cimport isfinite
from libc.stdint cimport int64_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy

import numpy as np


cdef extern from "abi.h" nogil:
    ctypedef struct Step:
        int64_t step
        int64_t rows
        int64_t first
        const int64_t* order
        uint64_t seed
        double rate
        double* rule
        void* scratch
        int64_t unused
    ctypedef struct Call
    ctypedef void (*Kernel)(const Call*, int, int) noexcept nogil
    ctypedef struct Call:
        Kernel kernel
        Step* step
        void** buffers
        int64_t* sizes
        int64_t shared
        int64_t waits
    int FASTNN_BUFFERS, FASTNN_FORMULAS, FASTNN_SIZES, FASTNN_CONSTANTS
    int C_UPDATE_BLOCK "UPDATE_BLOCK", C_PENALTY_BLOCK "PENALTY_BLOCK"
    int C_MOST_STATES "MOST_STATES", C_DECAY "DECAY"

cdef extern from "team.h" nogil:
    int FASTNN_THREADS
    int TEAM_MOST
    double team_now()
    ctypedef void (*TeamWork)(void*, int) noexcept nogil
    ctypedef struct Team:
        pass
    int team_run(Team* team, int threads, TeamWork work, void* shared)
    void team_barrier(Team* team)
    void team_end(Team* team)
    bint team_is_over(const Team* team)
    void team_tell(int64_t* to, int64_t n)
    int64_t team_told(const int64_t* n)
    int cpu_level()
    uint64_t flush_subnormals()
    void restore_rounding(uint64_t before)

cdef extern from "shuffle.h" nogil:
    void shuffle_rows(uint64_t seed, uint32_t epoch, int64_t n, uint32_t* keys, int64_t* order,
                      int64_t* scratch)

cdef extern from "stream.h" nogil:
    void stream_copy(char* to, const char* source, int64_t n)

cdef extern from "within.h" nogil:
    bint within_f32(const float* p, int64_t n, double limit)
    bint within_f64(const double* p, int64_t n, double limit)

#: Layout of one call, of what changes from step to step, and of one sum that the executor takes.
CALL = np.dtype([
    ("kernel", np.uintp), ("step", np.uintp), ("buffers", np.uintp, FASTNN_BUFFERS),
    ("formulas", np.uintp, FASTNN_FORMULAS), ("sizes", np.int64, FASTNN_SIZES),
    ("constants", np.float64, FASTNN_CONSTANTS), ("shared", np.int64),
    ("waits", np.int64),
])
STEP = np.dtype([
    ("step", np.int64), ("rows", np.int64), ("first", np.int64), ("order", np.uintp),
    ("seed", np.uint64), ("rate", np.float64), ("rule", np.float64, 16), ("scratch", np.uintp),
    ("unused", np.int64),
])
SUM = np.dtype([("values", np.uintp), ("count", np.int64), ("is_loss", np.int64)])
#: An operand that moves from step to step: where it starts, the bytes of a row of the user's array
#: that it lies in, and how far it moves in every second step.
VIEW = np.dtype([("call", np.int64), ("operand", np.int64), ("start", np.uintp),
                 ("row_bytes", np.int64), ("alternates", np.int64)])
assert CALL.itemsize == sizeof(Call) and STEP.itemsize == sizeof(Step)
assert STEP.itemsize % 64 == 0  # each thread writes its own in every step
assert VIEW.itemsize == sizeof(View)

#: Rows of a thread's own part of an array, which lie one behind the other in memory of its own.
MOVE = np.dtype([("whole", np.uintp), ("own", np.uintp), ("rows", np.int64),
                 ("row_bytes", np.int64), ("stride", np.int64), ("returns", np.int64)])
assert MOVE.itemsize == sizeof(Move)

#: What compilers agree on: see abi.h.
UPDATE_BLOCK, PENALTY_BLOCK = C_UPDATE_BLOCK, C_PENALTY_BLOCK
MOST_STATES, DECAY = C_MOST_STATES, C_DECAY

#: How a run ended.
FINISHED, OUT_OF_TIME, NOT_FINITE = 0, 1, 2

#: Whether this build has threads, the most it takes, and the processor's instruction set level.
threaded = bool(FASTNN_THREADS)
most_threads = TEAM_MOST if FASTNN_THREADS else 1
ISA_LEVELS = ("baseline", "avx2", "avx512")
cpu_isa = ISA_LEVELS[cpu_level()]


ctypedef struct View:
    int64_t call, operand
    char* start
    int64_t row_bytes, alternates


ctypedef struct Move:
    char* whole
    char* own
    int64_t rows, row_bytes
    int64_t stride      # of the rows in the whole array
    int64_t returns     # this thread writes it back


ctypedef struct Sum:
    const double* values
    int64_t count       # -1: one per row of the batch; else that many, and weighted by the rows
    int64_t is_loss     # must be finite


ctypedef struct Job:
    Team team
    int threads         # of the program: how its work and its sums are divided
    int workers         # of the system, which do it
    int split           # threads share every call; else each runs all of them for itself
    Call* tables[2]             # a whole batch's and the last, smaller one's: [thread][call]
    int64_t calls, compute      # calls of one thread; how many of them come before the update
    Step* steps
    const Sum* sums             # of all threads, or where they are apart [thread][sum]
    int64_t n_sums
    int apart           # each worker has all sums: they meet only where calls ask for it
    const View* views[2]        # of the tables: [thread][view]
    int64_t n_views             # of one thread
    const Move* moves           # [thread][move]
    int64_t n_moves             # of one thread
    int64_t rows, batch
    int64_t first, last         # steps of this run, counted from the start of the first epoch
    int64_t updates             # updates that came before step 0
    int64_t epochs              # epochs that came before step 0
    uint64_t seed
    int64_t* order              # NULL: in the order of the data
    int64_t* order_epoch
    uint32_t* keys
    double* totals              # [epoch][sum], from the epoch of step 0 on
    double* times               # [call] seconds on worker 0, or NULL
    double looked               # when worker 0 last looked at the clock for them
    double lasted               # seconds of all steps on worker 0, but for shuffling
    double deadline
    int64_t* progress           # the next step, for a caller that is interrupted
    int update
    int64_t stop                # the last step, once it is known
    int status


cpdef uintptr_t address_of(array) except? 0:
    """Where an array's numbers begin: NumPy's own ``ctypes.data`` takes ten times as long."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_STRIDES)
    PyBuffer_Release(&view)
    return <uintptr_t>view.buf


cdef double fixed_order_sum(const double* values, int64_t n) noexcept nogil:
    """Four interleaved sums: the same for any number of threads, and four times as fast as one."""
    cdef double a = 0, b = 0, c = 0, d = 0
    cdef int64_t i = 0
    while i + 4 <= n:
        a += values[i]
        b += values[i + 1]
        c += values[i + 2]
        d += values[i + 3]
        i += 4
    while i < n:
        a += values[i]
        i += 1
    return (a + b) + (c + d)


cdef int take_sums(Job* job, int thread, int64_t rows, int64_t epoch) noexcept nogil:
    """Add this step's sums to the epoch's on thread 0. All threads learn whether a loss is lost."""
    cdef int64_t i
    cdef double total
    cdef int finite = 1
    cdef const Sum* sums = job.sums + (thread * job.n_sums if job.apart else 0)
    for i in range(job.n_sums):
        if thread != 0 and not sums[i].is_loss:
            continue
        if sums[i].count < 0:
            total = fixed_order_sum(sums[i].values, rows)
        else:
            total = fixed_order_sum(sums[i].values, sums[i].count) * <double>rows
        if sums[i].is_loss and not isfinite(total):
            finite = 0
        if thread == 0:
            job.totals[epoch * job.n_sums + i] += total
    return finite


ctypedef struct Worker:
    Job* job
    int low, high       # its threads of the program


cdef inline Worker worker_of(Job* job, int worker) noexcept nogil:
    """A worker is a thread of the system. It does the work of some of the program's threads, call
    by call, so that how many workers there are changes no result."""
    cdef Worker w
    w.job = job
    w.low = job.threads * worker // job.workers
    w.high = job.threads * (worker + 1) // job.workers
    return w


cdef inline void execute(const Worker* w, const Call* table, int64_t index) noexcept nogil:
    """A worker's part of one call."""
    cdef Job* job = w.job
    cdef const Call* call = table + w.low * job.calls + index
    cdef int divided = job.split or call.shared
    cdef int thread
    if call.kernel == NULL:  # what it would copy is read where it lies
        return
    if call.waits:
        team_barrier(&job.team)
    for thread in range(w.low, w.high):
        if call.kernel != NULL:  # what all threads would do alike, a worker does once
            call.kernel(call, thread if divided else 0, job.threads if divided else 1)
        call += job.calls
    look_at_clock(w, index)


cdef inline void look_at_clock(const Worker* w, int64_t index) noexcept nogil:
    """On worker 0, if times are asked for: what passed since the last look is a call's time, with
    the wait for other threads before it (and, of the last, after it)."""
    cdef double now
    cdef Job* job = w.job
    if job.times == NULL or w.low != 0:
        return
    now = team_now()
    if index >= 0:
        job.times[index] += now - job.looked
    job.looked = now


cdef void work(void* shared, int worker) noexcept nogil:
    # Averages of gradients that have ended decay through the subnormal numbers, where every
    # operation takes a hundred times as long; they are zero for all that training can see.
    cdef uint64_t before = flush_subnormals()
    cdef Job* job = <Job*>shared
    cdef Worker w = worker_of(job, worker)
    cdef double began
    move(&w, 0)
    team_barrier(&job.team)  # so that waiting for threads to start is no part of the steps
    began = team_now()
    run_steps(&w)
    if worker == 0:
        job.lasted += team_now() - began
    if job.update and job.n_moves:
        # If one has lost the loss, another may have gone on with what it had not finished.
        team_barrier(&job.team)
        if not team_is_over(&job.team):
            move(&w, 1)
    restore_rounding(before)


cdef void move(const Worker* w, int back) noexcept nogil:
    """Copy the threads' parts of arrays to their own memory, or back."""
    cdef Job* job = w.job
    cdef const Move* m
    cdef int64_t i, row
    for i in range(w.low * job.n_moves, w.high * job.n_moves):
        m = job.moves + i
        if back and not m.returns:
            continue
        for row in range(m.rows):
            if back:
                memcpy(m.whole + row * m.stride, m.own + row * m.row_bytes, m.row_bytes)
            else:
                memcpy(m.own + row * m.row_bytes, m.whole + row * m.stride, m.row_bytes)


cdef void begin(const Worker* w, Call* table, const View* views, int64_t s,
                int64_t per_epoch) noexcept nogil:
    """What changes from step to step, for each of a worker's threads."""
    cdef Job* job = w.job
    cdef int64_t first = s % per_epoch * job.batch
    cdef int64_t v
    cdef const View* view
    cdef int thread
    for thread in range(w.low, w.high):
        job.steps[thread].step = job.updates + s
        job.steps[thread].first = first
        job.steps[thread].rows = min(job.batch, job.rows - first)
        for v in range(job.n_views):
            view = views + thread * job.n_views + v
            table[thread * job.calls + view.call].buffers[view.operand] = (
                view.start + first * view.row_bytes + (s & 1) * view.alternates
            )


cdef void run_steps(const Worker* w) noexcept nogil:
    cdef Job* job = w.job
    cdef Call* table
    cdef int64_t per_epoch = (job.rows + job.batch - 1) // job.batch
    cdef int64_t s, epoch, c, stop
    cdef int smaller
    cdef double began
    for s in range(job.first, job.last):
        epoch = s // per_epoch
        if job.order != NULL and (s == job.first or s == epoch * per_epoch):
            # (Another may still be at the end of a step, where nobody reads the order any more.)
            if w.low == 0 and job.order_epoch[0] != job.epochs + epoch:
                began = team_now()
                shuffle_rows(job.seed, <uint32_t>(job.epochs + epoch), job.rows, job.keys,
                             job.order, job.order + job.rows)
                job.lasted -= team_now() - began
                job.order_epoch[0] = job.epochs + epoch
            team_barrier(&job.team)
        smaller = (s - epoch * per_epoch + 1) * job.batch > job.rows
        table = job.tables[smaller]
        begin(w, table, job.views[smaller], s, per_epoch)
        look_at_clock(w, -1)
        for c in range(job.compute):
            execute(w, table, c)
        if not job.apart:
            team_barrier(&job.team)
        if job.workers > 1:
            look_at_clock(w, job.compute - 1)
        if not take_sums(job, w.low, job.steps[w.low].rows, epoch):
            job.status = 2
            team_end(&job.team)
            return
        # Somebody else may have changed the data between one thread's look and another's.
        if job.apart and team_is_over(&job.team):
            return
        if job.update:
            look_at_clock(w, -1)
            for c in range(job.compute, job.calls):
                execute(w, table, c)
        if w.low == 0:
            if job.update:
                job.progress[0] = s + 1
            # Threads that are apart stop a step later: all have met by then, and know.
            if s + 1 + job.apart < job.last and job.stop < 0 and team_now() >= job.deadline:
                job.status = 1
                team_tell(&job.stop, s + job.apart)
        if not job.apart:
            team_barrier(&job.team)
        if job.update and job.workers > 1:
            look_at_clock(w, job.calls - 1)
        stop = team_told(&job.stop)
        if 0 <= stop <= s:
            return


def run(full, partial, steps, sums, double[:, ::1] totals, *, int64_t compute, bint split,
        int64_t rows, int64_t batch, int64_t first, int64_t last, int64_t updates=0,
        int64_t epochs=0, uint64_t seed=0, int64_t[::1] order=None, uint32_t[::1] keys=None,
        int64_t[::1] order_epoch=None, double seconds=1e9, double[::1] times=None,
        bint update=True, int64_t[::1] progress=None, views=None, moves=None, int workers=0,
        double[::1] lasted=None):
    """Run steps ``first`` to ``last`` and return ``(status, next step)``.

    ``full`` and ``partial`` are CALL arrays of shape (threads, calls) for a whole and for the last
    batch, ``steps`` a STEP array with one entry per thread, ``sums`` a SUM array of shape
    (1, sums), or (threads, sums) if the lowest of each worker has them all. ``views`` are two VIEW
    arrays of shape (threads, views), for a whole and for the last batch. A thread leaves out calls
    for which it has no kernel, a worker those for which its lowest thread has none. ``moves``, a
    MOVE array of shape (threads, moves), is what threads copy to memory of their own before the
    first step, and back after the last. After ``seconds`` the run ends before its next step, or the
    one after that; without ``update`` only the first ``compute`` calls run.
    ``progress`` holds the next step at any time. ``workers``, as many as there are threads by
    default, may be fewer: results stay the same. ``lasted`` receives the seconds of the steps,
    without shuffling and what a call costs beside them. The GIL is released throughout.
    """
    cdef Job job
    cdef int error, thread
    assert full.dtype == CALL and steps.dtype == STEP and sums.dtype == SUM
    assert full.ndim == sums.ndim == 2
    views, partial_views = views or (np.zeros((len(full), 0), VIEW),) * 2
    assert views.dtype == partial_views.dtype == VIEW and len(views) == len(full)
    assert views.shape == partial_views.shape
    if moves is None:
        moves = np.zeros((len(full), 0), MOVE)
    assert moves.dtype == MOVE and len(moves) == len(full)
    assert full.shape == partial.shape and len(steps) == len(full) <= most_threads
    assert compute <= full.shape[1] and totals.shape[1] == sums.shape[1]
    assert len(sums) in (1, len(full))
    assert 0 <= first and last <= totals.shape[0] * ((rows + batch - 1) // batch) and batch > 0
    job.threads = <int>len(steps)
    job.workers = workers or job.threads
    assert 0 < job.workers <= job.threads
    job.split = split
    job.tables[0] = <Call*>address_of(full)
    job.tables[1] = <Call*>address_of(partial)
    job.calls = full.shape[1]
    job.compute = compute
    job.steps = <Step*>address_of(steps)
    job.sums = <const Sum*>address_of(sums)
    job.n_sums = sums.shape[1]
    job.apart = len(sums) > 1
    job.views[0] = <const View*>address_of(views)
    job.views[1] = <const View*>address_of(partial_views)
    job.n_views = views.shape[1]
    job.moves = <const Move*>address_of(moves)
    job.n_moves = moves.shape[1]
    job.rows = rows
    job.batch = batch
    job.first = first
    job.last = last
    job.updates = updates
    job.epochs = epochs
    job.seed = seed
    job.order = NULL
    job.order_epoch = NULL
    job.keys = NULL
    if order is not None:
        assert order.shape[0] >= 2 * rows and keys.shape[0] >= rows and rows < 1 << 32
        job.order = &order[0]
        job.keys = &keys[0]
        job.order_epoch = &order_epoch[0]
    for thread in range(job.threads):
        job.steps[thread].order = job.order
        job.steps[thread].seed = seed
    job.totals = &totals[0, 0] if totals.shape[0] and totals.shape[1] else NULL
    job.times = &times[0] if times is not None else NULL
    if progress is None:
        progress = np.zeros(1, np.int64)
    progress[0] = first
    job.progress = &progress[0]
    job.update = update
    job.lasted = 0
    job.stop = -1
    job.status = 0
    with nogil:
        job.deadline = team_now() + seconds
        error = team_run(&job.team, job.workers, work, &job)
    if error:
        raise OSError(error, f"could not start {job.workers} threads")
    if lasted is not None:
        lasted[0] = job.lasted
    return job.status, progress[0]


def lowest_of_worker(int threads, int workers):
    """Of each of a program's threads, the lowest whose work the same worker does."""
    cdef Job job
    cdef Worker w
    cdef int worker
    assert 0 < workers <= threads
    job.threads, job.workers = threads, workers
    found = []
    for worker in range(workers):
        w = worker_of(&job, worker)
        found += [w.low] * (w.high - w.low)
    return found


ctypedef struct Meetings:
    Team team
    int64_t n
    double seconds


cdef void meet(void* shared, int thread) noexcept nogil:
    cdef Meetings* meetings = <Meetings*>shared
    cdef int64_t _
    cdef double start
    team_barrier(&meetings.team)
    start = team_now()
    for _ in range(meetings.n):
        team_barrier(&meetings.team)
    if thread == 0:
        meetings.seconds = team_now() - start


def meeting_seconds(int threads, int64_t n):
    """How long threads take to meet once, over ``n`` times: the distance between their cores."""
    cdef Meetings meetings
    cdef int error
    assert 0 < threads <= most_threads and n > 0
    meetings.n = n
    with nogil:
        error = team_run(&meetings.team, threads, meet, &meetings)
    if error:
        raise OSError(error, f"could not start {threads} threads")
    return meetings.seconds / n


def shuffled(uint64_t seed, uint32_t epoch, int64_t n):
    """The order of the rows in one epoch, int64 (n,)."""
    cdef int64_t[::1] order = np.empty(2 * n, np.int64)
    cdef uint32_t[::1] keys = np.empty(n, np.uint32)
    if n:
        shuffle_rows(seed, epoch, n, &keys[0], &order[0], &order[n])
    return np.asarray(order)[:n].copy()


ctypedef struct Search:
    Team team
    const char* numbers
    int64_t n
    int itemsize, threads
    double limit
    int found           # a number beyond the limit, by any thread


cdef void search(void* shared, int thread) noexcept nogil:
    cdef Search* job = <Search*>shared
    cdef int64_t start = job.n * thread // job.threads
    cdef int64_t stop = job.n * (thread + 1) // job.threads
    cdef const char* numbers = job.numbers + start * job.itemsize
    if job.itemsize == 4:
        if not within_f32(<const float*>numbers, stop - start, job.limit):
            job.found = 1
    elif not within_f64(<const double*>numbers, stop - start, job.limit):
        job.found = 1


def all_within(array, double limit, int threads=1):
    """Whether all numbers of a contiguous float32 or float64 array are in [-limit, limit]."""
    cdef Search job
    cdef int error
    assert array.dtype in (np.float32, np.float64) and array.dtype.isnative
    assert array.flags.forc and 0 < threads <= most_threads
    job.numbers = <const char*>address_of(array)
    job.n = array.size
    job.itemsize = array.itemsize
    job.threads = threads
    job.limit = limit
    job.found = 0
    with nogil:
        error = team_run(&job.team, threads, search, &job)
    if error:
        raise OSError(error, f"could not start {threads} threads")
    return not job.found


ctypedef struct Copy:
    Team team
    char* to
    const char* source
    int64_t n
    int threads


cdef void copy_part(void* shared, int thread) noexcept nogil:
    cdef Copy* job = <Copy*>shared
    cdef int64_t start = job.n * thread // job.threads
    stream_copy(job.to + start, job.source + start, job.n * (thread + 1) // job.threads - start)


def put_aside(source, target, int threads=1):
    """Copy a contiguous array to one like it that nobody reads soon."""
    cdef Copy job
    cdef int error
    assert source.dtype == target.dtype and source.shape == target.shape
    assert source.flags.c_contiguous and target.flags.c_contiguous and target.flags.writeable
    assert 0 < threads <= most_threads
    job.source = <const char*>address_of(source)
    job.to = <char*>address_of(target)
    job.n = source.nbytes
    job.threads = threads
    with nogil:
        error = team_run(&job.team, threads, copy_part, &job)
    if error:
        raise OSError(error, f"could not start {threads} threads")


cdef enum:
    PLACES = 8  # of one array in a program's calls
    DIMENSIONS = 8

#: Of an array that `Direct` takes.
MOST_DIMENSIONS = DIMENSIONS


ctypedef struct Place:
    Call* call
    int operand


cdef class Array:
    """One of a user's arrays: the shape it must have, and where calls read or write it."""
    cdef Place places[PLACES]
    cdef int n_places, dimensions, flags
    cdef int64_t shape[DIMENSIONS]
    cdef bytes formats  # letters of the number types that are welcome, at the places of their codes
    cdef const char* letters

    def __init__(self, table, places, shape, bytes formats, bint writes):
        assert len(places) <= PLACES and 2 <= len(shape) <= DIMENSIONS
        self.n_places, self.dimensions = len(places), len(shape)
        self.flags = PyBUF_FORMAT | PyBUF_STRIDES | (PyBUF_WRITABLE if writes else 0)
        self.formats = formats
        self.letters = formats
        for i, (call, operand) in enumerate(places):
            self.places[i].call = <Call*>address_of(table) + <int>call
            self.places[i].operand = operand
        for i, size in enumerate(shape):
            self.shape[i] = size

    cdef int take(self, Py_buffer* view) except -1:
        """Point the calls to an array; 0 where it does not fit."""
        cdef int i, code = 0
        cdef int64_t run = view.itemsize
        cdef Call* call
        if view.ndim != self.dimensions or view.format == NULL or view.format[1] != 0:
            return 0
        while self.letters[code] != view.format[0]:
            if self.letters[code] == 0:
                return 0
            code += 1
        for i in range(self.dimensions - 1, -1, -1):
            if view.shape[i] != self.shape[i]:
                return 0
            # The numbers of a row follow each other; those that are read, of two dimensions, at any
            # distance.
            if i > 0 and (self.dimensions > 2 or self.flags & PyBUF_WRITABLE):
                if view.strides[i] != run and view.shape[i] > 1:
                    return 0
                run *= view.shape[i]
        for i in range(self.n_places):
            call = self.places[i].call
            call.buffers[self.places[i].operand] = view.buf
            call.sizes[3] = code
            call.sizes[4] = view.strides[0]
            call.sizes[5] = view.strides[1] if self.dimensions == 2 else view.itemsize
        return 1


cdef class Direct:
    """Runs the calls of one thread from one array to another, with as little around it as can be.

    ``table`` and ``steps`` are those of `run`, with one thread; ``source`` and ``target`` are
    ``(places, shape, formats)``: call and operand numbers, the shape, and the number types by the
    letters of the buffer protocol. With ``releases`` other Python threads run meanwhile. What owns
    the memory of the calls is to be kept.
    """
    cdef object table, lock, refuse, keep
    cdef Call* calls
    cdef int64_t n
    cdef Array source, target
    cdef bint releases

    def __init__(self, table, step, source, target, bint releases, lock, refuse, keep):
        assert table.dtype == CALL and table.ndim == 1 and step.dtype == STEP
        self.table, self.lock, self.refuse, self.keep = (table, step), lock, refuse, keep
        self.calls = <Call*>address_of(table)
        self.n = len(table)
        self.releases = releases
        self.source = Array(table, *source, False)
        self.target = Array(table, *target, True)

    def __call__(self, x, out):
        cdef Py_buffer read, written
        cdef bint fits = False
        try:
            PyObject_GetBuffer(x, &read, self.source.flags)
        except (BufferError, TypeError, ValueError):
            self.refuse(x, out)
            raise
        try:
            try:
                PyObject_GetBuffer(out, &written, self.target.flags)
            except (BufferError, TypeError, ValueError):
                self.refuse(x, out)
                raise
            try:
                if self.releases:
                    with self.lock:  # calls share the memory in between
                        fits = self.source.take(&read) and self.target.take(&written)
                        if fits:
                            with nogil:
                                self.run()
                else:
                    fits = self.source.take(&read) and self.target.take(&written)
                    if fits:
                        self.run()
            finally:
                PyBuffer_Release(&written)
        finally:
            PyBuffer_Release(&read)
        if not fits:
            self.refuse(x, out)
            raise ValueError("X, out: expected arrays that can be read and written as they lie")
        return out

    cdef void run(self) noexcept nogil:
        cdef uint64_t before = flush_subnormals()
        cdef int64_t i
        for i in range(self.n):
            self.calls[i].kernel(self.calls + i, 0, 1)
        restore_rounding(before)


#: Looks at the clock that times cost in a step, beside one for each call. Of several threads there
#: is one more within the last call before the loss is looked at, and one within the last of all.
LOOKS = 2


def seconds_of_a_look():
    """What one look at the clock takes."""
    cdef int _i
    cdef double start = team_now()
    for _i in range(1000):
        team_now()
    return (team_now() - start) / 1000


def call_kernel(call, int thread=0, int threads=1):
    """Run one entry of a CALL array, for tests and benchmarks of single kernels."""
    cdef const Call* c = <const Call*>address_of(call)
    assert call.dtype == CALL
    with nogil:
        c.kernel(c, thread, threads)


def time_kernel(call, double seconds):
    """Mean seconds of one entry of a CALL array, run again and again on one thread."""
    cdef const Call* c = <const Call*>address_of(call)
    cdef double start, now
    cdef int64_t runs = 0, _i, batch = 1
    assert call.dtype == CALL
    with nogil:
        c.kernel(c, 0, 1)
        start = team_now()
        while True:
            for _i in range(batch):
                c.kernel(c, 0, 1)
            runs += batch
            now = team_now()
            if now - start >= seconds:
                break
            batch = 2 * batch if now - start < seconds / 4 else 1 + runs // 8
    return (now - start) / runs
