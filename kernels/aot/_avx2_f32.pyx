# The kernels for avx2, f32: see core.pxi.
include "core.pxi"
