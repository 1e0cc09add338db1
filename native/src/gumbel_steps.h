// The noise of a word and the words of a counter, step by step as in twins/gumbel.py; the same text
// for the host and for CUDA devices. Each product and each sum is rounded on its own: the compiler
// must not fuse them (-ffp-contract=off; on devices the intrinsics that are never fused).
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "clones.h"
#include "gumbel_coefficients.h"

namespace primed::gumbel_steps {

PRIMED_HOST_DEVICE PRIMED_INLINE float times(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

PRIMED_HOST_DEVICE PRIMED_INLINE float plus(float a, float b) {
#ifdef __CUDA_ARCH__
    return __fadd_rn(a, b);
#else
    return a + b;
#endif
}

PRIMED_HOST_DEVICE PRIMED_INLINE std::int32_t bits_of(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

PRIMED_HOST_DEVICE PRIMED_INLINE float float_of(std::int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Q and R by Horner's scheme. The coefficients are template arguments in effect: device code cannot
// index the host's arrays.
template <int I = 8>
PRIMED_HOST_DEVICE PRIMED_INLINE float q_of(float x) {
    constexpr float c = kQ[8 - I];
    if constexpr (I == 0) return c;
    else return plus(times(q_of<I - 1>(x), x), c);
}

template <int I = 8>
PRIMED_HOST_DEVICE PRIMED_INLINE float r_of(float x) {
    constexpr float c = kR[8 - I];
    if constexpr (I == 0) return c;
    else return plus(times(r_of<I - 1>(x), x), c);
}

// Natural logarithm of a positive normal number.
PRIMED_HOST_DEVICE PRIMED_INLINE float ln(float z) {
    const std::int32_t bits = bits_of(z);
    const std::int32_t exponent = (bits - 0x3f3504f3) >> 23;
    const float f = plus(float_of(bits - exponent * (1 << 23)), -1.0f);
    const float e = static_cast<float>(exponent);
    const float square = times(f, f);
    float y = times(times(square, f), q_of(f));
    y = plus(y, times(e, -2.12194440e-4f));
    y = plus(y, -times(0.5f, square));
    y = plus(y, f);
    return plus(y, times(e, 0.693359375f));
}

PRIMED_HOST_DEVICE PRIMED_INLINE float noise_of(std::uint32_t word) {
    const auto low = static_cast<std::int32_t>(word & 0x7fffffffu);
    const float x = times(plus(static_cast<float>(low), 0.5f), 0x1p-32f);
    const float a = -ln(x);
    const float upper = plus(a, -times(r_of(x), x));
    const float lower = -ln(a);
    return word >> 31 ? upper : lower;
}

struct Words {
    std::uint32_t output[4];
};

// Philox4x32-10 for counter (four, position, 0, 0)
PRIMED_HOST_DEVICE PRIMED_INLINE Words philox(std::uint64_t seed, std::uint32_t position,
                                              std::uint32_t four) {
    std::uint32_t c0 = four, c1 = position, c2 = 0, c3 = 0;
    auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
#ifdef __CUDACC__
#pragma unroll
#else
#pragma GCC unroll 10
#endif
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t p0 = std::uint64_t{c0} * 0xD2511F53u;
        const std::uint64_t p1 = std::uint64_t{c2} * 0xCD9E8D57u;
        c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
        c1 = static_cast<std::uint32_t>(p1);
        c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
        c3 = static_cast<std::uint32_t>(p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

}  // namespace primed::gumbel_steps
