# Normalization. What sums over the rows of a batch goes by blocks of columns, which threads divide;
# what sums over the numbers of a row goes by rows.

cdef enum:
    COLUMNS = 64   # of a block whose sums are kept beside it
    RUN = 64       # rows summed in the model's type, before they are added in double

cdef real SHORTEST = <real>1e-12  # vectors below this length are divided by it


cdef void affine(const Call* call, int thread, int threads) noexcept nogil:
    """y = scale x + shift, one number of each for a column"""
    cdef int64_t n = call.sizes[1], i, r = share(call.sizes[0], 1, thread, threads)
    cdef int64_t stop = share(call.sizes[0], 1, thread + 1, threads)
    cdef const real* x = <const real*>call.buffers[0] + r * n
    cdef const real* scale = <const real*>call.buffers[1]
    cdef const real* shift = <const real*>call.buffers[2]
    cdef real* y = <real*>call.buffers[3] + r * n
    if scale != NULL and n <= SIDE_BY_SIDE * VLEN:
        scale_columns(x, scale, shift, stop - r, n, n, y, n)
        return
    for r in range(r, stop):
        x = <const real*>call.buffers[0] + r * n
        y = <real*>call.buffers[3] + r * n
        if scale != NULL and shift != NULL:
            for i in range(n):
                y[i] = x[i] * scale[i] + shift[i]
        elif scale != NULL:
            for i in range(n):
                y[i] = x[i] * scale[i]
        elif shift != NULL:
            for i in range(n):
                y[i] = x[i] + shift[i]
        else:
            copy_part(x, y, n)


cdef void affine_dw(const Call* call, int thread, int threads) noexcept nogil:
    """dscale = sum over the rows of dy x, dshift = sum of dy"""
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1]
    cdef int64_t j = share(ld, VLEN, thread, threads), n
    cdef int64_t stop = share(ld, VLEN, thread + 1, threads)
    cdef const real* x = <const real*>call.buffers[0]
    cdef const real* dy = <const real*>call.buffers[1]
    cdef real* dscale = <real*>call.buffers[2]
    cdef real* dshift = <real*>call.buffers[3]
    while j < stop:
        n = min(stop - j, <int64_t>COLUMNS)
        if dscale != NULL:
            column_products(dy + j, x + j, rows, n, ld, dscale + j)
        if dshift != NULL:
            column_sums(dy + j, rows, n, ld, dshift + j)
        j += n


cdef inline void add_run(double* sums, const real* run, int64_t n) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        sums[i] += <double>run[i]


cdef inline void to_means(const double* sums, real* means, int64_t n, int64_t rows) noexcept nogil:
    cdef int64_t i
    for i in range(n):
        means[i] = <real>(sums[i] / <double>max(rows, 1))


cdef void differences(const real* x, int64_t rows, int64_t ld, int64_t n, const real* first,
                      real* means) noexcept nogil:
    """means[i] = mean over the rows of x - first, for n <= COLUMNS columns"""
    cdef double sums[COLUMNS]
    cdef real run[COLUMNS]
    cdef int64_t start = 0
    memset(sums, 0, sizeof(sums))
    while start < rows:
        column_differences(x + start * ld, first, min(rows - start, <int64_t>RUN), n, ld, run)
        add_run(sums, run, n)
        start += RUN
    to_means(sums, means, n, rows)


cdef void centered(const real* x, const real* first, const real* middle, int64_t rows, int64_t ld,
                   int64_t n, real* y, real* variance) noexcept nogil:
    """y = x - first - middle, variance[i] = mean over the rows of y^2, for n <= COLUMNS columns"""
    cdef double sums[COLUMNS]
    cdef real run[COLUMNS]
    cdef int64_t start = 0
    memset(sums, 0, sizeof(sums))
    while start < rows:
        center_columns(x + start * ld, first, middle, min(rows - start, <int64_t>RUN), n, ld,
                       y + start * ld, run)
        add_run(sums, run, n)
        start += RUN
    to_means(sums, variance, n, rows)


