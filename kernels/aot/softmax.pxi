# Softmax by rows, alone and with cross-entropy.
#
# Rows are short (a few classes) and a register is long, so up to NARROW columns the block of VLEN
# rows is transposed: lane i of every vector belongs to row i, and maximum, exponential and sum need
# no operation across lanes. Against row by row, 32 rows of 10 take two fifths of the time.

cdef enum:
    NARROW = 64
    LANES = 16    # of the widest register: VLEN is at most this
    CHUNK = 1024  # numbers of a block that stay in the L1 cache between passes

cdef struct Rows:
    real e[NARROW * LANES]    # exp(x - largest) of narrow rows, transposed
    real largest[LANES]
    real total[LANES]         # sum of the exponentials
    real factor[LANES]


cdef void narrow_exponentials(const real* x, int n, int64_t columns, Rows* rows) noexcept nogil:
    """The exponentials of n <= VLEN rows, transposed into rows.e."""
    cdef int64_t c, i
    cdef vreal largest, total
    transpose_rows(x, columns, n, columns, rows.e, VLEN, 0)
    largest = v_load(rows.e)
    for c in range(1, columns):
        largest = v_max(v_load(rows.e + c * VLEN), largest)
    for c in range(columns):
        v_store(rows.e + c * VLEN, v_load(rows.e + c * VLEN) - largest)
    for i in range(columns * VLEN):
        rows.e[i] = r_exp(rows.e[i])
    total = v_load(rows.e)
    for c in range(1, columns):
        total = total + v_load(rows.e + c * VLEN)
    v_store(rows.largest, largest)
    v_store(rows.total, total)


cdef void narrow_result(Rows* rows, int n, int64_t columns, real* y) noexcept nogil:
    """Multiply each row by its factor and write the rows back in order."""
    cdef int64_t c
    cdef int width
    cdef vreal factor = v_load(rows.factor)
    for c in range(columns):
        v_store(rows.e + c * VLEN, v_load(rows.e + c * VLEN) * factor)
    for c in range(blocks_of(columns, VLEN)):
        width = <int>min(columns - c * VLEN, <int64_t>VLEN)
        transpose_rows(rows.e + c * VLEN * VLEN, VLEN, width, n, y + c * VLEN, columns, 1)


cdef void wide_exponentials(const real* x, int64_t columns, real* y, real* largest,
                            real* total) noexcept nogil:
    """The exponentials of one row, into y or, where that is NULL, only their sum."""
    cdef int64_t block, first, n, i
    cdef real local[CHUNK]
    cdef real* e
    largest[0] = row_max(x, columns)
    total[0] = 0
    for block in range(blocks_of(columns, CHUNK)):
        first = block * CHUNK
        n = min(columns - first, <int64_t>CHUNK)
        e = y + first if y != NULL else local
        for i in range(n):
            e[i] = r_exp(x[first + i] - largest[0])
        total[0] += row_sum(e, n)


cdef void softmax(const Call* call, int thread, int threads) noexcept nogil:
    """y = exp(x - max x) / sum of the same, by rows"""
    cdef int64_t columns = call.sizes[1], i, r = share(call.sizes[0], 1, thread, threads)
    cdef int64_t r1 = share(call.sizes[0], 1, thread + 1, threads)
    cdef const real* x = <const real*>call.buffers[0]
    cdef real* y = <real*>call.buffers[1]
    cdef Rows rows
    cdef int n, lane
    while r < r1:
        n = <int>min(r1 - r, <int64_t>VLEN)
        if columns <= NARROW:
            narrow_exponentials(x + r * columns, n, columns, &rows)
            for lane in range(VLEN):
                rows.factor[lane] = 1 / rows.total[lane]
            narrow_result(&rows, n, columns, y + r * columns)
        else:
            for lane in range(n):
                wide_exponentials(x + (r + lane) * columns, columns, y + (r + lane) * columns,
                                  rows.largest, rows.total)
                for i in range((r + lane) * columns, (r + lane + 1) * columns):
                    y[i] /= rows.total[0]
        r += n


cdef void softmax_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = y (dy - sum of dy y), by rows"""
    cdef int64_t columns = call.sizes[1], r, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef real dot
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        dy = <const real*>call.buffers[0] + r * columns
        y = <const real*>call.buffers[1] + r * columns
        dx = <real*>call.buffers[2] + r * columns
        dot = row_dot(dy, y, columns)
        for i in range(columns):
            dx[i] = y[i] * (dy[i] - dot)


cdef inline double target_entropy(const real* t, int64_t n) noexcept nogil:
    """sum t log t"""
    cdef int64_t i
    cdef double sum = 0
    for i in range(n):
        sum += <double>(t[i] * r_log(<real>1 if t[i] == 0 else t[i]))
    return sum


cdef void log_softmax(const Call* call, int thread, int threads) noexcept nogil:
    """y = x - log sum exp(x), by rows"""
    cdef int64_t columns = call.sizes[1], i, lane, n
    cdef int64_t r = share(call.sizes[0], 1, thread, threads)
    cdef int64_t r1 = share(call.sizes[0], 1, thread + 1, threads)
    cdef const real* x
    cdef real* y
    cdef Rows rows
    cdef real normal[LANES]
    while r < r1:
        n = min(r1 - r, <int64_t>VLEN)
        if columns <= NARROW:
            narrow_exponentials(<const real*>call.buffers[0] + r * columns, <int>n, columns, &rows)
        else:
            for lane in range(n):
                wide_exponentials(<const real*>call.buffers[0] + (r + lane) * columns, columns,
                                  NULL, rows.largest + lane, rows.total + lane)
        for lane in range(n):
            normal[lane] = r_log(rows.total[lane])
        for lane in range(n):
            x = <const real*>call.buffers[0] + (r + lane) * columns
            y = <real*>call.buffers[1] + (r + lane) * columns
            for i in range(columns):
                y[i] = (x[i] - rows.largest[lane]) - normal[lane]
        r += n


cdef void log_softmax_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = dy - exp(y) sum of dy, by rows"""
    cdef int64_t columns = call.sizes[1], r, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef real sum
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        dy = <const real*>call.buffers[0] + r * columns
        y = <const real*>call.buffers[1] + r * columns
        dx = <real*>call.buffers[2] + r * columns
        sum = row_sum(dy, columns)
        for i in range(columns):
            dx[i] = dy[i] - r_exp(y[i]) * sum


