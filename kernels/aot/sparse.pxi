# Products with an input that is mostly zeros: of MNIST's pixels four of five are. Of finite numbers
# they give what tiles give, to the bit, so that each thread decides by what it has before it.

cdef enum:
    SPARSE_INPUTS = 128      # columns of an input from which it is worth looking
    SPARSE_MOST = 1 << 19    # and up to which there is room for the masks of a row
    SPARSE_ROWS = 128        # of sums that go through a part of the weights together
    SPARSE_MASKS = 1 << 14   # of those rows
    SPARSE_COPIES = 16       # of them, for which weights are copied
    SPARSE_LEAST = 16        # rows of a batch, and at most so many, for a gradient by the weights
    SPARSE_BATCH = 512
    SPARSE_BLOCK = 2048      # numbers of a gradient that are made before the rule runs over them


cdef inline int vectors_of(int64_t columns, int most) noexcept nogil:
    """Vectors of sums that are made together next, of so many columns: a power of two."""
    while most * VLEN > columns:
        most //= 2
    return most


cdef int64_t multiply_sparse(const Product* p, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                             int64_t parts) noexcept nogil:
    """Rows i0 to i1, and of columns j0 to j1 whole vectors: returns where the rest begins.

    Of each of the `parts` of K the sum is made by itself, as tiles do.
    """
    cdef int64_t top, part, k0, k1, r, j, stop = j0 + (j1 - j0) // VLEN * VLEN
    cdef int64_t chunks = blocks_of(p.k, SPARSE_DEPTH) + parts  # at most
    cdef int64_t rows = min(SPARSE_MASKS // chunks, <int64_t>SPARSE_ROWS)
    cdef int vectors, v
    cdef real* later = p.scratch + SPARSE_DEPTH * SPARSE_VECTORS * VLEN
    cdef uint64_t* masks = <uint64_t*>(later + SPARSE_ROWS * SPARSE_VECTORS * VLEN)
    cdef uint64_t* of_part
    cdef real* c
    top = i0
    while top < i1:
        rows = min(i1 - top, rows)
        of_part = masks
        for part in range(parts):
            k0 = p.k * part // parts
            k1 = p.k * (part + 1) // parts
            row_masks(p.a + top * p.lda + k0, p.lda, k1 - k0, rows, of_part, rows)
            of_part += blocks_of(k1 - k0, SPARSE_DEPTH) * rows
        j = j0
        while j < stop:
            vectors = vectors_of(stop - j, SPARSE_VECTORS)
            c = p.c + top * p.ldc + j
            of_part = masks
            for part in range(parts):
                k0 = p.k * part // parts
                k1 = p.k * (part + 1) // parts
                if part == 0:
                    add_sparse(p, top, rows, k0, k1, j, vectors, of_part, c, p.ldc)
                else:
                    add_sparse(p, top, rows, k0, k1, j, vectors, of_part, later, vectors * VLEN)
                    for r in range(rows):
                        for v in range(vectors):
                            v_store(c + r * p.ldc + v * VLEN,
                                    v_load(later + (r * vectors + v) * VLEN)
                                    + v_load(c + r * p.ldc + v * VLEN))
                of_part += blocks_of(k1 - k0, SPARSE_DEPTH) * rows
            finish(p, top, top + rows, j, j + vectors * VLEN, TILE_SUMS)
            j += vectors * VLEN
        top += rows
    return stop


cdef inline void add_sparse(const Product* p, int64_t top, int64_t rows, int64_t k0, int64_t k1,
                            int64_t j, int vectors, const uint64_t* masks, real* sums,
                            int64_t ld) noexcept nogil:
    """Sums of so many vectors over k0 to k1, which begin with the bias where k0 is zero."""
    cdef const real* start = p.bias + j if p.bias != NULL and k0 == 0 else NULL
    cdef const real* b
    cdef int64_t i, k, ldb, r
    cdef int v
    for i in range(blocks_of(k1 - k0, SPARSE_DEPTH)):
        k = k0 + i * SPARSE_DEPTH
        b = p.b + k * p.ldb + j
        ldb = p.ldb
        # Rows so far apart share too few places of the first cache.
        if rows >= SPARSE_COPIES and p.ldb * <int64_t>sizeof(real) % HALF_PAGE == 0:
            ldb = vectors * VLEN
            for r in range(min(k1 - k, <int64_t>SPARSE_DEPTH)):
                for v in range(vectors):
                    v_store(p.scratch + r * ldb + v * VLEN, v_load(b + r * p.ldb + v * VLEN))
            b = p.scratch
        sparse_rows(vectors, p.a + top * p.lda + k, p.lda, masks + i * rows, b, ldb, start, i > 0,
                    sums, ld, rows)


cdef void sparse_gradient(const real* x, int64_t inputs, int64_t batch, int64_t columns,
                          const uint64_t* masks, const real* dz, int64_t ldz, int64_t gap,
                          int64_t units, real* gradient, int64_t ld) noexcept nogil:
    """Rows of x^T dz for a few columns of x, whose masks are given, and so many columns of dz."""
    cdef int64_t j = 0, whole = units // VLEN * VLEN, panel
    cdef TileShape shape
    cdef int vectors
    while j < whole:
        vectors = vectors_of(whole - j, 4)
        panel = j // TILE_COLUMNS * gap + j % TILE_COLUMNS
        sparse_columns(vectors, x, inputs, batch, columns, masks, dz + panel, ldz, gap,
                       gradient + j, ld)
        j += vectors * VLEN
    if whole == units:
        return
    shape.k = batch
    shape.lda = inputs
    shape.ldb = ldz
    shape.ldc = ld
    shape.bias = NULL
    shape.accumulate = 0
    shape.epilogue = TILE_SUMS
    strip(&shape, x, dz + whole // TILE_COLUMNS * gap + whole % TILE_COLUMNS, gradient + whole,
          columns, <int>(units - whole), 1)


cdef inline int sparse(const real* x, int64_t inputs, int64_t batch,
                       int64_t columns) noexcept nogil:
    """Whether the gradient by some rows of the weights is best made by the ones of masks."""
    return columns >= SPARSE_INPUTS // 2 and SPARSE_LEAST <= batch <= SPARSE_BATCH and (
        mostly_zero(x, inputs, batch, columns))