cdef void standardize_columns(const Call* call, int thread, int threads) noexcept nogil:
    """y = f(scale standard + shift), standard = (x - mean) / sqrt(variance + epsilon), with the
    mean and variance of each column

    Sums are of differences to the first row, and the mean itself is never rounded on the way to
    the result: a large mean costs no digits of the variance.
    """
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1], i, n, r
    cdef int64_t j = share(ld, VLEN, thread, threads), stop = share(ld, VLEN, thread + 1, threads)
    cdef const real* x
    cdef real* y
    cdef real* standard
    cdef real* variance
    cdef real epsilon = <real>call.constants[0]
    cdef activation_loop forward = <activation_loop>call.formulas[0]
    cdef real first[COLUMNS]
    cdef real middle[COLUMNS]
    cdef real inverse[COLUMNS]
    cdef real scale[COLUMNS]
    cdef real shift[COLUMNS]
    # An activation runs over a few rows at a time before they are put where they belong: another
    # core may have read y, which then takes long to change. Of few columns, which are not divided,
    # all rows are one run.
    cdef int by_rows = forward != NULL and ld > VLEN
    cdef real local[CHUNK]
    cdef real* to
    cdef int64_t width, together, block, count, ld_to
    if by_rows and ld % VLEN:  # what pads a row goes through the activation too
        memset(local, 0, sizeof(local))
    while j < stop:
        n = min(stop - j, <int64_t>COLUMNS)
        width = blocks_of(n, VLEN) * VLEN
        x = <const real*>call.buffers[0] + j
        y = <real*>call.buffers[3] + j
        variance = <real*>call.buffers[5] + j
        standard = y if call.buffers[6] == NULL else <real*>call.buffers[6] + j
        for i in range(n):
            first[i] = x[i] if rows else <real>0
        differences(x, rows, ld, n, first, middle)
        centered(x, first, middle, rows, ld, n, standard, variance)
        for i in range(n):
            (<real*>call.buffers[4])[j + i] = first[i] + middle[i]
            inverse[i] = 1 / r_sqrt(variance[i] + epsilon)
            scale[i] = 1 if call.buffers[1] == NULL else (<const real*>call.buffers[1])[j + i]
            shift[i] = 0 if call.buffers[2] == NULL else (<const real*>call.buffers[2])[j + i]
        if standard == y:
            for i in range(n):
                inverse[i] *= scale[i]
        together = CHUNK // width if by_rows else max(rows, <int64_t>1)
        for block in range(blocks_of(rows, together)):
            r = block * together
            count = min(rows - r, together)
            to = &local[0] if by_rows else y
            ld_to = width if by_rows else ld
            if standard != y:
                standardize_block(standard + r * ld, inverse, scale, shift, count, n, ld, to, ld_to,
                                  standard + r * ld)
            else:
                scale_columns(y + r * ld, inverse, shift, count, n, ld, to, ld_to)
            if by_rows:
                forward(local, count * width, &call.constants[1])
                put_rows(local, count, n, ld, y + r * ld)
        if forward != NULL and not by_rows:
            forward(y, rows * ld, &call.constants[1])
        j += n


