# The end of a step: learning rate, penalties, and one pass over the flat parameters.

cdef enum:
    UPDATE_BLOCK = 1024     # numbers whose gradient is summed before the rule runs over them
    PENALTY_BLOCK = 4096    # numbers of one partial sum
    MAX_STATE = 4


cdef void schedule(const Call* call, int thread, int threads) noexcept nogil:
    """The learning rate of this step, for the update that follows"""
    call.step.rate = (<schedule_function>call.formulas[0])(call.step.step, call.constants)


cdef void l2_penalty(const Call* call, int thread, int threads) noexcept nogil:
    """parts[i] = factor / 2 times the sum of the squares of block i of w"""
    cdef int64_t n = call.sizes[0], i, start
    cdef const real* w = <const real*>call.buffers[0]
    cdef double* parts = <double*>call.buffers[1]
    for i in range(share(blocks_of(n, PENALTY_BLOCK), 1, thread, threads),
                   share(blocks_of(n, PENALTY_BLOCK), 1, thread + 1, threads)):
        start = i * PENALTY_BLOCK
        parts[i] = 0.5 * call.constants[0] * <double>row_dot(
            w + start, w + start, min(n - start, <int64_t>PENALTY_BLOCK))


cdef void l2_gradient(const Call* call, int thread, int threads) noexcept nogil:
    """out = dw + factor w"""
    cdef int64_t i
    cdef const real* dw = <const real*>call.buffers[0]
    cdef const real* w = <const real*>call.buffers[1]
    cdef real* out = <real*>call.buffers[2]
    cdef real factor = <real>call.constants[0]
    for i in range(share(call.sizes[0], VLEN, thread, threads),
                   share(call.sizes[0], VLEN, thread + 1, threads)):
        out[i] = dw[i] + factor * w[i]


cdef void update(const Call* call, int thread, int threads) noexcept nogil:
    """w, state = rule(w, sum of the threads' gradients + l2 w, state) for this thread's range"""
    cdef int64_t start = share(call.sizes[0], UPDATE_BLOCK, thread, threads)
    cdef int64_t stop = share(call.sizes[0], UPDATE_BLOCK, thread + 1, threads)
    cdef int64_t copies = call.sizes[1], stride = call.sizes[2], segments = call.sizes[3]
    cdef int64_t copy, segment, block, n, i, s
    cdef real* w = <real*>call.buffers[0]
    cdef const real* g = <const real*>call.buffers[1]
    cdef const double* table = <const double*>call.buffers[2]
    cdef const real* gradient
    cdef real local[UPDATE_BLOCK]
    cdef real* state[MAX_STATE]
    cdef double numbers[16]
    cdef real decay
    for i in range(7):
        numbers[1 + i] = call.constants[i]
    numbers[0] = call.step.rate
    (<per_step_function>call.formulas[1])(call.step.step + 1, numbers)
    # Segments are runs of parameters with the same penalty: start, stop, factor.
    for segment in range(segments):
        decay = <real>table[3 * segment + 2]
        block = max(start, <int64_t>table[3 * segment])
        while block < min(stop, <int64_t>table[3 * segment + 1]):
            n = min(<int64_t>UPDATE_BLOCK, min(stop, <int64_t>table[3 * segment + 1]) - block)
            gradient = g + block
            if copies > 1 or decay != 0:
                for i in range(n):
                    local[i] = g[block + i] + decay * w[block + i]
                for copy in range(1, copies):
                    for i in range(n):
                        local[i] += g[copy * stride + block + i]
                gradient = local
            for s in range(MAX_STATE):
                state[s] = <real*>call.buffers[3 + s] + block
            (<optimizer_loop>call.formulas[0])(w + block, gradient, state, n, numbers)
            block += n
