# Losses write one double per row of the batch, so that their sum does not depend on the threads,
# and the gradient by the prediction, already divided by the rows of the whole batch. Metrics write
# rows only. In evaluation the gradient's buffer is NULL.


cdef void cross_entropy(const Call* call, int thread, int threads) noexcept nogil:
    """rows = -weight sum t log p with p clipped from below; dp = -weight / B t / p"""
    cdef int64_t columns = call.sizes[1], r, i
    cdef const int32_t* labels = <const int32_t*>call.buffers[1]
    cdef const real* distribution = <const real*>call.buffers[2]
    cdef double* rows = <double*>call.buffers[4]
    cdef real* dp = <real*>call.buffers[5]
    cdef const real* p
    cdef real scale, t, clipped
    cdef real floor = <real>call.constants[0]
    cdef double loss
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        p = <const real*>call.buffers[0] + r * columns
        scale = <real>(row_weight(call, r) / <double>call.step.rows)
        loss = 0
        for i in range(columns):
            t = distribution[r * columns + i] if labels == NULL else <real>(labels[r] == i)
            clipped = floor if p[i] < floor else p[i]
            loss -= <double>(t * r_log(clipped))
            if dp != NULL:
                dp[r * columns + i] = -scale * t / clipped
        rows[r] = loss * row_weight(call, r)


cdef void pointwise_loss(const Call* call, int thread, int threads) noexcept nogil:
    """rows = weight / O sum over outputs of l(y, t); dy = weight / (B O) l'(y, t)"""
    cdef int64_t columns = call.sizes[1], r, block, first, n, i
    cdef const real* y
    cdef const real* t
    cdef double* rows = <double*>call.buffers[4]
    cdef real* dy
    cdef real local[CHUNK]
    cdef real scale
    cdef double loss
    cdef loss_loop value = <loss_loop>call.formulas[0]
    cdef loss_loop gradient = <loss_loop>call.formulas[1]
    cdef int64_t r0 = share(call.sizes[0], 1, thread, threads)
    cdef int64_t r1 = share(call.sizes[0], 1, thread + 1, threads)
    if columns == 1:  # rows of one number: by runs of rows
        for block in range(blocks_of(r1 - r0, CHUNK)):
            first = r0 + block * CHUNK
            n = min(r1 - first, <int64_t>CHUNK)
            y = <const real*>call.buffers[0] + first
            t = <const real*>call.buffers[2] + first
            value(y, t, local, n, call.constants)
            for i in range(n):
                rows[first + i] = <double>local[i] * row_weight(call, first + i)
            if call.buffers[5] != NULL:
                dy = <real*>call.buffers[5] + first
                gradient(y, t, dy, n, call.constants)
                for i in range(n):
                    dy[i] *= <real>(row_weight(call, first + i) / <double>call.step.rows)
        return
    for r in range(r0, r1):
        y = <const real*>call.buffers[0] + r * columns
        t = <const real*>call.buffers[2] + r * columns
        loss = 0
        for block in range(blocks_of(columns, CHUNK)):
            first = block * CHUNK
            n = min(columns - first, <int64_t>CHUNK)
            value(y + first, t + first, local, n, call.constants)
            loss += <double>row_sum(local, n)
        rows[r] = loss * row_weight(call, r) / <double>columns
        if call.buffers[5] != NULL:
            dy = <real*>call.buffers[5] + r * columns
            gradient(y, t, dy, columns, call.constants)
            scale = <real>(row_weight(call, r) / <double>(call.step.rows * columns))
            for i in range(columns):
                dy[i] *= scale


cdef inline int64_t first_largest(const real* p, int64_t n) noexcept nogil:
    cdef int64_t i, best = 0
    for i in range(1, n):
        if p[i] > p[best]:
            best = i
    return best


cdef void accuracy(const Call* call, int thread, int threads) noexcept nogil:
    """rows = 1 where the largest prediction is at the target's place, else 0"""
    cdef int64_t columns = call.sizes[1], r, truth
    cdef const int32_t* labels = <const int32_t*>call.buffers[1]
    cdef double* rows = <double*>call.buffers[3]
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        if labels != NULL:
            truth = labels[r]
        else:
            truth = first_largest(<const real*>call.buffers[2] + r * columns, columns)
        rows[r] = first_largest(<const real*>call.buffers[0] + r * columns, columns) == truth
