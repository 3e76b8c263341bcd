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


cdef inline int64_t rows_at_once(int64_t columns) noexcept nogil:
    """How many narrow rows a formula runs over in one call, from a multiple of VLEN on.

    The compiler may contract a b - c d one way in a loop's vectors and the other way in its tail:
    where a number lies in a vector must not depend on the threads.
    """
    return max(CHUNK // columns // VLEN * VLEN, <int64_t>1)


cdef void pointwise_loss(const Call* call, int thread, int threads) noexcept nogil:
    """rows = weight / O sum over outputs of l(y, t); dy = weight / (B O) l'(y, t), or without O

    The formula runs over as many whole rows as stay in the cache, or over parts of one.
    """
    cdef int64_t columns = call.sizes[1], divisor = call.sizes[2], r, first, n, i, k
    cdef const real* y
    cdef const real* t
    cdef double* rows = <double*>call.buffers[4]
    cdef real* dy
    cdef real local[CHUNK]
    cdef const real* weights = <const real*>call.buffers[3]
    cdef double part = 1.0 / <double>divisor
    cdef real scale = <real>(part / <double>max(call.step.rows, 1))
    cdef loss_loop value = <loss_loop>call.formulas[0]
    cdef loss_loop gradient = <loss_loop>call.formulas[1]
    cdef int64_t stop = share(call.sizes[0], VLEN, thread + 1, threads)
    cdef int64_t together = rows_at_once(columns)
    r = share(call.sizes[0], VLEN, thread, threads)
    while r < stop:
        n = min(together, stop - r)
        y = <const real*>call.buffers[0] + r * columns
        t = <const real*>call.buffers[2] + r * columns
        if n * columns <= CHUNK:
            value(y, t, local, n * columns, call.constants)
            if columns == 1:
                for i in range(n):
                    rows[r + i] = <double>local[i]
            else:
                for i in range(n):
                    rows[r + i] = <double>row_sum(local + i * columns, columns)
        else:
            rows[r] = 0
            for k in range(blocks_of(columns, CHUNK)):
                first = k * CHUNK
                value(y + first, t + first, local, min(columns - first, <int64_t>CHUNK),
                      call.constants)
                rows[r] += <double>row_sum(local, min(columns - first, <int64_t>CHUNK))
        if weights == NULL:
            for i in range(n):
                rows[r + i] *= part
        else:
            for i in range(n):
                rows[r + i] *= part * <double>weights[r + i]
        if call.buffers[5] != NULL:
            dy = <real*>call.buffers[5] + r * columns
            gradient(y, t, dy, n * columns, call.constants)
            if weights == NULL:
                for i in range(n * columns):
                    dy[i] *= scale
            elif columns == 1:
                for i in range(n):
                    dy[i] *= scale * weights[r + i]
            else:
                for k in range(n):
                    for i in range(k * columns, (k + 1) * columns):
                        dy[i] *= scale * weights[r + k]
        r += n


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


cdef void negative_log_likelihood(const Call* call, int thread, int threads) noexcept nogil:
    """rows = -weight sum t l; dl = -weight t / B"""
    cdef int64_t columns = call.sizes[1], r, i
    cdef const int32_t* labels = <const int32_t*>call.buffers[1]
    cdef const real* t
    cdef const real* logs
    cdef double* rows = <double*>call.buffers[4]
    cdef real* dl
    cdef real scale
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        logs = <const real*>call.buffers[0] + r * columns
        t = <const real*>call.buffers[2] + r * columns
        dl = <real*>call.buffers[5] + r * columns
        scale = <real>(row_weight(call, r) / <double>call.step.rows)
        if labels != NULL:
            rows[r] = -<double>logs[labels[r]]
        else:
            rows[r] = -<double>row_dot(t, logs, columns)
        rows[r] *= row_weight(call, r)
        if call.buffers[5] == NULL:
            continue
        if labels != NULL:
            for i in range(columns):
                dl[i] = -scale * <real>(labels[r] == i)
        else:
            for i in range(columns):
                dl[i] = -scale * t[i]


cdef void multiclass_hinge(const Call* call, int thread, int threads) noexcept nogil:
    """rows = weight times the sum over the wrong classes of max(0, margin + z - z of the right
    one), or of its square"""
    cdef int64_t columns = call.sizes[1], squared = call.sizes[2], r, i, right
    cdef const int32_t* labels = <const int32_t*>call.buffers[1]
    cdef const real* z
    cdef double* rows = <double*>call.buffers[4]
    cdef real* dz
    cdef real scale, excess, slope, base
    cdef double loss, pull
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        z = <const real*>call.buffers[0] + r * columns
        dz = <real*>call.buffers[5] + r * columns if call.buffers[5] != NULL else NULL
        if labels != NULL:
            right = labels[r]
        else:
            right = first_largest(<const real*>call.buffers[2] + r * columns, columns)
        scale = <real>(row_weight(call, r) / <double>call.step.rows)
        base = <real>call.constants[0] - z[right]
        loss = 0 if z[right] == z[right] else <double>z[right]  # NaN even where it is alone
        pull = 0
        for i in range(columns):
            if i == right:
                continue
            excess = z[i] + base
            excess = 0 if excess < 0 else excess
            slope = 2 * excess if squared else <real>(excess > 0)
            loss += <double>(excess * excess if squared else excess)
            pull += <double>slope
            if dz != NULL:
                dz[i] = slope * scale
        if dz != NULL:
            dz[right] = -<real>pull * scale
        rows[r] = loss * row_weight(call, r)


cdef void cosine_proximity(const Call* call, int thread, int threads) noexcept nogil:
    """rows = -weight times the cosine of the angle between y and t"""
    cdef int64_t columns = call.sizes[1], r, i
    cdef const int32_t* labels = <const int32_t*>call.buffers[1]
    cdef const real* y
    cdef const real* t
    cdef double* rows = <double*>call.buffers[4]
    cdef real* dy
    cdef real own, other, dot, cosine, along, scale
    cdef real floor = <real>1e-7
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        y = <const real*>call.buffers[0] + r * columns
        t = <const real*>call.buffers[2] + r * columns
        own = r_sqrt(row_dot(y, y, columns))
        own = floor if own < floor else own
        if labels != NULL:
            other = 1
            dot = y[labels[r]]
        else:
            other = r_sqrt(row_dot(t, t, columns))
            other = floor if other < floor else other
            dot = row_dot(y, t, columns)
        cosine = dot / (own * other)
        rows[r] = -<double>cosine * row_weight(call, r)
        if call.buffers[5] == NULL:
            continue
        dy = <real*>call.buffers[5] + r * columns
        scale = <real>(row_weight(call, r) / <double>call.step.rows)
        along = <real>0 if own <= floor else cosine
        for i in range(columns):  # in this order y of one number gives an exact 0
            dy[i] = y[i] * along / own
        if labels != NULL:
            dy[labels[r]] -= 1
        else:
            for i in range(columns):
                dy[i] -= t[i] / other
        scale /= own
        for i in range(columns):
            dy[i] *= scale
