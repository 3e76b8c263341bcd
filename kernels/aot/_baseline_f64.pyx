# The kernels for baseline, f64: see core.pxi.
include "core.pxi"
