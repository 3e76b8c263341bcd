# The dense layer: forward, gradient by its input, gradient by its parameters.

cdef inline void no_epilogue(Product* p) noexcept nogil:
    p.bias = NULL
    p.forward = NULL
    p.gradient = NULL
    p.y = NULL
    p.mask = NULL
    p.dropped = NULL


cdef inline void forward_product(Product* p, const Call* call) noexcept nogil:
    p.m = call.sizes[0]
    p.k = call.sizes[1]
    p.n = call.sizes[2]
    no_epilogue(p)
    p.a = <const real*>call.buffers[0]
    p.lda = p.k
    p.a_by_columns = 0
    p.b = <const real*>call.buffers[1]
    p.ldb = p.n
    p.b_transposed = 0
    p.bias = <const real*>call.buffers[2]
    p.ldc = p.n
    p.forward = <activation_loop>call.formulas[0]
    p.constants = call.constants
    p.scratch = <real*>call.step.scratch


cdef void dense(const Call* call, int thread, int threads) noexcept nogil:
    """y[B, O] = f(x[B, I] w[I, O] + b[O])"""
    cdef Product p
    forward_product(&p, call)
    p.c = <real*>call.buffers[3]
    multiply(&p, thread, threads)


cdef void dense_dropout(const Call* call, int thread, int threads) noexcept nogil:
    """y[B, O] = f(x[B, I] w[I, O] + b[O]), dropped[B, O] = y mask"""
    cdef Product p
    forward_product(&p, call)
    p.mask = <const real*>call.buffers[3]
    p.c = <real*>call.buffers[4]
    p.dropped = <real*>call.buffers[5]
    multiply(&p, thread, threads)


cdef void dense_parts(const Call* call, int thread, int threads) noexcept nogil:
    """parts[t, B, O] = x[B, I of t] w[I of t, O], each by one thread"""
    cdef Product p
    cdef int64_t inputs = call.sizes[1], unit = call.sizes[4], first
    cdef int t = thread, terms = <int>call.sizes[3]
    while t < terms:
        first = share(inputs, unit, t, terms)
        forward_product(&p, call)
        p.k = share(inputs, unit, t + 1, terms) - first
        p.a += first
        p.b += first * p.ldb
        p.bias = NULL
        p.forward = NULL
        p.c = <real*>call.buffers[2] + t * p.m * p.n
        multiply(&p, 0, 1)
        t += threads


cdef void sum_parts(const Call* call, int thread, int threads) noexcept nogil:
    """y[B, O] = f(sum of parts[t, B, O] + b[O])"""
    cdef int64_t rows = call.sizes[0], units = call.sizes[1], terms = call.sizes[2], r, t, j
    cdef const real* bias = <const real*>call.buffers[1]
    cdef activation_loop forward = <activation_loop>call.formulas[0]
    cdef const real* part
    cdef real* y
    for r in range(share(rows, 1, thread, threads), share(rows, 1, thread + 1, threads)):
        y = <real*>call.buffers[2] + r * units
        for t in range(terms):
            part = <const real*>call.buffers[0] + (t * rows + r) * units
            for j in range(units):
                y[j] = part[j] if t == 0 else y[j] + part[j]
        if bias != NULL:
            for j in range(units):
                y[j] += bias[j]
        if forward != NULL:
            forward(y, units, call.constants)


cdef void dense_dx(const Call* call, int thread, int threads) noexcept nogil:
    """dx[B, I] = (dz[B, O] w[I, O]^T) mask f'(y[B, I])"""
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
    p.mask = <const real*>call.buffers[3]
    p.c = <real*>call.buffers[4]
    p.ldc = p.n
    p.gradient = <activation_grad_loop>call.formulas[1] if p.y != NULL else NULL
    p.constants = call.constants
    p.scratch = <real*>call.step.scratch
    multiply(&p, thread, threads)


