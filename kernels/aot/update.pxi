# The end of a step: learning rate, penalties, and one pass over the flat parameters.

cdef void schedule(const Call* call, int thread, int threads) noexcept nogil:
    """rate = f(step - warm_up), or before a share of f(0) that rises in equal steps"""
    cdef int64_t step = call.step.step, warm_up = call.sizes[0]
    cdef schedule_function formula = <schedule_function>call.formulas[0]
    if step >= warm_up:
        call.step.rate = formula(step - warm_up, call.constants)
    else:
        call.step.rate = (formula(0, call.constants) * <double>(step + 1)
                          / <double>(warm_up + 1))


cdef void penalty(const Call* call, int thread, int threads) noexcept nogil:
    """parts[i] = factor times the sum of f(w) over block i"""
    cdef int64_t n = call.sizes[0], i, start, stop, at, length
    cdef const real* w = <const real*>call.buffers[0]
    cdef double* parts = <double*>call.buffers[1]
    cdef penalty_loop value = <penalty_loop>call.formulas[0]
    cdef real local[UPDATE_BLOCK]
    for i in range(share(blocks_of(n, PENALTY_BLOCK), 1, thread, threads),
                   share(blocks_of(n, PENALTY_BLOCK), 1, thread + 1, threads)):
        parts[i] = 0
        start = i * PENALTY_BLOCK
        stop = min(start + PENALTY_BLOCK, n)
        for at in range(blocks_of(stop - start, UPDATE_BLOCK)):
            length = min(stop - start, <int64_t>UPDATE_BLOCK)
            value(w + start, local, length, call.constants + 1)
            parts[i] += <double>row_sum(local, length)
            start += length
        parts[i] *= call.constants[0]


cdef void penalty_gradient(const Call* call, int thread, int threads) noexcept nogil:
    """out = dw + factor f'(w)"""
    cdef int64_t start = share(call.sizes[0], VLEN, thread, threads)
    cdef int64_t stop = share(call.sizes[0], VLEN, thread + 1, threads), length, i
    cdef const real* dw = <const real*>call.buffers[0]
    cdef const real* w = <const real*>call.buffers[1]
    cdef real* out = <real*>call.buffers[2]
    cdef real factor = <real>call.constants[0]
    cdef penalty_loop slope = <penalty_loop>call.formulas[1]
    cdef real local[UPDATE_BLOCK]
    while start < stop:
        length = min(stop - start, <int64_t>UPDATE_BLOCK)
        slope(w + start, local, length, call.constants + 1)
        for i in range(length):
            out[start + i] = dw[start + i] + factor * local[i]
        start += length


cdef void prepare_update(const Call* call, int thread, int threads) noexcept nogil:
    """What the update rule needs at this step beside its arrays, computed once"""
    cdef int i
    call.step.rule[0] = call.step.rate
    for i in range(7):
        call.step.rule[1 + i] = call.constants[i]
    call.step.rule[DECAY] = call.constants[7]
    (<per_step_function>call.formulas[1])(call.step.step + 1, call.step.rule)


cdef struct Rule:
    optimizer_loop loop
    const double* numbers
    real* w
    real* state[MOST_STATES]


cdef inline void make_rule(Rule* rule, const Call* call, real* w, void** state) noexcept nogil:
    """The update rule of a call, for parameters from w on."""
    cdef int i
    rule.loop = <optimizer_loop>call.formulas[0]
    rule.numbers = call.step.rule
    rule.w = w
    for i in range(MOST_STATES):
        rule.state[i] = <real*>state[i]


cdef inline void apply_rule(const Rule* rule, int64_t at, real* g, int64_t n,
                            const double* decay) noexcept nogil:
    """Run the rule over n parameters from position `at` on, with gradients g + l2 w + l1 sign(w)
    for decay = (l2, l1), once the weights have decayed by the rate times their weight decay."""
    cdef real* state[MOST_STATES]
    cdef real* w = rule.w + at
    cdef real l2 = <real>decay[0], l1 = <real>decay[1], kept
    cdef int64_t i
    for i in range(MOST_STATES):
        state[i] = rule.state[i] + at
    if l2 != 0:
        for i in range(n):
            g[i] += l2 * w[i]
    if l1 != 0:
        for i in range(n):
            g[i] += l1 if w[i] > 0 else (-l1 if w[i] < 0 else w[i])
    if rule.numbers[DECAY] != 0:
        kept = <real>(1.0 - rule.numbers[0] * rule.numbers[DECAY])
        for i in range(n):
            w[i] *= kept
    rule.loop(w, g, state, n, rule.numbers)


cdef void update(const Call* call, int thread, int threads) noexcept nogil:
    """w, state = rule(w, sum of the threads' gradients + decay, state) for this thread's range"""
    cdef int64_t low = share(call.sizes[0], UPDATE_BLOCK, thread, threads)
    cdef int64_t high = share(call.sizes[0], UPDATE_BLOCK, thread + 1, threads)
    cdef int64_t copies = call.sizes[1], stride = call.sizes[2], segments = call.sizes[3]
    cdef int64_t copy, segment, start, stop, n, i
    cdef const real* g = <const real*>call.buffers[1]
    cdef const double* table = <const double*>call.buffers[2]
    cdef real local[UPDATE_BLOCK]
    cdef Rule rule
    make_rule(&rule, call, <real*>call.buffers[0], call.buffers + 3)
    # Segments are runs of parameters with the same decay: start, stop, l2, l1.
    for segment in range(segments):
        start = max(low, <int64_t>table[4 * segment])
        stop = min(high, <int64_t>table[4 * segment + 1])
        while start < stop:
            n = min(<int64_t>UPDATE_BLOCK, stop - start)
            memcpy(local, g + start, n * sizeof(real))
            for copy in range(1, copies):
                for i in range(n):
                    local[i] += g[copy * stride + start + i]
            apply_rule(&rule, start, local, n, table + 4 * segment + 2)
            start += n
