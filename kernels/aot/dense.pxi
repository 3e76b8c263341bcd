# The dense layer: forward, gradient by its input, gradient by its parameters.

cdef inline void no_epilogue(Product* p) noexcept nogil:
    p.bias = NULL
    p.forward = NULL
    p.gradient = NULL
    p.y = NULL


cdef void dense(const Call* call, int thread, int threads) noexcept nogil:
    """y[B, O] = f(x[B, I] w[I, O] + b[O])"""
    cdef Product p
    p.m = call.sizes[0]
    p.k = call.sizes[1]
    p.n = call.sizes[2]
    no_epilogue(&p)
    p.a = <const real*>call.buffers[0]
    p.lda = p.k
    p.a_by_columns = 0
    p.b = <const real*>call.buffers[1]
    p.ldb = p.n
    p.b_transposed = 0
    p.bias = <const real*>call.buffers[2]
    p.c = <real*>call.buffers[3]
    p.ldc = p.n
    p.forward = <activation_loop>call.formulas[0]
    p.constants = call.constants
    p.scratch = <real*>call.step.scratch
    multiply(&p, thread, threads)


cdef void dense_dx(const Call* call, int thread, int threads) noexcept nogil:
    """dx[B, I] = (dz[B, O] w[I, O]^T) f'(y[B, I])"""
    cdef Product p
    p.m = call.sizes[0]
    p.n = call.sizes[1]
    p.k = call.sizes[2]
    no_epilogue(&p)
    p.a = <const real*>call.buffers[0]
    p.lda = p.k
    p.a_by_columns = 0
    p.b = <const real*>call.buffers[1]
    p.ldb = p.k
    p.b_transposed = 1
    p.y = <const real*>call.buffers[2]
    p.c = <real*>call.buffers[3]
    p.ldc = p.n
    p.gradient = <activation_grad_loop>call.formulas[1] if p.y != NULL else NULL
    p.constants = call.constants
    p.scratch = <real*>call.step.scratch
    multiply(&p, thread, threads)


cdef void dense_dw(const Call* call, int thread, int threads) noexcept nogil:
    """dw[I, O] = x[B, I]^T dz[B, O]; db[O] = sum of dz over the batch"""
    cdef Product p
    cdef int64_t units = call.sizes[2], j0, j1
    cdef const real* x = <const real*>call.buffers[0]
    cdef const real* dz = <const real*>call.buffers[1]
    cdef real* db = <real*>call.buffers[3]
    p.k = call.sizes[0]
    p.m = call.sizes[1]
    p.n = units
    no_epilogue(&p)
    p.a = x
    p.b = dz
    if units == 1:  # a vector: as a row of C it fills whole registers
        p.m, p.n = p.n, p.m
        p.a, p.b = p.b, p.a
    p.lda = p.m
    p.a_by_columns = 1
    p.ldb = p.n
    p.b_transposed = 0
    p.c = <real*>call.buffers[2]
    p.ldc = p.n
    p.constants = call.constants
    p.scratch = <real*>call.step.scratch
    multiply(&p, thread, threads)
    if db != NULL:
        j0 = share(units, VLEN, thread, threads)
        j1 = share(units, VLEN, thread + 1, threads)
        column_sums(dz + j0, p.k, j1 - j0, units, db + j0)


cdef void dense_update(const Call* call, int thread, int threads) noexcept nogil:
    """w, b and their state, updated by their gradients x^T dz and sum dz, which are never stored.

    A few rows of the gradient at a time stay in the cache until the rule has run over them.
    """
    cdef int64_t batch = call.sizes[0], inputs = call.sizes[1], units = call.sizes[2]
    cdef const real* x = <const real*>call.buffers[0]
    cdef const real* dz = <const real*>call.buffers[1]
    cdef real* b = <real*>call.buffers[3]
    cdef real* packed = <real*>call.step.scratch
    cdef real* left = packed + N_BLOCK * K_BLOCK
    cdef real* gradient = left + TILE_ROWS * K_BLOCK
    cdef int64_t i0 = 0, i1 = inputs, j0 = 0, j1 = units
    cdef int64_t blocks, block, top, bottom, chunk, first, n, panel, i, j
    cdef int width, pack
    cdef TileShape shape
    cdef Rule rule
    cdef Product p
    make_rule(&rule, call, <real*>call.buffers[2], call.buffers + 4)
    # Rows, where there are enough: columns of two threads would lie side by side in every page, and
    # each core's prefetcher take away lines that the other is about to write (784-128-10 on two
    # threads took 1.4 times as long).
    divide(inputs, units, inputs < threads * TILE_ROWS, thread, threads, &i0, &i1, &j0, &j1)
    no_epilogue(&p)
    p.a = x
    p.lda = inputs
    p.a_by_columns = 1
    p.b = dz
    p.ldb = units
    p.b_transposed = 0
    shape.k = batch
    shape.ldb = units
    shape.accumulate = 0
    shape.bias = NULL
    for chunk in range(blocks_of(j1 - j0, N_BLOCK)):
        first = j0 + chunk * N_BLOCK
        n = min(j1 - first, <int64_t>N_BLOCK)
        shape.ldb = units
        # Rows of dz far apart fall into few cache sets: then the chunk is copied to panels.
        pack = n > PACK_COLUMNS and batch <= K_BLOCK
        if pack:
            shape.ldb = TILE_COLUMNS
            pack_b(&p, first, n, 0, batch, packed)
        shape.ldc = n
        blocks = blocks_of(i1 - i0, TILE_ROWS)
        for block in range(blocks):
            top = i0 + (i1 - i0) * block // blocks
            bottom = i0 + (i1 - i0) * (block + 1) // blocks
            shape.lda = inputs
            if pack:
                shape.lda = bottom - top
                pack_a(&p, top, bottom, 0, batch, left, 0)
            for panel in range(blocks_of(n, TILE_COLUMNS)):
                j = panel * TILE_COLUMNS
                width = <int>min(n - j, <int64_t>TILE_COLUMNS)
                tile_for(<int>(bottom - top), width, 1)(
                    &shape, left if pack else x + top,
                    packed + j * batch if pack else dz + first + j,
                    gradient + j, width)
            if n == units:  # whole rows of w: one contiguous run
                apply_rule(&rule, top * units, gradient, (bottom - top) * n, call.constants[6])
            else:
                for i in range(top, bottom):
                    apply_rule(&rule, i * units + first, gradient + (i - top) * n, n,
                               call.constants[6])
    if b == NULL or (i0 > 0 and j1 == units and j0 == 0):
        return  # threads that share columns leave the bias to the first of them
    rule.w = b
    for i in range(MAX_STATE):  # the state of b follows that of w
        rule.state[i] += inputs * units
    for chunk in range(blocks_of(j1 - j0, N_BLOCK)):
        first = j0 + chunk * N_BLOCK
        n = min(j1 - first, <int64_t>N_BLOCK)
        column_sums(dz + first, batch, n, units, gradient)
        apply_rule(&rule, first, gradient, n, call.constants[7])
