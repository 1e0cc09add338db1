// The operations of twins/quantise.py. One template per block; the four entry points pick the width
// inside functions that are compiled once per instruction set.
#include "quantise.h"

#include <algorithm>

#include "arithmetic.h"

namespace primed {
namespace {

constexpr std::size_t kBlock = kQuantisedBlock;

// Byte j of a block holds the codes of numbers j, j + kCodeBytes, ... from the lowest bits up: so
// loops run over neighbours. Returns the step.
template <int bits>
PRIMED_INLINE std::uint32_t quantise_block(const float* x, std::uint8_t* out) {
    using C = Codec<bits>;
    std::uint32_t top = 0;
    for (std::size_t i = 0; i < kBlock; ++i) top = std::max(top, word_of(x[i]) & 0x7fffffffu);
    // The step is rounded up, so that no number lies beyond the largest code.
    const float exact = float_of_word(top) / static_cast<float>(C::kTop);
    const std::uint32_t step = (word_of(exact) + 0xffffu) >> 16;
    const float divisor = step ? float_of_word(step << 16) : 1.0f;
    std::uint8_t codes[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i) {
        // Adding 1.5 * 2^23 rounds to an integer, ties to even, which the low bits then hold.
        const float shifted = x[i] / divisor + 12582912.0f;
        codes[i] = static_cast<std::uint8_t>((word_of(shifted) + C::kOffset) & C::kMask);
    }
    out[0] = static_cast<std::uint8_t>(step);
    out[1] = static_cast<std::uint8_t>(step >> 8);
    for (std::size_t j = 0; j < C::kCodeBytes; ++j) {
        std::uint8_t byte = 0;
        for (int k = 0; k < 8 / bits; ++k)
            byte = static_cast<std::uint8_t>(byte | codes[j + k * C::kCodeBytes] << (bits * k));
        out[2 + j] = byte;
    }
    return step;
}

template <int bits>
PRIMED_INLINE void dequantise_block(const std::uint8_t* data, float* out) {
    using C = Codec<bits>;
    const float step = float_of_word(static_cast<std::uint32_t>(data[0] | data[1] << 8) << 16);
    for (int k = 0; k < 8 / bits; ++k) {
        for (std::size_t j = 0; j < C::kCodeBytes; ++j) {
            const std::uint8_t byte = data[2 + j];
            const int code = bits == 8 ? static_cast<std::int8_t>(byte)
                                       : static_cast<int>((byte >> (bits * k)) & C::kMask);
            out[j + k * C::kCodeBytes] = static_cast<float>(code - C::kOffset) * step;
        }
    }
}

// Nonzero if one of the codes of a block is unused.
template <int bits>
PRIMED_INLINE std::uint8_t unused_in(const std::uint8_t* data) {
    using C = Codec<bits>;
    std::uint8_t bad = 0;
    for (std::size_t j = 0; j < C::kCodeBytes; ++j)
        for (int k = 0; k < 8 / bits; ++k)
            bad |= static_cast<std::uint8_t>(((data[2 + j] >> (bits * k)) & C::kMask) == C::kUnused);
    return bad;
}

template <int bits>
PRIMED_INLINE bool quantise_all(const float* values, std::size_t count, std::uint8_t* out) {
    std::uint32_t step = 0;
    std::size_t at = 0;
    for (; at + kBlock <= count; at += kBlock, out += Codec<bits>::kBytes)
        step = std::max(step, quantise_block<bits>(values + at, out));
    if (at < count) {
        float rest[kBlock] = {};
        std::copy(values + at, values + count, rest);
        step = std::max(step, quantise_block<bits>(rest, out));
    }
    return step <= Codec<bits>::kStepMax;
}

template <int bits>
PRIMED_INLINE bool is_quantised_all(const std::uint8_t* data, std::size_t count) {
    using C = Codec<bits>;
    std::uint8_t bad = 0;
    for (std::size_t at = 0; at < count; at += kBlock, data += C::kBytes) {
        bad |= static_cast<std::uint8_t>(static_cast<std::uint32_t>(data[0] | data[1] << 8) > C::kStepMax);
        bad |= unused_in<bits>(data);
    }
    if (const std::size_t used = count % kBlock) {
        for (std::size_t i = used; i < kBlock; ++i) {
            const std::uint8_t byte = data[2 + i % C::kCodeBytes - C::kBytes];
            const auto shift = static_cast<int>(i / C::kCodeBytes) * bits;
            bad |= static_cast<std::uint8_t>(((byte >> shift) & C::kMask) != C::kOffset);
        }
    }
    return !bad;
}

template <int bits, bool adds>
PRIMED_INLINE void dequantise_all(const std::uint8_t* data, std::size_t count, float* out) {
    float numbers[kBlock];
    for (std::size_t at = 0; at < count; at += kBlock, data += Codec<bits>::kBytes) {
        dequantise_block<bits>(data, numbers);
        const std::size_t used = std::min(kBlock, count - at);
        for (std::size_t i = 0; i < used; ++i)
            out[at + i] = adds ? out[at + i] + numbers[i] : numbers[i];
    }
}

PRIMED_CLONES bool quantise_clones(int bits, const float* values, std::size_t count,
                                   std::uint8_t* out) {
    if (bits == 8) return quantise_all<8>(values, count, out);
    if (bits == 4) return quantise_all<4>(values, count, out);
    return quantise_all<2>(values, count, out);
}

PRIMED_CLONES bool is_quantised_clones(int bits, const std::uint8_t* data, std::size_t count) {
    if (bits == 8) return is_quantised_all<8>(data, count);
    if (bits == 4) return is_quantised_all<4>(data, count);
    return is_quantised_all<2>(data, count);
}

PRIMED_CLONES void dequantise_clones(int bits, const std::uint8_t* data, std::size_t count,
                                     float* out) {
    if (bits == 8) return dequantise_all<8, false>(data, count, out);
    if (bits == 4) return dequantise_all<4, false>(data, count, out);
    return dequantise_all<2, false>(data, count, out);
}

PRIMED_CLONES void accumulate_clones(int bits, const std::uint8_t* data, std::size_t count,
                                     float* out) {
    if (bits == 8) return dequantise_all<8, true>(data, count, out);
    if (bits == 4) return dequantise_all<4, true>(data, count, out);
    return dequantise_all<2, true>(data, count, out);
}

}  // namespace

std::size_t quantised_bytes(int bits, std::size_t count) {
    return (count + kBlock - 1) / kBlock * (2 + kBlock / 8 * static_cast<std::size_t>(bits));
}

bool quantise(int bits, const float* values, std::size_t count, std::uint8_t* out) {
    const DefaultArithmetic arithmetic;
    return quantise_clones(bits, values, count, out);
}

bool is_quantised(int bits, const std::uint8_t* data, std::size_t count) {
    const DefaultArithmetic arithmetic;
    return is_quantised_clones(bits, data, count);
}

void dequantise(int bits, const std::uint8_t* data, std::size_t count, float* out) {
    const DefaultArithmetic arithmetic;
    dequantise_clones(bits, data, count, out);
}

void accumulate(int bits, const std::uint8_t* data, std::size_t count, float* out) {
    const DefaultArithmetic arithmetic;
    accumulate_clones(bits, data, count, out);
}

}  // namespace primed
