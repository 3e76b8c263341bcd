# The kernels for avx2, f64: see core.pxi.
include "core.pxi"
