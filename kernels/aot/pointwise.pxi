# Elementwise ops over a whole tensor. `to` may be `x` itself.

cdef inline void copy_part(const real* x, real* to, int64_t n) noexcept nogil:
    if to != x and n > 0:
        memcpy(to, x, n * sizeof(real))


cdef void activation(const Call* call, int thread, int threads) noexcept nogil:
    """y = f(x)"""
    cdef int64_t start = share(call.sizes[0], VLEN, thread, threads), n
    cdef int64_t stop = share(call.sizes[0], VLEN, thread + 1, threads)
    cdef const real* x = <const real*>call.buffers[0]
    cdef real* y = <real*>call.buffers[1]
    while start < stop:
        # Out of place, a part is copied and worked on while it is in the cache.
        n = stop - start if x == y else min(stop - start, <int64_t>CHUNK)
        copy_part(x + start, y + start, n)
        if call.formulas[0] != NULL:
            (<activation_loop>call.formulas[0])(y + start, n, call.constants)
        start += n


cdef void activation_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = dy f'(x, y)"""
    cdef int64_t start = share(call.sizes[0], VLEN, thread, threads), n
    cdef int64_t stop = share(call.sizes[0], VLEN, thread + 1, threads)
    cdef const real* dy = <const real*>call.buffers[0]
    cdef const real* x = <const real*>call.buffers[1]
    cdef const real* y = <const real*>call.buffers[2]
    cdef real* dx = <real*>call.buffers[3]
    while start < stop:
        n = stop - start if dx == dy else min(stop - start, <int64_t>CHUNK)
        copy_part(dy + start, dx + start, n)
        if call.formulas[1] != NULL:  # else the identity
            (<activation_grad_loop>call.formulas[1])(
                dx + start, x + start if x != NULL else NULL, y + start if y != NULL else NULL, n,
                call.constants)
        start += n


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
    WORDS = 256  # random words made at a time: PHILOX_BLOCK


cdef struct Random:
    Philox philox
    uint32_t words[WORDS]
    int64_t used          # of the words
    int64_t at, stop      # of the words that the tensor's rows need, without those between rows
    int64_t row           # words of a row, or of all rows where nothing is between them
    int64_t column


