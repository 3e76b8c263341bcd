# Products with a matrix many of whose numbers are zero: of MNIST's pixels four of five are, and of
# what leaves a layer of relu, or comes back through it, half are. Of finite numbers they give what
# tiles give, to the bit, so that each thread decides by what it has before it.

cdef enum:
    SPARSE_INPUTS = 128      # columns of a matrix from which it is worth looking
    SPARSE_MOST = 1 << 19    # and up to which there is room for the masks of a row
    SPARSE_ROWS = 128        # of sums that go through a part of the other matrix together
    SPARSE_MASKS = 1 << 14   # of those rows
    SPARSE_COPIES = 16       # of them, for which that part is copied
    SPARSE_TURNS = 32        # and turned
    SPARSE_LEAST = 16        # rows of a batch, and at most so many, for a gradient by the weights
    SPARSE_BATCH = 512
    SPARSE_WHOLE = 64        # of them, for one by what comes back, or with more numbers than these
    SPARSE_BYTES = 96        # of a row of sums that are added to while a number is found
    # Of a hundred numbers at most so many may be other than zero, with vectors of 64 bytes and with
    # shorter ones; for a gradient by the weights, of which a part that is turned serves fewer sums,
    # so many less, and in small batches at most the last.
    SPARSE_PERCENT = 70
    SPARSE_PERCENT_SHORT = 60
    SPARSE_PERCENT_LESS = 6
    SPARSE_PERCENT_LEAST = 40


