# The kernels for avx512, f64: see core.pxi.
include "core.pxi"
