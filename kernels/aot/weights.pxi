# What is asked of weights and activations beside a small loss, and what is done to gradients.


cdef void activity_penalty(const Call* call, int thread, int threads) noexcept nogil:
    """rows = factor times the sum of f(x) over a row; dx = factor f'(x) / B"""
    cdef int64_t columns = call.sizes[1], r, i, n, first
    cdef int64_t stop = share(call.sizes[0], VLEN, thread + 1, threads)
    cdef int64_t together = rows_at_once(columns)
    cdef const real* x
    cdef double* rows = <double*>call.buffers[1]
    cdef real* dx
    cdef real local[CHUNK]
    cdef real scale = <real>(call.constants[0] / <double>call.step.rows)
    r = share(call.sizes[0], VLEN, thread, threads)
    while r < stop:
        n = min(together, stop - r)
        x = <const real*>call.buffers[0] + r * columns
        if n * columns <= CHUNK:
            (<penalty_loop>call.formulas[0])(x, local, n * columns, call.constants + 1)
            if columns == 1:
                for i in range(n):
                    rows[r + i] = <double>local[i] * call.constants[0]
            else:
                for i in range(n):
                    rows[r + i] = (<double>row_sum(local + i * columns, columns)
                                   * call.constants[0])
        else:
            rows[r] = 0
            first = 0
            while first < columns:
                i = min(columns - first, <int64_t>CHUNK)
                (<penalty_loop>call.formulas[0])(x + first, local, i, call.constants + 1)
                rows[r] += <double>row_sum(local, i)
                first += i
            rows[r] *= call.constants[0]
        if call.buffers[2] != NULL:
            dx = <real*>call.buffers[2] + r * columns
            (<penalty_loop>call.formulas[1])(x, dx, n * columns, call.constants + 1)
            for i in range(n * columns):
                dx[i] *= scale
        r += n


cdef void sparsity_penalty(const Call* call, int thread, int threads) noexcept nogil:
    """parts = factor KL(target, mean of a column), dx its derivative"""
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1], r, i
    cdef const real* x = <const real*>call.buffers[0]
    cdef double* parts = <double*>call.buffers[1]
    cdef real* dx = <real*>call.buffers[2]
    cdef double factor = call.constants[0], q = call.constants[1], p, mean
    cdef double entropy = q * libc_log(q) + (1 - q) * libc_log(1 - q)
    cdef real slope
    for i in range(share(ld, VLEN, thread, threads), share(ld, VLEN, thread + 1, threads)):
        mean = 0
        for r in range(rows):
            mean += <double>x[r * ld + i]
        mean /= <double>max(rows, 1)
        p = 1e-6 if mean < 1e-6 else (1 - 1e-6 if mean > 1 - 1e-6 else mean)
        parts[i] = factor * (entropy - q * libc_log(p) - (1 - q) * libc_log(1 - p))
        if dx != NULL:
            slope = <real>(factor * ((1 - q) / (1 - p) - q / p) / <double>max(rows, 1))
            for r in range(rows):
                dx[r * ld + i] = slope


cdef void gram(const Call* call, int thread, int threads) noexcept nogil:
    """g = w^T w"""
    cdef Call product = call[0]
    product.buffers[1] = call.buffers[0]
    product.buffers[2] = call.buffers[1]
    product.buffers[3] = NULL
    dense_dw(&product, thread, threads)


cdef void identity_distance(const Call* call, int thread, int threads) noexcept nogil:
    """parts = factor times the sum of |g - 1| over a row; dg = factor sign(g - 1)"""
    cdef int64_t n = call.sizes[0], r, i
    cdef const real* g
    cdef double* parts = <double*>call.buffers[1]
    cdef real* dg
    cdef real factor = <real>call.constants[0], apart
    for r in range(share(n, 1, thread, threads), share(n, 1, thread + 1, threads)):
        parts[r] = 0
        g = <const real*>call.buffers[0] + r * n
        dg = <real*>call.buffers[2] + r * n if call.buffers[2] != NULL else NULL
        for i in range(n):
            apart = g[i] - <real>(i == r)
            parts[r] += <double>(apart if apart > 0 else -apart)
            if dg != NULL:
                dg[i] = factor if apart > 0 else (-factor if apart < 0 else apart)
        parts[r] *= call.constants[0]


