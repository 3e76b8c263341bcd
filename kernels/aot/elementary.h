/* exp, expm1, log, log1p, tanh, erf, sqrt and cos without branches, so that loops round them vectorise.
 *
 * The C library's versions are called one number at a time and differ between systems in the last
 * bits; these give every instruction set the same speed-up. Polynomials and rational functions are
 * those of Cephes (Moshier, netlib.org/cephes), the reduction is x = n log 2 + r, |r| <= log(2) / 2.
 * Largest error over the whole range, against correctly rounded values: 2 ulp for exp and log,
 * 5 ulp for expm1, log1p, tanh and erf. Subnormal results are exact to the same bound, NaN gives NaN,
 * and infinities give their limits.
 */
#ifndef FASTNN_ELEMENTARY_H
#define FASTNN_ELEMENTARY_H

#include "simd.h"

#if FASTNN_DOUBLE
typedef int64_t bits_t;
#define R(x) x
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52: adding it rounds to an integer */
#define LN2_HIGH 6.93145751953125e-1
#define LN2_LOW 1.42860682030941723212e-6
#define EXP_LOWEST (-746.0)
#define EXP_HIGHEST 710.0
#define SMALLEST_NORMAL 2.2250738585072014e-308
#define LARGEST 1.7976931348623157e308
#define SUBNORMAL_SCALE 18014398509481984.0 /* 2^54 */
#define SUBNORMAL_SHIFT 54
#else
typedef int32_t bits_t;
#define R(x) x##f
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#define ROUNDER 12582912.0f /* 1.5 * 2^23 */
#define LN2_HIGH 0.693359375f
#define LN2_LOW (-2.12194440e-4f)
#define EXP_LOWEST (-105.0f)
#define EXP_HIGHEST 89.0f
#define SMALLEST_NORMAL 1.17549435e-38f
#define LARGEST 3.40282347e38f
#define SUBNORMAL_SCALE 33554432.0f /* 2^25 */
#define SUBNORMAL_SHIFT 25
#endif

FASTNN_INLINE bits_t bits_of(real x) {
    bits_t i;
    memcpy(&i, &x, sizeof i);
    return i;
}
FASTNN_INLINE real real_of(bits_t i) {
    real x;
    memcpy(&x, &i, sizeof x);
    return x;
}
FASTNN_INLINE real power_of_two(bits_t n) {
    return real_of((n + EXPONENT_BIAS) << MANTISSA_BITS);
}

/* exp(r) - 1 for |r| <= log(2) / 2. */
FASTNN_INLINE real expm1_reduced(real r) {
#if FASTNN_DOUBLE
    const double rr = r * r;
    const double p = r * ((1.26177193074810590878e-4 * rr + 3.02994407707441961300e-2) * rr +
                          9.99999999999999999910e-1);
    const double q = ((3.00198505138664455042e-6 * rr + 2.52448340349684104192e-3) * rr +
                      2.27265548208155028766e-1) * rr + 2.00000000000000000005e0;
    return 2.0 * p / (q - p);
#else
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r;
#endif
}

/* x = n log 2 + r. */
FASTNN_INLINE real reduce_exp(real x, bits_t *n) {
    const real shifted = x * R(1.44269504088896340736) + ROUNDER;
    const real whole = shifted - ROUNDER;
    *n = bits_of(shifted) - bits_of(ROUNDER);
    return (x - whole * LN2_HIGH) - whole * LN2_LOW;
}

FASTNN_INLINE real r_exp(real x) {
    bits_t n;
    x = x < EXP_LOWEST ? EXP_LOWEST : x;
    x = x > EXP_HIGHEST ? EXP_HIGHEST : x;
    const real r = reduce_exp(x, &n);
    /* Two factors, for results below the smallest normal number and above half the largest. */
    const bits_t half = n >> 1;
    return (R(1.0) + expm1_reduced(r)) * power_of_two(half) * power_of_two(n - half);
}

