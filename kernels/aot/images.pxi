# Random changes of images, and mixtures of rows: new for each row of each step. A row's numbers are
# a function of (seed, stream, step, row), as all that is random.


cdef inline double unit(uint32_t word) noexcept nogil:
    """A number in [0, 1) of 24 bits."""
    return <double>(word >> 8) / 16777216.0


cdef void draw_units(const Call* call, int64_t row, double* u) noexcept nogil:
    """Eight numbers of a row."""
    cdef uint32_t words[8]
    cdef int i
    philox_words(call.step.seed, <uint32_t>call.sizes[3], <uint32_t>call.step.step,
                 <uint32_t>(call.sizes[2] + row), 8, words)
    for i in range(8):
        u[i] = unit(words[i])


cdef struct Image:
    int64_t height
    int64_t width
    int64_t channels
    real fill


cdef inline real pixel(const Image* image, const real* x, int64_t r, int64_t c,
                       int64_t channel) noexcept nogil:
    if r < 0 or c < 0 or r >= image.height or c >= image.width:
        return image.fill
    return x[(r * image.width + c) * image.channels + channel]


cdef inline void sample(const Image* image, const real* x, double down, double right,
                        real* y) noexcept nogil:
    """All channels at a place between pixels, with the fill around the image."""
    cdef int64_t r, c, k
    cdef real below, beside
    # Beyond this the fill is all there is, and casts of larger numbers are undefined.
    if not (down > -2 and down < image.height + 1 and right > -2 and right < image.width + 1):
        for k in range(image.channels):
            y[k] = image.fill
        return
    r = <int64_t>(down + 2) - 2  # the floor
    c = <int64_t>(right + 2) - 2
    below = <real>(down - <double>r)
    beside = <real>(right - <double>c)
    for k in range(image.channels):
        y[k] = ((1 - below) * (1 - beside) * pixel(image, x, r, c, k)
                + (1 - below) * beside * pixel(image, x, r, c + 1, k)
                + below * (1 - beside) * pixel(image, x, r + 1, c, k)
                + below * beside * pixel(image, x, r + 1, c + 1, k))


cdef void make_image(Image* image, const Call* call, double fill) noexcept nogil:
    image.height = call.sizes[4]
    image.width = call.sizes[5]
    image.channels = call.sizes[6]
    image.fill = <real>fill


