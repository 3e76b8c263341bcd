/* What the arithmetic units reach when nothing else is in the way. */
#ifndef FASTNN_PEAK_H
#define FASTNN_PEAK_H

#include <time.h>

#include "simd.h"

/* Twelve independent chains cover the latency of any current FMA unit. The compiler must not know
 * their numbers: a chain that begins with 1 would stay at 0.999 * 1 + 0.001 = 1, and GCC leave it out. */
static double peak_fma(int64_t iterations) {
    vreal chain[12];
    volatile const real numbers[] = {(real)0.999, (real)1e-3, 2};
    const vreal factor = v_all(numbers[0]), addend = v_all(numbers[1]);
    struct timespec from, to;
#pragma GCC unroll 12
    for (int j = 0; j < 12; j++) chain[j] = v_all(numbers[2]);
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int64_t i = 0; i < iterations; i++) {
#pragma GCC unroll 12
        for (int j = 0; j < 12; j++) chain[j] = chain[j] * factor + addend;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    volatile real keep = 0;
#pragma GCC unroll 12
    for (int j = 0; j < 12; j++) keep += v_sum_lanes(chain[j]);
    const double seconds = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    return 2.0 * 12 * VLEN * (double)iterations / seconds;
}

#endif