FASTNN_INLINE real r_expm1(real x) {
    bits_t n;
    x = x < EXP_LOWEST / 2 ? EXP_LOWEST / 2 : x;
    x = x > EXP_HIGHEST ? EXP_HIGHEST : x;
    const real r = reduce_exp(x, &n);
    const bits_t half = n >> 1; /* 2^n may not be a number where the result is one */
    const real scale = power_of_two(half);
    return (scale * expm1_reduced(r) + (scale - power_of_two(half - n))) * power_of_two(n - half);
}

/* log(1 + m) + e log 2 for 1 + m in [sqrt(1/2), sqrt(2)). */
FASTNN_INLINE real log_reduced(real m, real e) {
    const real mm = m * m;
#if FASTNN_DOUBLE
    double p = 1.01875663804580931796e-4;
    p = p * m + 4.97494994976747001425e-1;
    p = p * m + 4.70579119878881725854e0;
    p = p * m + 1.44989225341610930846e1;
    p = p * m + 1.79368678507819816313e1;
    p = p * m + 7.70838733755885391666e0;
    double q = m + 1.12873587189167450590e1;
    q = q * m + 4.52279145837532221105e1;
    q = q * m + 8.29875266912776603211e1;
    q = q * m + 7.11544750618563894466e1;
    q = q * m + 2.31251620126765340583e1;
    double y = m * (mm * p / q);
    y = y - e * 2.121944400546905827679e-4;
    y = y - 0.5 * mm;
    return (m + y) + e * 0.693359375;
#else
    float p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float y = m * mm * p;
    y = y + LN2_LOW * e;
    y = y - 0.5f * mm;
    return (m + y) + e * LN2_HIGH;
#endif
}

/* e for x = 2^e m with m in [sqrt(1/2), sqrt(2)), of normal numbers. */
FASTNN_INLINE bits_t exponent_of(real x) {
    return (bits_of(x) - bits_of(R(0.70710678118654752440))) >> MANTISSA_BITS;
}

FASTNN_INLINE real r_log(real x) {
    const real scaled = x < SMALLEST_NORMAL ? x * SUBNORMAL_SCALE : x;
    bits_t e = exponent_of(scaled);
    const real m = real_of(bits_of(scaled) - e * ((bits_t)1 << MANTISSA_BITS)) - R(1.0);
    e = x < SMALLEST_NORMAL ? e - SUBNORMAL_SHIFT : e;
    real result = log_reduced(m, (real)e);
    result = x > LARGEST ? x : result;                      /* log(inf) = inf */
    result = x == R(0.0) ? -__builtin_inff() : result;
    result = x < R(0.0) ? __builtin_nanf("") : result;
    return x == x ? result : x;
}

/* 1 + x = 2^e (1 + m): m is found without the rounding of 1 + x, which only decides on e. */
FASTNN_INLINE real r_log1p(real x) {
    const real scaled = x > R(1e30) ? x * R(2.3283064365386963e-10) : x; /* 2^-32: 2^-e is normal */
    const bits_t e = exponent_of(R(1.0) + scaled);
    const real scale = power_of_two(-e);
    const real m = scaled * scale + (scale - R(1.0));
    real result = log_reduced(m, (real)(x > R(1e30) ? e + 32 : e));
    result = x > LARGEST ? x : result;
    result = x == R(-1.0) ? -__builtin_inff() : result;
    result = x < R(-1.0) ? __builtin_nanf("") : result;
    return x == x ? result : x;
}

FASTNN_INLINE real r_tanh(real x) {
    const real magnitude = x < R(0.0) ? -x : x;
    bits_t n;
    const real z = R(-2.0) * magnitude, clipped = z < R(-40.0) ? R(-40.0) : z; /* tanh(20) is 1 */
    const real r = reduce_exp(clipped, &n);
    const real scale = power_of_two(n);
    const real e = scale * expm1_reduced(r) + (scale - R(1.0));
    const real t = -e / (e + R(2.0));
    return x < R(0.0) ? -t : t;
}