cdef void warp(const Call* call, int thread, int threads) noexcept nogil:
    """Images, rotated, sheared, scaled, flipped and shifted at random"""
    cdef Image image
    cdef const real* x
    cdef real* y
    cdef const double* p = call.constants
    cdef double u[8]
    cdef double a, b, c, d, sine, cosine, slope, size, up, left, down, right, middle_r, middle_c
    cdef double dr, dc
    cdef int64_t row, i, j
    make_image(&image, call, p[7])
    middle_r = <double>(image.height - 1) / 2
    middle_c = <double>(image.width - 1) / 2
    for row in range(share(call.sizes[0], 1, thread, threads),
                     share(call.sizes[0], 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + row * call.sizes[1]
        y = <real*>call.buffers[1] + row * call.sizes[1]
        draw_units(call, row, u)
        sine = libc_sin(p[0] * (2 * u[0] - 1))
        cosine = libc_cos(p[0] * (2 * u[0] - 1))
        slope = p[4] * (2 * u[1] - 1)
        size = 1 + p[3] * (2 * u[2] - 1)
        up = (-1.0 if u[5] < p[5] else 1.0) / size
        left = (-1.0 if u[6] < p[6] else 1.0) / size
        # rotation times shear times flips and scale
        a = (cosine - sine * slope) * up
        b = -sine * left
        c = (sine + cosine * slope) * up
        d = cosine * left
        down = middle_r - p[1] * (2 * u[3] - 1) * <double>image.height
        right = middle_c - p[2] * (2 * u[4] - 1) * <double>image.width
        for i in range(image.height):
            dr = <double>i - middle_r
            for j in range(image.width):
                dc = <double>j - middle_c
                sample(&image, x, a * dr + b * dc + down, c * dr + d * dc + right,
                       y + (i * image.width + j) * image.channels)


cdef enum:
    MOST_TAPS = 127  # of the filter that smoothes a field


cdef void smooth_lines(const real* field, real* to, int64_t lines, int64_t n, int64_t line,
                       int64_t step, const real* taps, int64_t radius) noexcept nogil:
    """Filter `lines` lines of n numbers that are `step` apart, with zeros around them."""
    cdef int64_t which, k, i
    cdef real sum
    for which in range(lines):
        for i in range(n):
            sum = 0
            for k in range(max(-radius, -i), min(radius, n - 1 - i) + 1):
                sum += taps[k + radius] * field[which * line + (i + k) * step]
            to[which * line + i * step] = sum


cdef void elastic(const Call* call, int thread, int threads) noexcept nogil:
    """Images, each pixel taken from alpha times a smooth random field away"""
    cdef Image image
    cdef const real* x
    cdef real* y
    cdef real* fields = <real*>call.step.scratch    # down and right, and room to filter
    cdef real* field
    cdef real* other
    cdef real taps[MOST_TAPS]
    cdef double alpha = call.constants[0], sigma = call.constants[1], total = 0
    cdef int64_t radius = <int64_t>(3 * sigma), row, i, j, k, pixels, at
    cdef Philox philox
    cdef uint32_t words[WORDS]
    make_image(&image, call, call.constants[2])
    if <double>radius < 3 * sigma:
        radius += 1
    for k in range(-radius, radius + 1):
        total += libc_exp(-0.5 * (<double>k / sigma) * (<double>k / sigma))
    for k in range(-radius, radius + 1):
        taps[k + radius] = <real>(libc_exp(-0.5 * (<double>k / sigma) * (<double>k / sigma))
                                  / total)
    pixels = image.height * image.width
    other = fields + 2 * pixels
    for row in range(share(call.sizes[0], 1, thread, threads),
                     share(call.sizes[0], 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + row * call.sizes[1]
        y = <real*>call.buffers[1] + row * call.sizes[1]
        philox_start(&philox, call.step.seed, <uint32_t>call.sizes[3], <uint32_t>call.step.step,
                     <uint32_t>(call.sizes[2] + row), blocks_of(2 * pixels, 4), 0)
        for k in range(blocks_of(2 * pixels, WORDS)):
            philox_next(&philox, words)
            for i in range(min(2 * pixels - k * WORDS, <int64_t>WORDS)):
                fields[k * WORDS + i] = <real>(2 * unit(words[i]) - 1)
        for k in range(2):
            field = fields + k * pixels
            smooth_lines(field, other, image.width, image.height, 1, image.width, taps, radius)
            smooth_lines(other, field, image.height, image.width, image.width, 1, taps, radius)
        for i in range(image.height):
            for j in range(image.width):
                at = i * image.width + j
                sample(&image, x, <double>i + alpha * <double>fields[at],
                       <double>j + alpha * <double>fields[pixels + at], y + at * image.channels)


cdef void recolor(const Call* call, int thread, int threads) noexcept nogil:
    """y = mean + c (x - mean) + b, with b and c at random"""
    cdef int64_t n = call.sizes[1], row, i
    cdef const real* x
    cdef real* y
    cdef uint32_t words[2]
    cdef real scale, shift
    for row in range(share(call.sizes[0], 1, thread, threads),
                     share(call.sizes[0], 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + row * n
        y = <real*>call.buffers[1] + row * n
        philox_words(call.step.seed, <uint32_t>call.sizes[3], <uint32_t>call.step.step,
                     <uint32_t>(call.sizes[2] + row), 2, words)
        scale = <real>(1 + call.constants[1] * (2 * unit(words[0]) - 1))
        shift = row_sum(x, n) / <real>n
        shift = (shift - scale * shift) + <real>(call.constants[0] * (2 * unit(words[1]) - 1))
        for i in range(n):
            y[i] = scale * x[i] + shift


cdef void erase(const Call* call, int thread, int threads) noexcept nogil:
    """Images, a rectangle of some of them replaced by the fill"""
    cdef Image image
    cdef real* y
    cdef const double* p = call.constants
    cdef double u[8]
    cdef double area, ratio
    cdef int64_t row, tall, wide, top, left, i, j
    make_image(&image, call, p[4])
    for row in range(share(call.sizes[0], 1, thread, threads),
                     share(call.sizes[0], 1, thread + 1, threads)):
        y = <real*>call.buffers[1] + row * call.sizes[1]
        copy_part(<const real*>call.buffers[0] + row * call.sizes[1], y, call.sizes[1])
        draw_units(call, row, u)
        if not u[0] < p[0]:
            continue
        area = (p[1] + (p[2] - p[1]) * u[1]) * <double>(image.height * image.width)
        ratio = libc_pow(p[3], 2 * u[2] - 1)
        tall = min(max(<int64_t>(libc_sqrt(area * ratio) + 0.5), 1), image.height)
        wide = min(max(<int64_t>(libc_sqrt(area / ratio) + 0.5), 1), image.width)
        top = <int64_t>(u[3] * <double>(image.height - tall + 1))
        left = <int64_t>(u[4] * <double>(image.width - wide + 1))
        for i in range(top, top + tall):
            for j in range((i * image.width + left) * image.channels,
                           (i * image.width + left + wide) * image.channels):
                y[j] = image.fill


cdef void mix(const Call* call, int thread, int threads) noexcept nogil:
    """y = s x + (1 - s) x of another row, with s from a beta distribution, the same for a batch"""
    cdef int64_t rows = call.sizes[0], n = call.sizes[1], ahead = 0, row, i
    cdef const real* x
    cdef const real* other
    cdef real* y
    cdef double a = 1, b = 0
    cdef uint32_t words[3]
    cdef uint32_t k = 0
    cdef real mine, theirs
    while k < 1000:  # Joehnk's method; more than a few are never needed
        philox_words(call.step.seed, <uint32_t>call.sizes[2], <uint32_t>call.step.step, k, 3, words)
        a = libc_exp(libc_log((<double>(words[0] >> 8) + 0.5) / 16777216.0) / call.constants[0])
        b = libc_exp(libc_log((<double>(words[1] >> 8) + 0.5) / 16777216.0) / call.constants[0])
        if 0 < a + b <= 1:
            break
        k += 1
    mine = <real>(a / (a + b))
    theirs = <real>(1 - a / (a + b))
    if rows > 1:
        ahead = 1 + <int64_t>((<double>(words[2] >> 8) + 0.5) / 16777216.0 * <double>(rows - 1))
    for row in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + row * n
        other = <const real*>call.buffers[0] + (row + ahead) % rows * n
        y = <real*>call.buffers[1] + row * n
        for i in range(n):
            y[i] = mine * x[i] + theirs * other[i]


cdef void center_rows(const Call* call, int thread, int threads) noexcept nogil:
    """y = x - mean of the row"""
    cdef int64_t n = call.sizes[1], row, i
    cdef const real* x
    cdef real* y
    cdef real mean
    for row in range(share(call.sizes[0], 1, thread, threads),
                     share(call.sizes[0], 1, thread + 1, threads)):
        x = <const real*>call.buffers[0] + row * n
        y = <real*>call.buffers[1] + row * n
        mean = row_sum(x, n) / <real>n
        for i in range(n):
            y[i] = x[i] - mean