cdef void few_classes(const Call* call, int64_t start, int64_t end) noexcept nogil:
    """softmax_cross_entropy of rows start to end, with labels of at most NARROW classes: what the
    general one does besides takes it twice as long."""
    cdef int64_t columns = call.sizes[1], r
    cdef const real* z = <const real*>call.buffers[0]
    cdef const int32_t* labels = <const int32_t*>call.buffers[1]
    cdef const real* weights = <const real*>call.buffers[3]
    cdef double* losses = <double*>call.buffers[4]
    cdef real* dz = <real*>call.buffers[5]
    cdef Rows rows
    cdef real own[LANES]  # at the label
    cdef real scale[LANES]
    cdef int n, lane
    for lane in range(VLEN):
        scale[lane] = <real>(1.0 / <double>call.step.rows)
    r = start
    while r < end:
        n = <int>min(end - r, <int64_t>VLEN)
        narrow_exponentials(z + r * columns, n, columns, &rows)
        for lane in range(n):
            own[lane] = z[(r + lane) * columns + labels[r + lane]]
        if weights != NULL:
            for lane in range(n):
                scale[lane] = <real>(<double>weights[r + lane] / <double>call.step.rows)
        for lane in range(VLEN):
            rows.factor[lane] = scale[lane] / rows.total[lane]
        for lane in range(VLEN):
            rows.total[lane] = r_log(rows.total[lane])
        for lane in range(n):
            losses[r + lane] = (<double>rows.total[lane] + <double>rows.largest[lane]
                                - <double>own[lane])
        if weights != NULL:
            for lane in range(n):
                losses[r + lane] *= <double>weights[r + lane]
        if dz != NULL:
            narrow_result(&rows, n, columns, dz + r * columns)
            for lane in range(n):
                dz[(r + lane) * columns + labels[r + lane]] -= scale[lane]
        r += n


cdef void softmax_cross_entropy(const Call* call, int thread, int threads) noexcept nogil:
    """rows = -weight sum t log softmax(z); dz = weight / B (softmax(z) sum t - t)"""
    cdef int64_t columns = call.sizes[1], i, r = share(call.sizes[0], 1, thread, threads)
    cdef int64_t r1 = share(call.sizes[0], 1, thread + 1, threads)
    cdef const real* z = <const real*>call.buffers[0]
    cdef const int32_t* labels = <const int32_t*>call.buffers[1]
    cdef const real* targets = <const real*>call.buffers[2]
    cdef double* losses = <double*>call.buffers[4]
    cdef real* dz = <real*>call.buffers[5]
    cdef Rows rows
    cdef real scale[LANES]
    cdef real mass[LANES]    # sum of the targets of a row
    cdef real* d
    cdef int n, lane
    if labels != NULL and columns <= NARROW:
        few_classes(call, r, r1)
        return
    while r < r1:
        n = <int>min(r1 - r, <int64_t>VLEN)
        for lane in range(n):
            scale[lane] = <real>(row_weight(call, r + lane) / <double>call.step.rows)
            mass[lane] = 1 if labels != NULL else row_sum(targets + (r + lane) * columns, columns)
        if columns <= NARROW:
            narrow_exponentials(z + r * columns, n, columns, &rows)
        else:
            for lane in range(n):
                i = (r + lane) * columns
                wide_exponentials(z + i, columns, dz + i if dz != NULL else NULL,
                                  rows.largest + lane, rows.total + lane)
        for lane in range(n):
            rows.factor[lane] = scale[lane] * mass[lane] / rows.total[lane]
        for lane in range(n):
            rows.total[lane] = r_log(rows.total[lane])
        for lane in range(n):
            i = (r + lane) * columns
            if labels != NULL:
                losses[r + lane] = (<double>rows.total[lane] + <double>rows.largest[lane]
                                    - <double>z[i + labels[r + lane]])
            else:
                losses[r + lane] = ((<double>rows.total[lane] + <double>rows.largest[lane])
                                    * <double>mass[lane]
                                    - <double>row_dot(targets + i, z + i, columns))
                if call.sizes[2]:
                    losses[r + lane] += target_entropy(targets + i, columns)
            losses[r + lane] *= row_weight(call, r + lane)
        if dz != NULL:
            d = dz + r * columns
            if columns <= NARROW:
                narrow_result(&rows, n, columns, d)
            else:
                for lane in range(n):
                    for i in range(lane * columns, (lane + 1) * columns):
                        d[i] *= rows.factor[lane]
            for lane in range(n):
                if labels != NULL:
                    d[lane * columns + labels[r + lane]] -= scale[lane]
                    continue
                for i in range(columns):
                    d[lane * columns + i] -= scale[lane] * targets[(r + lane) * columns + i]
        r += n


cdef inline double row_weight(const Call* call, int64_t r) noexcept nogil:
    """The sample weight of a row: every loss has the weights as its fourth operand."""
    return <double>(<const real*>call.buffers[3])[r] if call.buffers[3] != NULL else 1.0
