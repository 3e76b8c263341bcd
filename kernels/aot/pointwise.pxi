# Elementwise ops over a whole tensor. `to` may be `x` itself.

cdef inline void copy_part(const real* x, real* to, int64_t n) noexcept nogil:
    if to != x and n > 0:
        memcpy(to, x, n * sizeof(real))


cdef void activation(const Call* call, int thread, int threads) noexcept nogil:
    """y = f(x)"""
    cdef int64_t start = share(call.sizes[0], VLEN, thread, threads)
    cdef int64_t n = share(call.sizes[0], VLEN, thread + 1, threads) - start
    cdef real* y = <real*>call.buffers[1] + start
    copy_part(<const real*>call.buffers[0] + start, y, n)
    if call.formulas[0] != NULL:
        (<activation_loop>call.formulas[0])(y, n, call.constants)


cdef void activation_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = dy f'(x, y)"""
    cdef int64_t start = share(call.sizes[0], VLEN, thread, threads)
    cdef int64_t n = share(call.sizes[0], VLEN, thread + 1, threads) - start
    cdef const real* x = <const real*>call.buffers[1]
    cdef const real* y = <const real*>call.buffers[2]
    cdef real* dx = <real*>call.buffers[3] + start
    copy_part(<const real*>call.buffers[0] + start, dx, n)
    if call.formulas[1] != NULL:  # else the identity
        (<activation_grad_loop>call.formulas[1])(
            dx, x + start if x != NULL else NULL, y + start if y != NULL else NULL, n,
            call.constants)


cdef void add(const Call* call, int thread, int threads) noexcept nogil:
    """y = a + b"""
    cdef int64_t i
    cdef const real* a = <const real*>call.buffers[0]
    cdef const real* b = <const real*>call.buffers[1]
    cdef real* y = <real*>call.buffers[2]
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        y[i] = a[i] + b[i]


cdef void rescale(const Call* call, int thread, int threads) noexcept nogil:
    """y = scale x + offset"""
    cdef int64_t i
    cdef const real* x = <const real*>call.buffers[0]
    cdef real* y = <real*>call.buffers[1]
    cdef real scale = <real>call.constants[0], offset = <real>call.constants[1]
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        y[i] = x[i] * scale + offset


cdef enum:
    WORDS = 64  # random counters computed at a time


cdef inline void keep(const real* x, real* y, const uint32_t* words, int64_t n, uint32_t threshold,
                      real scale) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        y[i] = x[i] * (scale if words[i] >= threshold else <real>0)  # NaN stays NaN


cdef void dropout(const Call* call, int thread, int threads) noexcept nogil:
    """y = x / (1 - rate) where a random word is at least rate, else 0. Its own gradient."""
    cdef int64_t rows = call.sizes[0], columns = call.sizes[1], first_row = call.sizes[2]
    cdef int64_t quarter = blocks_of(columns, 4)
    cdef int64_t r, block, j, n, w, at
    cdef const real* x = <const real*>call.buffers[0]
    cdef real* y = <real*>call.buffers[1]
    cdef double rate = call.constants[0]
    cdef uint32_t threshold = <uint32_t>(rate * 4294967296.0)
    cdef real scale = <real>(1.0 / (1.0 - rate))
    cdef uint32_t words[4][WORDS]
    for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
        for block in range(blocks_of(quarter, WORDS)):
            j = block * WORDS
            n = min(quarter - j, <int64_t>WORDS)
            philox_words(call.step.seed, <uint32_t>call.sizes[3], <uint32_t>call.step.step,
                         <uint32_t>(first_row + r), <uint32_t>j, n,
                         words[0], words[1], words[2], words[3])
            for w in range(4):
                at = w * quarter + j
                keep(x + r * columns + at, y + r * columns + at, words[w],
                     min(n, columns - at), threshold, scale)
