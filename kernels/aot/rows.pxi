# Between the user's arrays and the batch: rows are picked, converted and scaled on the way in, and
# predictions are put in their place on the way out. Strides are in bytes: any layout is read as is.

cdef extern from "rows.h" nogil:
    void convert_row(int code, const char* source, int64_t stride, real* to, int64_t n, real scale,
                     real offset)
    void prefetch_row(const char* row, int64_t octets)

cdef enum:
    ROWS_AHEAD = 16  # how many rows before it is read a row is asked for


cdef inline int64_t row_at(const Call* call, int64_t r) noexcept nogil:
    """Number in the user's array of row r of the batch."""
    cdef int64_t position = call.step.first + r
    return position if call.step.order == NULL else call.step.order[position]


cdef inline const char* later_row(const Call* call, int64_t r, int64_t end) noexcept nogil:
    """A row to ask for while row r is read, in a loop up to `end`: shuffled rows lie anywhere, and
    the processor by itself looks only a few of them ahead."""
    return <const char*>call.buffers[0] + (
        row_at(call, min(r + ROWS_AHEAD, end - 1)) * call.sizes[4])


cdef void gather(const Call* call, int thread, int threads) noexcept nogil:
    """x[r] = scale source[order[r]] + offset, from uint8, float32 or float64"""
    cdef int64_t columns = call.sizes[1], first = call.sizes[2], r
    cdef int64_t end = share(call.sizes[0], 1, thread + 1, threads)
    cdef const char* source = <const char*>call.buffers[0]
    cdef real* x = <real*>call.buffers[1]
    for r in range(share(call.sizes[0], 1, thread, threads), end):
        prefetch_row(later_row(call, first + r, first + end), columns * call.sizes[5])
        convert_row(<int>call.sizes[3], source + row_at(call, first + r) * call.sizes[4],
                    call.sizes[5], x + r * columns, columns,
                    <real>call.constants[0], <real>call.constants[1])


cdef void gather_labels(const Call* call, int thread, int threads) noexcept nogil:
    """labels[r] = source[order[r]], both int32"""
    cdef int64_t first = call.sizes[2], r
    cdef int64_t end = share(call.sizes[0], 1, thread + 1, threads)
    cdef const char* source = <const char*>call.buffers[0]
    cdef int32_t* labels = <int32_t*>call.buffers[1]
    for r in range(share(call.sizes[0], 1, thread, threads), end):
        prefetch_row(later_row(call, first + r, first + end), sizeof(int32_t))
        labels[r] = (<const int32_t*>(source + row_at(call, first + r) * call.sizes[4]))[0]


cdef void store(const Call* call, int thread, int threads) noexcept nogil:
    """out[first + r] = y[r], in the order of the batches"""
    cdef int64_t columns = call.sizes[1], r
    cdef const real* y = <const real*>call.buffers[0]
    cdef char* out = <char*>call.buffers[1] + (call.step.first + call.sizes[2]) * call.sizes[4]
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        memcpy(out + r * call.sizes[4], y + r * columns, columns * sizeof(real))
