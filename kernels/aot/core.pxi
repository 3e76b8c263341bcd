# The kernels of one instruction set and one number type, compiled once for each pair: the build
# sets FASTNN_REAL and the target flags. Every kernel is a function of abi.h's type.

from libc.math cimport (cos as libc_cos, exp as libc_exp, floor as libc_floor, log as libc_log,
                        pow as libc_pow, sin as libc_sin, sqrt as libc_sqrt)
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset

cdef extern from "abi.h" nogil:
    enum: UPDATE_BLOCK, PENALTY_BLOCK, MOST_STATES, DECAY
    ctypedef struct Step:
        int64_t step
        int64_t rows
        int64_t first
        const int64_t* order
        uint64_t seed
        double rate
        double* rule
        void* scratch
    ctypedef struct Call:
        Step* step
        void** buffers
        void** formulas
        int64_t* sizes
        double* constants

cdef extern from "simd.h" nogil:
    ctypedef float real
    ctypedef float vreal  # a vector of VLEN; Cython need only know that it has arithmetic
    vreal v_all(real x)
    vreal v_max(vreal a, vreal b)
    vreal v_sqrt(vreal x)
    vreal v_if_less(vreal a, vreal b, vreal x, vreal y)
    int VLEN
    vreal v_load(const real* p)
    vreal v_load_n(const real* p, int n)
    void v_store(real* p, vreal v)
    void v_store_n(real* p, vreal v, int n)
    void prefetch_l2(const real* p, int64_t n)
    real row_max(const real* p, int64_t n)
    real row_sum(const real* p, int64_t n)
    real row_dot(const real* p, const real* q, int64_t n)
    void column_sums(const real* p, int64_t rows, int64_t n, int64_t ld, real* sums)
    void transpose_rows(const real* p, int64_t ld, int n, int64_t k, real* to, int64_t ld_to,
                        int exact)

cdef extern from "columns.h" nogil:
    int SIDE_BY_SIDE
    void column_differences(const real* x, const real* first, int64_t rows, int64_t n, int64_t ld,
                            real* sums)
    void column_products(const real* a, const real* b, int64_t rows, int64_t n, int64_t ld,
                         real* sums)
    void column_sums_and_products(const real* a, const real* b, int64_t rows, int64_t n, int64_t ld,
                                  real* sums, real* products)
    void center_columns(const real* x, const real* first, const real* middle, int64_t rows,
                        int64_t n, int64_t ld, real* y, real* squares)
    void standardize_block(const real* x, const real* inverse, const real* scale,
                           const real* shift, int64_t rows, int64_t n, int64_t ld, real* y,
                           int64_t ld_y, real* standard)
    void scale_columns(const real* x, const real* scale, const real* shift, int64_t rows,
                       int64_t n, int64_t ld, real* y, int64_t ld_y)
    void put_rows(const real* block, int64_t rows, int64_t n, int64_t ld, real* to)
    void adjust_columns(const real* dy, const real* y, const real* middle, const real* slope,
                        const real* inverse, int64_t rows, int64_t n, int64_t ld, real* dx)

cdef extern from "tile.h" nogil:
    int64_t STAYING_BYTES
    int64_t NEAR_BYTES
    int64_t HALF_PAGE
    int LOW_ROWS
    int TILE_ROWS
    int TILE_VECTORS
    int TILE_COLUMNS
    ctypedef struct TileShape:
        int64_t k
        int64_t lda
        int64_t ldb
        int64_t ldc
        const real* bias
        int accumulate
        int epilogue
        int64_t to_y
        const real* next[3]
        int64_t next_stride
        int64_t gap
        real* panel
    int TILE_FETCH_TURN
    int LINE
    int TILE_NEXT
    ctypedef void (*tile_fn)(
        const TileShape*, const real*, const real*, real*, int, int64_t) noexcept nogil
    tile_fn tile_for(int rows, int columns, int by_columns)
    int64_t tile_height(int64_t lda, int by_columns)
    void strip(const TileShape* shape, const real* a, const real* b, real* c, int64_t rows,
               int columns, int by_columns)
    int FEW_ROWS
    int MOST_FEW
    int FAR_ROWS
    ctypedef struct FewRows:
        void (*run)(const TileShape*, const real*, const real*, real*) noexcept nogil
        int columns
    const FewRows* few_rows
    void rank_one(const TileShape*, const real*, const real*, real*, int64_t rows, int64_t columns)
    int TILE_READS, TILE_WRITES, TILE_PACKS
    int TILE_SUMS, TILE_RELU, TILE_RELU_GRADIENT
    tile_fn tile_with_duty(int rows, int duty)