cdef void narrow_dw(const real* x, const real* dz, int64_t batch, int64_t inputs, int64_t units,
                    int64_t i0, int64_t i1, real* dw) noexcept nogil:
    """Rows i0 to i1 of x^T dz for at most TILE_ROWS units.

    The tile takes the units as its rows and the inputs as its columns: then its registers are full
    and x is read once, in long runs. The result is turned on its way out.
    """
    cdef real tile[16 * 32]  # TILE_ROWS x TILE_COLUMNS, with rows that GCC believes are read
    cdef TileShape shape
    cdef int64_t panel, j, u, part
    cdef int width
    shape.k = batch
    shape.lda = units
    shape.ldb = inputs
    shape.ldc = TILE_COLUMNS
    shape.bias = NULL
    shape.accumulate = 0
    shape.epilogue = TILE_SUMS
    for panel in range(panels_of(i1 - i0)):
        j = i0 + panel * TILE_COLUMNS
        width = <int>min(i1 - j, <int64_t>TILE_COLUMNS)
        if units == 1:  # a column is contiguous as it is
            tile_for(1, width, 1)(&shape, dz, x + j, dw + j - i0, width, 1)
            continue
        tile_for(<int>units, width, 1)(&shape, dz, x + j, tile, width, 1)
        for part in range(blocks_of(units, VLEN)):
            u = part * VLEN
            transpose_rows(tile + u * TILE_COLUMNS, TILE_COLUMNS,
                           <int>min(<int64_t>VLEN, units - u), width,
                           dw + (j - i0) * units + u, units, 1)


cdef void dense_dw(const Call* call, int thread, int threads) noexcept nogil:
    """dw[I, O] = x[B, I]^T dz[B, O]; db[O] = sum of dz over the batch"""
    cdef Product p
    cdef int side
    cdef int64_t batch = call.sizes[0], inputs = call.sizes[1], units = call.sizes[2]
    cdef int64_t i0 = 0, i1 = inputs, j0 = 0, j1 = units
    cdef const real* x = <const real*>call.buffers[0]
    cdef const real* dz = <const real*>call.buffers[1]
    cdef real* dw = <real*>call.buffers[2]
    cdef real* db = <real*>call.buffers[3]
    if units <= TILE_ROWS:
        j0 = share(inputs, TILE_COLUMNS, thread, threads)
        j1 = share(inputs, TILE_COLUMNS, thread + 1, threads)
        narrow_dw(x, dz, batch, inputs, units, j0, j1, dw + j0 * units)
    else:
        no_epilogue(&p)
        p.m = inputs
        p.n = units
        p.k = batch
        p.a = x
        p.lda = inputs
        p.a_by_columns = 1
        p.b = dz
        p.ldb = units
        p.b_transposed = 0
        p.c = dw
        p.ldc = units
        p.constants = call.constants
        p.scratch = <real*>call.step.scratch
        divide(inputs, units, units >= max(inputs, <int64_t>(threads * TILE_COLUMNS)), thread,
               threads, &i0, &i1, &j0, &j1)
        side = sparse_side(call, i0, i1, j0, j1) if parts_of(&p, 1) == 1 else 0
        if side:
            weights_sparse(call, side, i0, i1, j0, j1, NULL, p.scratch)
        else:
            multiply(&p, thread, threads)
    if db != NULL:
        j0 = share(units, VLEN, thread, threads)
        j1 = share(units, VLEN, thread + 1, threads)
        column_sums(dz + j0, batch, j1 - j0, units, db + j0)


