# The kernels for baseline, f32: see core.pxi.
include "core.pxi"