/* Up to |x| = 1 an odd function of x, beyond 1 - exp(-x^2) times one of 1 / |x|. */
FASTNN_INLINE real r_erf(real x) {
    const real size = x < R(0.0) ? -x : x;
    const real square = x * x;
#if FASTNN_DOUBLE
    double p = 9.60497373987051638749e0;
    p = p * square + 9.00260197203842689217e1;
    p = p * square + 2.23200534594684319226e3;
    p = p * square + 7.00332514112805075473e3;
    p = p * square + 5.55923013010394962768e4;
    double q = square + 3.35617141647503099647e1;
    q = q * square + 5.21357949780152679795e2;
    q = q * square + 4.59432382970980127987e3;
    q = q * square + 2.26290000613890934246e4;
    q = q * square + 4.92673942608635921086e4;
    const double near = x * p / q;
    const double far_x = size > 6.0 ? 6.0 : size; /* erf(6) is 1 */
    double a = 2.46196981473530512524e-10;
    a = a * far_x + 5.64189564831068821977e-1;
    a = a * far_x + 7.46321056442269912687e0;
    a = a * far_x + 4.86371970985681366614e1;
    a = a * far_x + 1.96520832956077098242e2;
    a = a * far_x + 5.26445194995477358631e2;
    a = a * far_x + 9.34528527171957607540e2;
    a = a * far_x + 1.02755188689515710272e3;
    a = a * far_x + 5.57535335369399327526e2;
    double b = far_x + 1.32281951154744992508e1;
    b = b * far_x + 8.67072140885989742329e1;
    b = b * far_x + 3.54937778887819891062e2;
    b = b * far_x + 9.75708501743205489753e2;
    b = b * far_x + 1.82390916687909736289e3;
    b = b * far_x + 2.24633760818710981792e3;
    b = b * far_x + 1.65666309194161350182e3;
    b = b * far_x + 5.57535340817727675546e2;
    const double tail = r_exp(-far_x * far_x) * a / b;
#else
    float p = 7.853861353153693e-5f;
    p = p * square - 8.010193625184903e-4f;
    p = p * square + 5.188327685732524e-3f;
    p = p * square - 2.685381193529856e-2f;
    p = p * square + 1.128358514861418e-1f;
    p = p * square - 3.761262582423300e-1f;
    p = p * square + 1.128379165726710e+0f;
    const float near = x * p;
    const float far_x = size > 4.0f ? 4.0f : (size < 1.0f ? 1.0f : size); /* erf(4) is 1 */
    const float inverse = 1.0f / far_x, y = inverse * inverse;
    float a = 2.326819970068386e-2f;
    a = a * y - 1.387039388740657e-1f;
    a = a * y + 3.687424674597105e-1f;
    a = a * y - 5.824733027278666e-1f;
    a = a * y + 6.210004621745983e-1f;
    a = a * y - 4.944515323274145e-1f;
    a = a * y + 3.404879937665872e-1f;
    a = a * y - 2.741127028184656e-1f;
    a = a * y + 5.638259427386472e-1f;
    const float tail = r_exp(-far_x * far_x) * inverse * a;
#endif
    const real far = x < R(0.0) ? tail - R(1.0) : R(1.0) - tail;
    return size > R(1.0) ? far : near; /* NaN stays NaN */
}

FASTNN_INLINE real r_sqrt(real x) {
#if FASTNN_DOUBLE
    return __builtin_sqrt(x);
#else
    return __builtin_sqrtf(x);
#endif
}

/* cos(2 pi x) for 0 <= x <= 1: the sine of the way to the nearest root, by its Taylor series. */
FASTNN_INLINE real r_cos_turns(real x) {
    const real way = x - R(0.5) < R(0.0) ? R(0.25) - x : x - R(0.75);
    const real a = R(6.283185307179586) * way, square = a * a;
#if FASTNN_DOUBLE
    double p = 1.9572941063391263e-20; /* 1 / 21! */
    p = p * square - 8.22063524662433e-18;
    p = p * square + 2.8114572543455206e-15;
    p = p * square - 7.647163731819816e-13;
    p = p * square + 1.6059043836821613e-10;
    p = p * square - 2.505210838544172e-8;
#else
    float p = 1.6059043836821613e-10f; /* 1 / 13! */
    p = p * square - 2.505210838544172e-8f;
#endif
    p = p * square + R(2.7557319223985893e-6);
    p = p * square - R(1.984126984126984e-4);
    p = p * square + R(8.333333333333333e-3);
    p = p * square - R(1.6666666666666666e-1);
    return a + a * square * p;
}

#endif