cdef void standardize_columns_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = scale (dy - mean of dy - s mean of dy s) / sqrt(variance + epsilon), by columns, dscale
    = sum over the rows of dy s, dshift = sum of dy, with s for ``standard``"""
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1], i, n, start
    cdef int64_t j = share(ld, VLEN, thread, threads), stop = share(ld, VLEN, thread + 1, threads)
    cdef const real* dy
    cdef const real* standard
    cdef real epsilon = <real>call.constants[0]
    cdef double sums[COLUMNS]
    cdef double products[COLUMNS]
    cdef real run[COLUMNS]
    cdef real run_of_products[COLUMNS]
    cdef real middle[COLUMNS]
    cdef real slope[COLUMNS]
    cdef real inverse[COLUMNS]
    while j < stop:
        n = min(stop - j, <int64_t>COLUMNS)
        dy = <const real*>call.buffers[0] + j
        standard = <const real*>call.buffers[1] + j
        memset(sums, 0, sizeof(sums))
        memset(products, 0, sizeof(products))
        start = 0
        while start < rows:
            column_sums_and_products(dy + start * ld, standard + start * ld,
                                     min(rows - start, <int64_t>RUN), n, ld, run, run_of_products)
            add_run(sums, run, n)
            add_run(products, run_of_products, n)
            start += RUN
        to_means(sums, middle, n, rows)
        to_means(products, slope, n, rows)
        for i in range(n):
            inverse[i] = 1 / r_sqrt((<const real*>call.buffers[2])[j + i] + epsilon)
            if call.buffers[3] != NULL:
                inverse[i] *= (<const real*>call.buffers[3])[j + i]
            if call.buffers[5] != NULL:
                (<real*>call.buffers[5])[j + i] = <real>products[i]
            if call.buffers[6] != NULL:
                (<real*>call.buffers[6])[j + i] = <real>sums[i]
        if call.buffers[4] != NULL:
            adjust_columns(dy, standard, middle, slope, inverse, rows, n, ld,
                           <real*>call.buffers[4] + j)
        j += n


cdef void standardize(const Call* call, int thread, int threads) noexcept nogil:
    """y = (x - mean) / sqrt(variance + epsilon), one mean and variance for a column"""
    cdef int64_t ld = call.sizes[1], j = 0, n, r, i
    cdef const real* x
    cdef real* y
    cdef real epsilon = <real>call.constants[0]
    cdef real inverse[COLUMNS]
    cdef real middle[COLUMNS]
    while j < ld:
        n = min(ld - j, <int64_t>COLUMNS)
        for i in range(n):
            inverse[i] = 1 / r_sqrt((<const real*>call.buffers[2])[j + i] + epsilon)
            middle[i] = 0 if call.buffers[1] == NULL else (<const real*>call.buffers[1])[j + i]
        for r in range(share(call.sizes[0], 1, thread, threads),
                       share(call.sizes[0], 1, thread + 1, threads)):
            x = <const real*>call.buffers[0] + r * ld + j
            y = <real*>call.buffers[3] + r * ld + j
            for i in range(n):
                y[i] = (x[i] - middle[i]) * inverse[i]
        j += n


cdef void running_statistics(const Call* call, int thread, int threads) noexcept nogil:
    """running = momentum running + (1 - momentum) new, with the variance of n - 1 degrees"""
    cdef int64_t i
    cdef const real* mean = <const real*>call.buffers[0]
    cdef const real* variance = <const real*>call.buffers[1]
    cdef real* running_mean = <real*>call.buffers[2]
    cdef real* running_variance = <real*>call.buffers[3]
    cdef real new = 1 - <real>call.constants[0]
    cdef real unbiased = <real>(<double>call.step.rows / <double>max(call.step.rows - 1, 1))
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        running_mean[i] += new * (mean[i] - running_mean[i])
        running_variance[i] += new * (unbiased * variance[i] - running_variance[i])


cdef inline real clipped(real x, real low, real high) noexcept nogil:
    return low if x < low else (high if x > high else x)  # NaN stays NaN


cdef void renormalization(const Call* call, int thread, int threads) noexcept nogil:
    """scale = deviation / running deviation, shift = (mean - running mean) / running deviation"""
    cdef int64_t i
    cdef const real* mean = <const real*>call.buffers[0]
    cdef const real* variance = <const real*>call.buffers[1]
    cdef const real* running_mean = <const real*>call.buffers[2]
    cdef const real* running_variance = <const real*>call.buffers[3]
    cdef real* scale = <real*>call.buffers[4]
    cdef real* shift = <real*>call.buffers[5]
    cdef real epsilon = <real>call.constants[0], most = <real>call.constants[1], deviation
    cdef real away = <real>call.constants[2]
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        deviation = r_sqrt(running_variance[i] + epsilon)
        scale[i] = clipped(r_sqrt(variance[i] + epsilon) / deviation, 1 / most, most)
        shift[i] = clipped((mean[i] - running_mean[i]) / deviation, -away, away)


cdef void standardize_rows(const Call* call, int thread, int threads) noexcept nogil:
    """y = (x - mean) inverse, inverse = 1 / sqrt(variance + epsilon), with those of each row"""
    cdef int64_t n = call.sizes[1], r, i
    cdef const real* x
    cdef real* y
    cdef real* inverse = <real*>call.buffers[2]
    cdef real epsilon = <real>call.constants[0], first, middle
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + r * n
        y = <real*>call.buffers[1] + r * n
        first = x[0]
        for i in range(n):
            y[i] = x[i] - first
        middle = row_sum(y, n) / <real>n
        for i in range(n):
            y[i] -= middle
        inverse[r] = 1 / r_sqrt(row_dot(y, y, n) / <real>n + epsilon)
        for i in range(n):
            y[i] *= inverse[r]


cdef void standardize_rows_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = (dy - mean of dy - y mean of dy y) inverse, by rows"""
    cdef int64_t n = call.sizes[1], r, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef real middle, slope, inverse
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        dy = <const real*>call.buffers[0] + r * n
        y = <const real*>call.buffers[1] + r * n
        dx = <real*>call.buffers[3] + r * n
        inverse = (<const real*>call.buffers[2])[r]
        middle = row_sum(dy, n) / <real>n
        slope = row_dot(dy, y, n) / <real>n
        for i in range(n):
            dx[i] = (dy[i] - middle - y[i] * slope) * inverse


