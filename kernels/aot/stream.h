/* Copies of what nobody reads soon: past the caches, so that their lines are not read before they
 * are written and what is in use stays there. */
#ifndef FASTNN_STREAM_H
#define FASTNN_STREAM_H

#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>

static void stream_copy(char *to, const char *from, int64_t n) {
    const int64_t head = (int64_t)(-(uintptr_t)to & 63) < n ? (int64_t)(-(uintptr_t)to & 63) : n;
    memcpy(to, from, head);
    int64_t i = head;
    for (; i + 64 <= n; i += 64)
        for (int64_t j = i; j < i + 64; j += 16)
            _mm_stream_si128((__m128i *)(to + j), _mm_loadu_si128((const __m128i *)(from + j)));
    _mm_sfence();
    memcpy(to + i, from + i, n - i);
}
#else
static void stream_copy(char *to, const char *from, int64_t n) { memcpy(to, from, n); }
#endif

#endif
