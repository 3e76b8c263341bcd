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
