# The kernels for avx512, f32: see core.pxi.
include "core.pxi"