cdef inline int sparse_percent(int64_t columns) noexcept nogil:
    """Of a hundred numbers at most so many may be other than zero, where each row of sums has so
    many columns: below zero for a few, to which to add is less than to find what."""
    cdef int most = SPARSE_PERCENT if VLEN * sizeof(real) == 64 else SPARSE_PERCENT_SHORT
    cdef int64_t bytes = max(columns * <int64_t>sizeof(real), <int64_t>1)
    return <int>min(<int64_t>most, 100 - 100 * SPARSE_BYTES // bytes)


cdef inline void fetch_later(SparseNext* next, const real* rows, int64_t ld, int64_t count,
                             int64_t numbers) noexcept nogil:
    next.rows = rows
    next.ld = ld
    next.count = count
    next.numbers = numbers


cdef int64_t multiply_sparse(const Product* p, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                             int64_t parts) noexcept nogil:
    """Rows i0 to i1, and of columns j0 to j1 whole vectors: returns where the rest begins.

    Of each of the `parts` of K the sum is made by itself, as tiles do; long ones aside, where rows
    of C would share too few places of the first cache.
    """
    cdef int64_t top, part, k0, k1, r, j, block, vectors = (j1 - j0) // VLEN
    cdef int64_t blocks = blocks_of(vectors, SPARSE_VECTORS), width, v
    cdef int64_t chunks = blocks_of(p.k, SPARSE_DEPTH) + parts  # at most
    cdef int64_t rows = min(SPARSE_MASKS // chunks, <int64_t>SPARSE_ROWS)
    cdef real* sums = p.scratch + SPARSE_DEPTH * SPARSE_VECTORS * VLEN
    cdef uint64_t* masks = <uint64_t*>(sums + SPARSE_ROWS * SPARSE_VECTORS * VLEN)
    cdef uint64_t* of_part
    cdef real* c
    cdef vreal made
    cdef int aside
    top = i0
    while top < i1:
        rows = min(i1 - top, rows)
        of_part = masks
        for part in range(parts):
            k0 = p.k * part // parts
            k1 = p.k * (part + 1) // parts
            row_masks(p.a + top * p.lda + k0, p.lda, k1 - k0, rows, of_part, rows)
            of_part += blocks_of(k1 - k0, SPARSE_DEPTH) * rows
        for block in range(blocks):
            j = vectors * block // blocks
            width = (vectors * (block + 1) // blocks - j) * VLEN
            j = j0 + j * VLEN
            c = p.c + top * p.ldc + j
            of_part = masks
            for part in range(parts):
                k0 = p.k * part // parts
                k1 = p.k * (part + 1) // parts
                aside = part > 0 or (
                    p.ldc * <int64_t>sizeof(real) % HALF_PAGE == 0 and k1 - k0 > 2 * SPARSE_DEPTH)
                if not aside:
                    add_sparse(p, top, rows, k0, k1, j, width, of_part, c, p.ldc, NULL, 0)
                else:
                    add_sparse(p, top, rows, k0, k1, j, width, of_part, sums, width, NULL, 0)
                    for r in range(rows):
                        v = 0
                        while v < width:
                            made = v_load(sums + r * width + v)
                            v_store(c + r * p.ldc + v,
                                    made if part == 0 else made + v_load(c + r * p.ldc + v))
                            v += VLEN
                of_part += blocks_of(k1 - k0, SPARSE_DEPTH) * rows
            finish(p, top, top + rows, j, j + width, TILE_SUMS)
        top += rows
    return j0 + vectors * VLEN


cdef inline void add_sparse(const Product* p, int64_t top, int64_t rows, int64_t k0, int64_t k1,
                            int64_t j, int64_t width, const uint64_t* masks, real* sums, int64_t ld,
                            const SparseNext* later, int laters) noexcept nogil:
    """Sums over k0 to k1 of `width` columns, which begin with the bias where k0 is zero; meanwhile
    `later` is fetched. Whole vectors are written."""
    cdef const real* start = p.bias + j if p.bias != NULL and k0 == 0 else NULL
    cdef const real* b
    cdef int64_t i, k, ldb, r, v, depth, ahead, first
    cdef int64_t chunks = blocks_of(k1 - k0, SPARSE_DEPTH)
    cdef int vectors = <int>blocks_of(width, VLEN), n, nexts
    cdef int far = p.k * p.n * <int64_t>sizeof(real) > NEAR_BYTES
    cdef int copied = width % VLEN != 0 or (
        # Rows so far apart share too few places of the first cache.
        rows >= SPARSE_COPIES and p.ldb * <int64_t>sizeof(real) % HALF_PAGE == 0)
    cdef SparseNext next[4]  # SPARSE_FETCHED of sparse.h
    for i in range(chunks):
        k = k0 + i * SPARSE_DEPTH
        depth = min(k1 - k, <int64_t>SPARSE_DEPTH)
        ahead = min(k1 - k - depth, <int64_t>SPARSE_DEPTH)
        b = p.b + (j * p.ldb + k if p.b_transposed else k * p.ldb + j)
        ldb = p.ldb
        nexts = 0
        if far and ahead > 0:
            nexts = 1
            if p.b_transposed:
                fetch_later(&next[0], b + SPARSE_DEPTH, ldb, width, ahead)
            else:
                fetch_later(&next[0], b + SPARSE_DEPTH * ldb, ldb, ahead, width)
        for n in range(laters):
            first = later[n].count * i // chunks
            fetch_later(&next[nexts], later[n].rows + first * later[n].ld, later[n].ld,
                        later[n].count * (i + 1) // chunks - first, later[n].numbers)
            nexts += 1
        if p.b_transposed or copied:
            ldb = vectors * VLEN
            if p.b_transposed:
                v = 0
                while v < width:
                    transpose_rows(b + v * p.ldb, p.ldb, <int>min(width - v, <int64_t>VLEN), depth,
                                   p.scratch + v, ldb, 0)
                    v += VLEN
            else:
                for r in range(depth):
                    v = 0
                    while v + VLEN <= width:
                        v_store(p.scratch + r * ldb + v, v_load(b + r * p.ldb + v))
                        v += VLEN
                    if v < width:
                        v_store(p.scratch + r * ldb + v,
                                v_load_n(b + r * p.ldb + v, <int>(width - v)))
            b = p.scratch
        sparse_rows(vectors, p.a + top * p.lda + k, p.lda, masks + i * rows, b, ldb, start, i > 0,
                    sums, ld, rows, next, nexts)


cdef int sparse_side(const Call* call, int64_t i0, int64_t i1, int64_t j0,
                     int64_t j1) noexcept nogil:
    """Which of a gradient's factors has the more zeros, enough to leave them out: 1 for x, 2 for
    dz, or 0."""
    cdef int64_t batch = call.sizes[0], inputs = call.sizes[1], units = call.sizes[2]
    cdef int of_x = -1, of_dz = -1, most  # by how much of a hundred there are more than it takes
    if batch < SPARSE_LEAST or batch > SPARSE_BATCH:
        return 0
    if i1 - i0 >= SPARSE_INPUTS // 2:
        most = sparse_percent(j1 - j0) - SPARSE_PERCENT_LESS
        if batch < SPARSE_WHOLE:
            most = min(most, <int>SPARSE_PERCENT_LEAST)
        of_x = most - density(<const real*>call.buffers[0] + i0, inputs, batch, i1 - i0)
    if j1 - j0 >= SPARSE_INPUTS // 2 and batch >= SPARSE_WHOLE:
        most = sparse_percent(i1 - i0) - SPARSE_PERCENT_LESS
        of_dz = most - density(<const real*>call.buffers[1] + j0, units, batch, j1 - j0)
    if max(of_x, of_dz) < 0:
        return 0
    return 1 if of_x >= of_dz else 2


cdef void apply_to_rows(const Rule* rule, const Call* call, real* gradient, int64_t ld, int64_t top,
                        int64_t rows, int64_t first, int64_t n) noexcept nogil:
    """The update rule over n columns, from `first` on, of rows of the weights from `top` on."""
    cdef int64_t i, units = call.sizes[2]
    if n == units == ld:  # whole rows of w: one contiguous run
        apply_rule(rule, top * units, gradient, rows * n, call.constants)
        return
    for i in range(rows):
        apply_rule(rule, (top + i) * units + first, gradient + i * ld, n, call.constants)


cdef void weights_sparse(const Call* call, int side, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                         Rule* rule, real* scratch) noexcept nogil:
    """Rows i0 to i1, columns j0 to j1 of x^T dz: given to the rule, or kept where that is NULL.

    The factor with zeros is turned, some of its columns at a time, so that they are rows of a
    product with the other. Where it is dz the gradient comes out as its transpose.
    """
    cdef int64_t batch = call.sizes[0], inputs = call.sizes[1], units = call.sizes[2]
    cdef const real* x = <const real*>call.buffers[0]
    cdef const real* dz = <const real*>call.buffers[1]
    cdef real* dw = <real*>call.buffers[2]
    cdef int of_x = side == 1, i, laters = 0
    cdef const real* zeros = x if of_x else dz
    cdef int64_t ld = inputs if of_x else units, low = i0 if of_x else j0
    cdef int64_t m = i1 - i0 if of_x else j1 - j0, begin = j0 if of_x else i0
    cdef int64_t vectors = blocks_of(j1 - j0 if of_x else i1 - i0, VLEN)
    cdef int64_t end = j1 if of_x else i1
    cdef int64_t blocks = blocks_of(m, SPARSE_ROWS), block, top, count, part, r
    cdef int64_t parts = blocks_of(vectors, SPARSE_VECTORS), first, columns, width, height
    cdef int64_t row, rows, column, ld_gradient
    cdef int far = inputs * units * <int64_t>sizeof(real) > NEAR_BYTES
    cdef real* sums = scratch + SPARSE_DEPTH * SPARSE_VECTORS * VLEN
    cdef real* turned = sums + SPARSE_ROWS * SPARSE_VECTORS * VLEN
    cdef real* left = turned + SPARSE_ROWS * SPARSE_VECTORS * VLEN
    cdef uint64_t* masks = <uint64_t*>(left + SPARSE_ROWS * (SPARSE_BATCH + VLEN))
    cdef real* gradient
    cdef SparseNext later[3]  # the weights and their state
    cdef Product p
    no_epilogue(&p)
    p.k = batch
    p.n = end - begin
    p.a = left
    p.lda = (blocks_of(batch, VLEN) + 1) * VLEN  # not a page
    p.b = dz if of_x else x
    p.ldb = units if of_x else inputs
    p.b_transposed = 0
    p.scratch = scratch
    for block in range(blocks):
        top = m * block // blocks
        count = m * (block + 1) // blocks - top
        top += low
        r = 0
        while r < batch:
            transpose_rows(zeros + r * ld + top, ld, <int>min(batch - r, <int64_t>VLEN), count,
                           left + r, p.lda, 0)
            r += VLEN
        row_masks(left, p.lda, batch, count, masks, count)
        height = blocks_of(count, VLEN) * VLEN
        for part in range(parts):
            first = begin + vectors * part // parts * VLEN
            columns = min(begin + vectors * (part + 1) // parts * VLEN, end) - first
            width = blocks_of(columns, VLEN) * VLEN
            row = top if of_x else first
            rows = count if of_x else columns
            column = first if of_x else top
            if far and rule != NULL:
                laters = 0
                for i in range(3):
                    if i == 0 or rule.state[i - 1] != NULL:
                        fetch_later(&later[laters], (rule.w if i == 0 else rule.state[i - 1])
                                    + row * units + column, units, rows,
                                    columns if of_x else count)
                        laters += 1
            add_sparse(&p, 0, count, 0, batch, first, columns, masks, sums, width, later, laters)
            gradient = sums
            ld_gradient = width
            if not of_x:
                gradient = turned
                ld_gradient = height
                r = 0
                while r < count:
                    transpose_rows(sums + r * width, width, <int>min(count - r, <int64_t>VLEN),
                                   columns, turned + r, height, 0)
                    r += VLEN
            if rule != NULL:
                apply_to_rows(rule, call, gradient, ld_gradient, row, rows, column,
                              columns if of_x else count)
            else:
                for r in range(rows):
                    memcpy(dw + (row + r) * units + column, gradient + r * ld_gradient,
                           (columns if of_x else count) * sizeof(real))