cdef extern from "sparse.h" nogil:
    int SPARSE_DEPTH
    int SPARSE_VECTORS
    ctypedef struct SparseNext:
        const real* rows
        int64_t ld
        int64_t count
        int64_t numbers
    int density(const real* x, int64_t ld, int64_t rows, int64_t columns)
    void row_masks(const real* a, int64_t lda, int64_t k, int64_t rows, uint64_t* masks,
                   int64_t ld_masks)
    void sparse_rows(int vectors, const real* a, int64_t lda, const uint64_t* masks, const real* b,
                     int64_t ldb, const real* start, int again, real* sums, int64_t ld,
                     int64_t rows, const SparseNext* next, int nexts)

cdef extern from "elementary.h" nogil:
    real r_exp(real x)
    real r_expm1(real x)
    real r_log(real x)
    real r_log1p(real x)
    real r_tanh(real x)
    real r_erf(real x)
    real r_sqrt(real x)
    real r_cos_turns(real x)

cdef extern from "philox.h" nogil:
    ctypedef struct Philox:
        pass
    int PHILOX_BLOCK
    void philox_start(Philox* p, uint64_t seed, uint32_t stream, uint32_t step, uint32_t row,
                      int64_t counters, int64_t first)
    void philox_next(Philox* p, uint32_t* to)
    void philox_words(uint64_t seed, uint32_t stream, uint32_t step, uint32_t row, int64_t n,
                      uint32_t* to)

# The loops that scalars.pxi makes of the formulas.
ctypedef void (*activation_loop)(real*, int64_t, const double*) noexcept nogil
ctypedef void (*activation_grad_loop)(real*, const real*, const real*, int64_t,
                                      const double*) noexcept nogil
ctypedef void (*loss_loop)(const real*, const real*, real*, int64_t, const double*) noexcept nogil
ctypedef void (*optimizer_loop)(real*, const real*, real**, int64_t, const double*) noexcept nogil
ctypedef void (*per_step_function)(int64_t, double*) noexcept nogil
ctypedef void (*penalty_loop)(const real*, real*, int64_t, const double*) noexcept nogil
ctypedef void (*merge_loop)(const real*, const real*, real*, int64_t, const double*) noexcept nogil
ctypedef void (*merge_grad_loop)(const real*, const real*, real*, real*, int64_t,
                                 const double*) noexcept nogil
ctypedef double (*schedule_function)(int64_t, const double*) noexcept nogil


cdef inline int64_t blocks_of(int64_t n, int64_t size) noexcept nogil:
    """How many blocks of a size cover n."""
    return (n + size - 1) // size


cdef inline int64_t share(int64_t n, int64_t unit, int thread, int threads) noexcept nogil:
    """Where this thread's part of n begins, in whole units."""
    cdef int64_t start
    if threads == 1:  # without a division
        return n if thread else 0
    start = blocks_of(n, unit) * thread // threads * unit
    return start if start < n else n


include "scalars.pxi"
include "gemm.pxi"
include "update.pxi"
include "sparse.pxi"
include "dense.pxi"
include "softmax.pxi"
include "normalization.pxi"
include "pointwise.pxi"
include "losses.pxi"
include "merging.pxi"
include "weights.pxi"
include "images.pxi"
include "rows.pxi"

#: (kind, name) -> addresses of a formula's loop and of its companion's.
formulas = formula_table()