cdef void unit_rows(const Call* call, int thread, int threads) noexcept nogil:
    """y = x inverse, inverse = 1 / length of the row"""
    cdef int64_t n = call.sizes[1], r, i
    cdef const real* x
    cdef real* y
    cdef real length
    cdef real* inverse = <real*>call.buffers[2]
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + r * n
        y = <real*>call.buffers[1] + r * n
        length = r_sqrt(row_dot(x, x, n))
        inverse[r] = 1 / (SHORTEST if length < SHORTEST else length)
        for i in range(n):
            y[i] = x[i] * inverse[r]


cdef void unit_rows_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dx = (dy - y sum of dy y) inverse, by rows"""
    cdef int64_t n = call.sizes[1], r, i
    cdef const real* dy
    cdef const real* y
    cdef real* dx
    cdef real slope, inverse
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        dy = <const real*>call.buffers[0] + r * n
        y = <const real*>call.buffers[1] + r * n
        dx = <real*>call.buffers[3] + r * n
        inverse = (<const real*>call.buffers[2])[r]
        slope = row_dot(dy, y, n)
        for i in range(n):
            dx[i] = (dy[i] - y[i] * slope) * inverse


cdef void unit_columns(const Call* call, int thread, int threads) noexcept nogil:
    """u = w inverse, inverse = 1 / length of the column"""
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1], i, n
    cdef int64_t j = share(ld, VLEN, thread, threads), stop = share(ld, VLEN, thread + 1, threads)
    cdef const real* w
    cdef real* u
    cdef real* inverse
    cdef real length
    while j < stop:
        n = min(stop - j, <int64_t>COLUMNS)
        w = <const real*>call.buffers[0] + j
        u = <real*>call.buffers[1] + j
        inverse = <real*>call.buffers[2] + j
        column_products(w, w, rows, n, ld, inverse)
        for i in range(n):
            length = r_sqrt(inverse[i])
            inverse[i] = 1 / (SHORTEST if length < SHORTEST else length)
        scale_columns(w, inverse, NULL, rows, n, ld, u, ld)
        j += n


cdef void unit_columns_grad(const Call* call, int thread, int threads) noexcept nogil:
    """dw = (du - u sum of du u) inverse, by columns"""
    cdef int64_t rows = call.sizes[0], ld = call.sizes[1], r, i, n
    cdef int64_t j = share(ld, VLEN, thread, threads), stop = share(ld, VLEN, thread + 1, threads)
    cdef const real* du
    cdef const real* u
    cdef const real* inverse
    cdef real* dw
    cdef real slope[COLUMNS]
    while j < stop:
        n = min(stop - j, <int64_t>COLUMNS)
        du = <const real*>call.buffers[0] + j
        u = <const real*>call.buffers[1] + j
        inverse = <const real*>call.buffers[2] + j
        dw = <real*>call.buffers[3] + j
        column_products(du, u, rows, n, ld, slope)
        for r in range(rows):
            for i in range(n):
                dw[r * ld + i] = (du[r * ld + i] - u[r * ld + i] * slope[i]) * inverse[i]
        j += n
