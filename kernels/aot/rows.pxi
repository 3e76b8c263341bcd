# Between the user's arrays and the batch: rows are picked, converted and scaled on the way in, and
# predictions are put in their place on the way out. Strides are in bytes: any layout is read as is.

cdef extern from "rows.h" nogil:
    void convert_row(int code, const char* source, int64_t stride, real* to, int64_t n, real scale,
                     real offset)
    void prefetch_row(const char* row, int64_t octets)
    void gather_rows(const char* rows, const int64_t* order, int64_t stride, int64_t first,
                     int64_t end, int64_t n, real scale, real offset, real* to)
    int OWN_CODE, ROWS_AHEAD

cdef struct Source:
    const char* rows
    const int64_t* order  # NULL: as they are
    int64_t stride
    int64_t row           # this thread's first of the batch
    int64_t first         # the same in the order, and the one after its last
    int64_t end


cdef inline Source source_of(const Call* call, int thread, int threads) noexcept nogil:
    """Where this thread's rows of the batch lie in the user's array."""
    cdef int64_t position = call.step.first + call.sizes[2]
    cdef Source source
    source.rows = <const char*>call.buffers[0]
    source.order = call.step.order
    source.stride = call.sizes[4]
    source.row = share(call.sizes[0], 1, thread, threads)
    source.first = position + source.row
    source.end = position + share(call.sizes[0], 1, thread + 1, threads)
    return source


cdef inline const char* row_of(Source* source, int64_t r) noexcept nogil:
    return source.rows + (r if source.order == NULL else source.order[r]) * source.stride


cdef inline const char* later_row(Source* source, int64_t r) noexcept nogil:
    """A row to ask for while row r is read: shuffled rows lie anywhere, and the processor by itself
    looks only a few of them ahead."""
    return row_of(source, min(r + ROWS_AHEAD, source.end - 1))


cdef void gather(const Call* call, int thread, int threads) noexcept nogil:
    """x[r] = scale source[order[r]] + offset, from uint8, float32 or float64"""
    cdef Source source = source_of(call, thread, threads)
    cdef int64_t columns = call.sizes[1], stride = call.sizes[5], r
    cdef int code = <int>call.sizes[3]
    cdef real scale = <real>call.constants[0], offset = <real>call.constants[1]
    cdef real* x = <real*>call.buffers[1] + source.row * columns
    if code == OWN_CODE and stride == sizeof(real):
        gather_rows(source.rows, source.order, source.stride, source.first, source.end, columns,
                    scale, offset, x)
        return
    for r in range(source.first, source.end):
        prefetch_row(later_row(&source, r), columns * stride)
        convert_row(code, row_of(&source, r), stride, x, columns, scale, offset)
        x += columns


cdef void gather_labels(const Call* call, int thread, int threads) noexcept nogil:
    """labels[r] = source[order[r]], both int32"""
    cdef Source source = source_of(call, thread, threads)
    cdef int64_t r
    cdef int32_t* labels = <int32_t*>call.buffers[1] + source.row
    for r in range(source.first, source.end):
        prefetch_row(later_row(&source, r), sizeof(int32_t))
        labels[0] = (<const int32_t*>row_of(&source, r))[0]
        labels += 1


cdef void store(const Call* call, int thread, int threads) noexcept nogil:
    """out[first + r] = y[r], in the order of the batches"""
    cdef int64_t columns = call.sizes[1], r
    cdef const real* y = <const real*>call.buffers[0]
    cdef char* out = <char*>call.buffers[1] + (call.step.first + call.sizes[2]) * call.sizes[4]
    for r in range(share(call.sizes[0], 1, thread, threads),
                   share(call.sizes[0], 1, thread + 1, threads)):
        memcpy(out + r * call.sizes[4], y + r * columns, columns * sizeof(real))