cdef void apply_to_rows(const Rule* rule, const Call* call, real* gradient, int64_t top,
                        int64_t rows, int64_t first, int64_t n) noexcept nogil:
    """The update rule over n columns, from `first` on, of rows of the weights from `top` on."""
    cdef int64_t i, units = call.sizes[2]
    if n == units:  # whole rows of w: one contiguous run
        apply_rule(rule, top * units, gradient, rows * n, call.constants)
        return
    for i in range(rows):
        apply_rule(rule, (top + i) * units + first, gradient + i * n, n, call.constants)


cdef void weights_sparse(const Call* call, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                         Rule* rule, real* scratch) noexcept nogil:
    """Rows i0 to i1, columns j0 to j1 of x^T dz: given to the rule, or kept where that is NULL."""
    cdef int64_t batch = call.sizes[0], inputs = call.sizes[1], units = call.sizes[2]
    cdef const real* x = <const real*>call.buffers[0]
    cdef const real* dz = <const real*>call.buffers[1]
    cdef real* dw = <real*>call.buffers[2]
    cdef real* packed = scratch + SPARSE_BLOCK
    cdef int64_t chunk, first, n, top, columns, height, block, start, count, ldz
    cdef int64_t gap
    cdef const real* b
    cdef uint64_t masks[SPARSE_BATCH]
    cdef Product p
    p.b = dz
    p.ldb = units
    p.b_transposed = 0
    for chunk in range(blocks_of(j1 - j0, N_BLOCK)):
        first = j0 + chunk * N_BLOCK
        n = min(j1 - first, <int64_t>N_BLOCK)
        b = dz + first
        ldz = units
        gap = TILE_COLUMNS
        if n >= PACK_COLUMNS:
            pack_b(&p, first, n, 0, batch, packed)
            b = packed
            ldz = TILE_COLUMNS
            gap = TILE_COLUMNS * batch
        top = i0
        while top < i1:
            columns = min(i1 - top, <int64_t>SPARSE_DEPTH)
            column_masks(x + top, inputs, batch, <int>columns, masks)
            height = columns if rule == NULL else max(SPARSE_BLOCK // n // 2 * 2, <int64_t>2)
            for block in range(blocks_of(columns, height)):
                start = block * height
                count = min(height, columns - start)
                sparse_gradient(x + top + start, inputs, batch, count, masks + start, b, ldz, gap,
                                n, dw + (top + start) * units + first if rule == NULL else scratch,
                                units if rule == NULL else n)
                if rule != NULL:
                    apply_to_rows(rule, call, scratch, top + start, count, first, n)
            top += columns