#: Op name -> address of its kernel.
kernels = {
    "accuracy": <uintptr_t>accuracy,
    "activation": <uintptr_t>activation,
    "activation_grad": <uintptr_t>activation_grad,
    "activity_penalty": <uintptr_t>activity_penalty,
    "add": <uintptr_t>add,
    "affine": <uintptr_t>affine,
    "affine_dw": <uintptr_t>affine_dw,
    "average_weights": <uintptr_t>average_weights,
    "center_rows": <uintptr_t>center_rows,
    "clip_norm": <uintptr_t>clip_norm,
    "clip_value": <uintptr_t>clip_value,
    "concatenate": <uintptr_t>concatenate,
    "constrain_norm": <uintptr_t>constrain_norm,
    "constrain_sign": <uintptr_t>constrain_sign,
    "cosine_proximity": <uintptr_t>cosine_proximity,
    "cross_entropy": <uintptr_t>cross_entropy,
    "dense": <uintptr_t>dense,
    "dense_dropout": <uintptr_t>dense_dropout,
    "dense_dw": <uintptr_t>dense_dw,
    "dense_dx": <uintptr_t>dense_dx,
    "dense_parts": <uintptr_t>dense_parts,
    "dense_update": <uintptr_t>dense_update,
    "dropout": <uintptr_t>dropout,
    "dropout_mask": <uintptr_t>dropout_mask,
    "elastic": <uintptr_t>elastic,
    "erase": <uintptr_t>erase,
    "gather": <uintptr_t>gather,
    "gather_labels": <uintptr_t>gather_labels,
    "gaussian_dropout": <uintptr_t>gaussian_dropout,
    "gaussian_noise": <uintptr_t>gaussian_noise,
    "gram": <uintptr_t>gram,
    "identity_distance": <uintptr_t>identity_distance,
    "log_softmax": <uintptr_t>log_softmax,
    "log_softmax_grad": <uintptr_t>log_softmax_grad,
    "merge": <uintptr_t>merge,
    "merge_grad": <uintptr_t>merge_grad,
    "mix": <uintptr_t>mix,
    "multiclass_hinge": <uintptr_t>multiclass_hinge,
    "negative_log_likelihood": <uintptr_t>negative_log_likelihood,
    "penalty": <uintptr_t>penalty,
    "penalty_gradient": <uintptr_t>penalty_gradient,
    "pointwise_loss": <uintptr_t>pointwise_loss,
    "prelu": <uintptr_t>prelu,
    "prelu_dw": <uintptr_t>prelu_dw,
    "prelu_grad": <uintptr_t>prelu_grad,
    "prepare_update": <uintptr_t>prepare_update,
    "recolor": <uintptr_t>recolor,
    "renormalization": <uintptr_t>renormalization,
    "rescale": <uintptr_t>rescale,
    "running_statistics": <uintptr_t>running_statistics,
    "schedule": <uintptr_t>schedule,
    "softmax": <uintptr_t>softmax,
    "softmax_cross_entropy": <uintptr_t>softmax_cross_entropy,
    "softmax_grad": <uintptr_t>softmax_grad,
    "sparsity_penalty": <uintptr_t>sparsity_penalty,
    "split": <uintptr_t>split,
    "spread": <uintptr_t>spread,
    "squared_norm": <uintptr_t>squared_norm,
    "standardize": <uintptr_t>standardize,
    "standardize_columns": <uintptr_t>standardize_columns,
    "standardize_columns_grad": <uintptr_t>standardize_columns_grad,
    "standardize_rows": <uintptr_t>standardize_rows,
    "standardize_rows_grad": <uintptr_t>standardize_rows_grad,
    "store": <uintptr_t>store,
    "sum_parts": <uintptr_t>sum_parts,
    "total": <uintptr_t>total,
    "unit_columns": <uintptr_t>unit_columns,
    "unit_columns_grad": <uintptr_t>unit_columns_grad,
    "unit_rows": <uintptr_t>unit_rows,
    "unit_rows_grad": <uintptr_t>unit_rows_grad,
    "update": <uintptr_t>update,
    "warp": <uintptr_t>warp,
}

#: Bytes of scratch that a thread needs for the largest kernel.
SCRATCH_BYTES = gemm_scratch() * sizeof(real)
VECTOR_BYTES = VLEN * sizeof(real)


cdef extern from "peak.h" nogil:
    double peak_fma(int64_t iterations)


def measure_fma(int64_t iterations):
    """Floating-point operations per second of independent fused multiply-adds in registers."""
    cdef double rate
    with nogil:
        rate = peak_fma(iterations)
    return rate


def elementary(str name, real[::1] x, real[::1] y):
    """Apply one of our elementary functions to an array: for tests of their accuracy."""
    cdef int64_t i, n = x.shape[0]
    cdef int width
    if name == "exp":
        for i in range(n):
            y[i] = r_exp(x[i])
    elif name == "expm1":
        for i in range(n):
            y[i] = r_expm1(x[i])
    elif name == "log":
        for i in range(n):
            y[i] = r_log(x[i])
    elif name == "log1p":
        for i in range(n):
            y[i] = r_log1p(x[i])
    elif name == "tanh":
        for i in range(n):
            y[i] = r_tanh(x[i])
    elif name == "erf":
        for i in range(n):
            y[i] = r_erf(x[i])
    elif name == "cos_turns":
        for i in range(n):
            y[i] = r_cos_turns(x[i])
    elif name == "sqrt":
        for i in range(n):
            y[i] = r_sqrt(x[i])
    elif name == "v_sqrt":
        for i in range(0, n, VLEN):
            width = <int>min(n - i, <int64_t>VLEN)
            v_store_n(&y[i], v_sqrt(v_load_n(&x[i], width)), width)
    else:
        raise ValueError(f"name: no elementary function {name!r}")