cdef inline void fetch_state(TileShape* shape, const Rule* rule, int64_t at, int64_t rows,
                             int64_t units) noexcept nogil:
    """Let a tile ask for the parameters and state, from `at` on, whose gradient it makes, to write:
    a row of them at a time, though small batches leave too few steps for all."""
    cdef int i
    shape.next_stride = units
    shape.gap = max(shape.k // (rows * TILE_FETCH_TURN), <int64_t>1) * TILE_FETCH_TURN
    shape.next[0] = rule.w + at
    for i in range(1, TILE_NEXT):
        shape.next[i] = (rule.w if rule.state[i - 1] == NULL else rule.state[i - 1]) + at


cdef void dense_update(const Call* call, int thread, int threads) noexcept nogil:
    """w, b and their state, updated by their gradients x^T dz and sum dz, which are never stored.

    A few rows of the gradient at a time stay in the cache until the rule has run over them.
    """
    cdef int64_t batch = call.sizes[0], inputs = call.sizes[1], units = call.sizes[2]
    cdef const real* x = <const real*>call.buffers[0]
    cdef const real* dz = <const real*>call.buffers[1]
    cdef real* packed = <real*>call.step.scratch
    cdef real* left = packed + N_BLOCK * K_BLOCK
    cdef real* gradient = left + x_stride() * K_BLOCK
    cdef int64_t i0 = 0, i1 = inputs, j0 = 0, j1 = units
    cdef int64_t tiles, height, groups, group, start, stop, blocks, block, top, bottom
    cdef int64_t chunk, first, n, panel, i, j
    cdef int width, pack, side, far = inputs * units * <int64_t>sizeof(real) > NEAR_BYTES
    cdef const real* a
    cdef const real* b
    cdef const real* x0
    cdef TileShape shape
    cdef Rule rule
    cdef Product p
    make_rule(&rule, call, <real*>call.buffers[2], call.buffers + 4)
    # Rows, where there are enough: columns of two threads would lie side by side in every page, and
    # each core's prefetcher take away lines that the other is about to write (784-128-10 on two
    # threads takes 1.5 times as long).
    divide(inputs, units, inputs < threads * TILE_ROWS, thread, threads, &i0, &i1, &j0, &j1)
    if units <= TILE_ROWS:
        i0 = share(inputs, TILE_COLUMNS, thread, threads)
        i1 = share(inputs, TILE_COLUMNS, thread + 1, threads)
        for block in range(blocks_of(i1 - i0, N_BLOCK)):
            top = i0 + block * N_BLOCK
            bottom = min(top + N_BLOCK, i1)
            narrow_dw(x, dz, batch, inputs, units, top, bottom, gradient)
            apply_rule(&rule, top * units, gradient, (bottom - top) * units, call.constants)
        if thread == 0:
            update_bias(&rule, call, 0, units, gradient)
        return
    side = sparse_side(call, i0, i1, j0, j1)
    if side:
        weights_sparse(call, side, i0, i1, j0, j1, &rule, <real*>call.step.scratch)
        if i0 == 0:
            update_bias(&rule, call, j0, j1, gradient)
        return
    tiles = blocks_of(i1 - i0, TILE_ROWS)
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
    shape.epilogue = TILE_SUMS
    shape.bias = NULL
    for chunk in range(blocks_of(j1 - j0, N_BLOCK)):
        first = j0 + chunk * N_BLOCK
        n = min(j1 - first, <int64_t>N_BLOCK)
        shape.ldb = units
        # Copies of x and dz pay from so many columns and tiles on; sums are the same either way.
        pack = n >= PACK_COLUMNS and tiles >= X_TILES and batch <= K_BLOCK
        if pack:
            shape.ldb = TILE_COLUMNS
            pack_b(&p, first, n, 0, batch, packed)
        shape.ldc = n
        # Tiles, one below the other, whose gradient is made before the rule runs over it.
        height = 1 if far else max(N_BLOCK // n, <int64_t>1)
        groups = blocks_of(tiles, X_TILES if pack else height)
        for group in range(groups):
            start = i0 + (i1 - i0) * (tiles * group // groups) // tiles
            stop = i0 + (i1 - i0) * (tiles * (group + 1) // groups) // tiles
            x0 = x + start
            shape.lda = inputs
            if pack:
                shape.lda = x_stride()
                pack_a(&p, start, stop, 0, batch, left, shape.lda)
                x0 = left
            blocks = blocks_of(blocks_of(stop - start, TILE_ROWS), height)
            for block in range(blocks):
                top = start + (stop - start) * block // blocks
                bottom = start + (stop - start) * (block + 1) // blocks
                a = x0 + (top - start)
                for panel in range(panels_of(n)):
                    j = panel * TILE_COLUMNS
                    width = <int>min(n - j, <int64_t>TILE_COLUMNS)
                    b = packed + j * batch if pack else dz + first + j
                    if far and width == TILE_COLUMNS:
                        fetch_state(&shape, &rule, top * units + first + j, bottom - top, units)
                        tile_with_duty(<int>(bottom - top), TILE_WRITES)(
                            &shape, a, b, gradient + j, width, 1)
                    else:
                        strip(&shape, a, b, gradient + j, bottom - top, width, 1)
                apply_to_rows(&rule, call, gradient, n, top, bottom - top, first, n)
    if i0 == 0:  # threads that share columns leave the bias to the first of them
        update_bias(&rule, call, j0, j1, gradient)


cdef void update_bias(Rule* rule, const Call* call, int64_t j0, int64_t j1,
                      real* gradient) noexcept nogil:
    """Elements j0 to j1 of the bias of a dense_update; its state follows that of the weights."""
    cdef int64_t batch = call.sizes[0], inputs = call.sizes[1], units = call.sizes[2]
    cdef const real* dz = <const real*>call.buffers[1]
    cdef int64_t chunk, first, n
    cdef int i
    if call.buffers[3] == NULL:
        return
    rule.w = <real*>call.buffers[3]
    for i in range(MOST_STATES):
        rule.state[i] += inputs * units
    for chunk in range(blocks_of(j1 - j0, N_BLOCK)):
        first = j0 + chunk * N_BLOCK
        n = min(j1 - first, <int64_t>N_BLOCK)
        column_sums(dz + first, batch, n, units, gradient)
        apply_rule(rule, first, gradient, n, call.constants + 2)