cdef void squared_norm(const Call* call, int thread, int threads) noexcept nogil:
    """Sum of parts = sum of g^2"""
    cdef int64_t n = call.sizes[0], part, i
    cdef const real* g = <const real*>call.buffers[0]
    cdef double* parts = <double*>call.buffers[1]
    cdef double a, b, c, d
    cdef int64_t stop
    for part in range(share(blocks_of(n, PENALTY_BLOCK), 1, thread, threads),
                      share(blocks_of(n, PENALTY_BLOCK), 1, thread + 1, threads)):
        a = b = c = d = 0
        i = part * PENALTY_BLOCK
        stop = min(i + PENALTY_BLOCK, n)
        while i + 4 <= stop:
            a += <double>g[i] * <double>g[i]
            b += <double>g[i + 1] * <double>g[i + 1]
            c += <double>g[i + 2] * <double>g[i + 2]
            d += <double>g[i + 3] * <double>g[i + 3]
            i += 4
        while i < stop:
            a += <double>g[i] * <double>g[i]
            i += 1
        parts[part] = (a + b) + (c + d)


cdef void clip_norm(const Call* call, int thread, int threads) noexcept nogil:
    """out = g limit / length where the length, the root of the sum of parts, is above the limit"""
    cdef int64_t i
    cdef const real* g = <const real*>call.buffers[0]
    cdef const double* parts = <const double*>call.buffers[1]
    cdef real* out = <real*>call.buffers[2]
    cdef double length = 0
    cdef real scale
    for i in range(call.sizes[1]):
        length += parts[i]
    length = libc_sqrt(length)
    scale = <real>(call.constants[0] / length if length > call.constants[0] else 1.0)
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        out[i] = g[i] * scale


cdef void clip_value(const Call* call, int thread, int threads) noexcept nogil:
    """out = g, clipped to [-limit, limit]"""
    cdef int64_t i
    cdef const real* g = <const real*>call.buffers[0]
    cdef real* out = <real*>call.buffers[1]
    cdef real limit = <real>call.constants[0]
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        out[i] = clipped(g[i], -limit, limit)


cdef void average_weights(const Call* call, int thread, int threads) noexcept nogil:
    """average = decay_rate average + (1 - decay_rate) w; w itself after the first update"""
    cdef int64_t i
    cdef const real* w = <const real*>call.buffers[0]
    cdef real* average = <real*>call.buffers[1]
    cdef real new = <real>(1.0 - call.constants[0])
    # Divided as the update is: no thread reads what another has yet to write.
    for i in range(share(call.sizes[0], UPDATE_BLOCK, thread, threads),
                   share(call.sizes[0], UPDATE_BLOCK, thread + 1, threads)):
        average[i] = w[i] if call.step.step == 0 else average[i] + new * (w[i] - average[i])


cdef void constrain_norm(const Call* call, int thread, int threads) noexcept nogil:
    """Columns of w, scaled so that their lengths are from least to most; zeros stay"""
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1], r, i, n
    cdef int64_t j = share(ld, VLEN, thread, threads), stop = share(ld, VLEN, thread + 1, threads)
    cdef real* w
    cdef real least = <real>call.constants[0], most = <real>call.constants[1], length
    cdef real scale[COLUMNS]
    while j < stop:
        n = min(stop - j, <int64_t>COLUMNS)
        w = <real*>call.buffers[0] + j
        column_products(w, w, rows, n, ld, scale)
        for i in range(n):
            length = r_sqrt(scale[i])
            if length > most:
                scale[i] = most / length
            elif length < least and length > 0:
                scale[i] = least / length
            else:
                scale[i] = 1
        for r in range(rows):
            for i in range(n):
                w[r * ld + i] *= scale[i]
        j += n


cdef void constrain_sign(const Call* call, int thread, int threads) noexcept nogil:
    """w = max(w, 0)"""
    cdef int64_t i
    cdef real* w = <real*>call.buffers[0]
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        w[i] = 0 if w[i] < 0 else w[i]
