# Ops that join tensors, and take them apart.


cdef void merge(const Call* call, int thread, int threads) noexcept nogil:
    """y = f(a, b)"""
    cdef int64_t start = share(call.sizes[0], VLEN, thread, threads)
    cdef int64_t n = share(call.sizes[0], VLEN, thread + 1, threads) - start
    (<merge_loop>call.formulas[0])(<const real*>call.buffers[0] + start,
                                   <const real*>call.buffers[1] + start,
                                   <real*>call.buffers[2] + start, n, call.constants)


cdef void merge_grad(const Call* call, int thread, int threads) noexcept nogil:
    """da = dy df/da, db = dy df/db, either of which may be absent"""
    cdef int64_t start = share(call.sizes[0], VLEN, thread, threads)
    cdef int64_t stop = share(call.sizes[0], VLEN, thread + 1, threads), n, i
    cdef const real* dy = <const real*>call.buffers[0]
    cdef const real* a = <const real*>call.buffers[1]
    cdef const real* b = <const real*>call.buffers[2]
    cdef real* da = <real*>call.buffers[3]
    cdef real* db = <real*>call.buffers[4]
    cdef real by_a[CHUNK]
    cdef real by_b[CHUNK]
    while start < stop:
        n = min(stop - start, <int64_t>CHUNK)
        (<merge_grad_loop>call.formulas[1])(a + start, b + start, by_a, by_b, n, call.constants)
        if da != NULL:
            for i in range(n):
                da[start + i] = dy[start + i] * by_a[i]
        if db != NULL:
            for i in range(n):
                db[start + i] = dy[start + i] * by_b[i]
        start += n


cdef void concatenate(const Call* call, int thread, int threads) noexcept nogil:
    """Rows of y = rows of a, then rows of b"""
    cdef int64_t m = call.sizes[1], n = call.sizes[2], r
    cdef const real* a = <const real*>call.buffers[0]
    cdef const real* b = <const real*>call.buffers[1]
    cdef real* y = <real*>call.buffers[2]
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        memcpy(y + r * (m + n), a + r * m, m * sizeof(real))
        memcpy(y + r * (m + n) + m, b + r * n, n * sizeof(real))


cdef void split(const Call* call, int thread, int threads) noexcept nogil:
    """a = the first columns of y, b = the others"""
    cdef int64_t m = call.sizes[1], n = call.sizes[2], r
    cdef const real* y = <const real*>call.buffers[0]
    cdef real* a = <real*>call.buffers[1]
    cdef real* b = <real*>call.buffers[2]
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        memcpy(a + r * m, y + r * (m + n), m * sizeof(real))
        memcpy(b + r * n, y + r * (m + n) + m, n * sizeof(real))


cdef void spread(const Call* call, int thread, int threads) noexcept nogil:
    """y = x, as often as y has numbers"""
    cdef int64_t i
    cdef real x = (<const real*>call.buffers[0])[0]
    cdef real* y = <real*>call.buffers[1]
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        y[i] = x


cdef void total(const Call* call, int thread, int threads) noexcept nogil:
    """y = sum x"""
    if thread == 0:
        (<real*>call.buffers[1])[0] = row_sum(<const real*>call.buffers[0], call.sizes[0])