cdef inline void first_words(Random* random, const Call* call, int64_t of_a_number, int thread,
                             int threads) noexcept nogil:
    """Before the words of this thread's rows, so many for each number.

    Sizes: rows, columns, number of the first row, stream, number of the first column.
    """
    cdef int64_t first = share(call.sizes[0], 1, thread, threads)
    cdef int64_t row = call.sizes[1] * of_a_number
    random.at = first * row
    random.stop = share(call.sizes[0], 1, thread + 1, threads) * row
    random.row = row if row % 4 else random.stop - random.at
    random.column = 0
    random.used = WORDS
    philox_start(&random.philox, call.step.seed, <uint32_t>call.sizes[3],
                 <uint32_t>call.step.step, <uint32_t>(call.sizes[2] + first),
                 max(blocks_of(row, 4), <int64_t>1), call.sizes[4] * of_a_number // 4)


cdef inline int64_t next_words(Random* random, const uint32_t** words) noexcept nogil:
    """How many words, for numbers that follow each other, are in `words`; 0 at the end."""
    cdef int64_t n
    if random.at >= random.stop:
        return 0
    if random.used == WORDS:
        philox_next(&random.philox, random.words)
        random.used = 0
    n = min(WORDS - random.used, random.row - random.column)
    words[0] = random.words + random.used
    random.at += n
    random.used += n
    random.column += n
    if random.column == random.row:
        random.column = 0
        random.used += -random.used & 3  # a row begins with a counter of its own
    return n


cdef void dropout(const Call* call, int thread, int threads) noexcept nogil:
    """y = x mask"""
    draw_mask(call, <real*>call.buffers[2], <const real*>call.buffers[0], <real*>call.buffers[1],
              thread, threads)


cdef void dropout_mask(const Call* call, int thread, int threads) noexcept nogil:
    draw_mask(call, <real*>call.buffers[0], NULL, NULL, thread, threads)


cdef void draw_mask(const Call* call, real* mask, const real* x, real* y, int thread,
                    int threads) noexcept nogil:
    """mask = 1 / (1 - rate) where a random word is at least rate, else 0; and y = x mask

    Either may be NULL.
    """
    cdef int64_t n, at
    cdef double rate = call.constants[0]
    cdef uint32_t threshold = <uint32_t>(rate * 4294967296.0)
    cdef real scale = <real>(1.0 / (1.0 - rate))
    cdef real local[WORDS]
    cdef real* kept
    cdef const uint32_t* words
    cdef Random random
    first_words(&random, call, 1, thread, threads)
    at = random.at
    n = next_words(&random, &words)
    while n:
        kept = mask + at
        if mask == NULL:
            kept = local
        keep(words, n, threshold, scale, kept)
        if y != NULL:
            masked(x + at, kept, n, y + at)  # NaN stays NaN
        at = random.at
        n = next_words(&random, &words)


cdef inline void keep(const uint32_t* words, int64_t n, uint32_t threshold, real scale,
                      real* kept) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        kept[i] = scale if words[i] >= threshold else <real>0


cdef void prelu(const Call* call, int thread, int threads) noexcept nogil:
    """y = x if x > 0 else slope x, one slope for a column"""
    cdef int64_t n = call.sizes[1], r, i
    cdef const real* x
    cdef const real* slope = <const real*>call.buffers[1]
    cdef real* y
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + r * n
        y = <real*>call.buffers[2] + r * n
        for i in range(n):
            y[i] = x[i] * (<real>1 if x[i] > 0 else slope[i])


cdef void prelu_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = dy if x > 0 else slope dy"""
    cdef int64_t n = call.sizes[1], r, i
    cdef const real* dy
    cdef const real* x
    cdef const real* slope = <const real*>call.buffers[2]
    cdef real* dx
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        dy = <const real*>call.buffers[0] + r * n
        x = <const real*>call.buffers[1] + r * n
        dx = <real*>call.buffers[3] + r * n
        for i in range(n):
            dx[i] = dy[i] * (<real>1 if x[i] > 0 else slope[i])


cdef void prelu_dw(const Call* call, int thread, int threads) noexcept nogil:
    """dslope = sum over the rows of dy x where x <= 0"""
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1], r, i, n
    cdef int64_t j = share(ld, VLEN, thread, threads), stop = share(ld, VLEN, thread + 1, threads)
    cdef const real* dy
    cdef const real* x
    cdef real sums[COLUMNS]
    while j < stop:
        n = min(stop - j, <int64_t>COLUMNS)
        dy = <const real*>call.buffers[0] + j
        x = <const real*>call.buffers[1] + j
        for i in range(n):
            sums[i] = 0
        for r in range(rows):
            for i in range(n):
                sums[i] += dy[r * ld + i] * (<real>0 if x[r * ld + i] > 0 else x[r * ld + i])
        for i in range(n):
            (<real*>call.buffers[2])[j + i] = sums[i]
        j += n


cdef inline real normal(uint32_t length, uint32_t angle) noexcept nogil:
    """A normal number of 23 bits for the length, 24 for the angle (Box & Muller, 1958): as many as
    float32 holds exactly."""
    cdef real u = (<real><int32_t>(length >> 9) + <real>0.5) * <real>(1.0 / 8388608.0)
    return r_sqrt(-2 * r_log(u)) * r_cos_turns(<real><int32_t>(angle >> 8)
                                               * <real>(1.0 / 16777216.0))


cdef void gaussian(const Call* call, int thread, int threads, int multiply) noexcept nogil:
    """y = x + n or y = x (1 + n) with n from N(0, deviation^2)

    The first of a number's two words gives the length, the second the angle.
    """
    cdef int64_t n, at, i
    cdef const real* x
    cdef real* y
    cdef real deviation = <real>call.constants[0]
    cdef real noise[WORDS]
    cdef const uint32_t* words
    cdef Random random
    first_words(&random, call, 2, thread, threads)
    at = random.at // 2
    n = next_words(&random, &words) // 2
    while n:
        x = <const real*>call.buffers[0] + at
        y = <real*>call.buffers[1] + at
        for i in range(n):
            noise[i] = deviation * normal(words[2 * i], words[2 * i + 1])
        if multiply:
            for i in range(n):
                y[i] = x[i] * (1 + noise[i])
        else:
            for i in range(n):
                y[i] = x[i] + noise[i]
        at = random.at // 2
        n = next_words(&random, &words) // 2


cdef void gaussian_noise(const Call* call, int thread, int threads) noexcept nogil:
    """y = x + n with n from N(0, deviation^2)"""
    gaussian(call, thread, threads, 0)


cdef void gaussian_dropout(const Call* call, int thread, int threads) noexcept nogil:
    """y = x n with n from N(1, deviation^2). Its own gradient."""
    gaussian(call, thread, threads, 1)
