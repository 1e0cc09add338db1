// Differences between two versions of bf16 weights; specification and layout: twins/delta.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "clones.h"

namespace primed {

constexpr std::size_t kDeltaClasses = 256;        // exponents of the old weights
constexpr std::size_t kDeltaWeightsMax = 1 << 24;  // in one chunk

PRIMED_HOST_DEVICE PRIMED_INLINE std::uint32_t class_of(std::uint16_t weight) {
    return (weight >> 7) & 0xff;
}

// Integers in the order of the values: one step is one unit in the last place.
PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t ordered(std::uint16_t weight) {
    return static_cast<std::uint16_t>(weight & 0x8000 ? ~weight : weight | 0x8000);
}

PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t unordered(std::uint16_t value) {
    return static_cast<std::uint16_t>(value & 0x8000 ? value & 0x7fff : ~value);
}

// What changed in a chunk, by (exponent of the old weight, place).
struct Changes {
    std::array<std::uint32_t, kDeltaClasses> counts{};
    std::vector<std::uint32_t> ranks;  // place among the old weights of the same exponent
    std::vector<std::uint16_t> steps;  // ordered(new) - ordered(old) modulo 2^16, never 0
};

// Bytes, and where a compressor does well to begin anew.
struct DeltaBytes {
    std::vector<std::uint8_t> bytes;
    std::vector<std::uint32_t> cuts;
};

Changes changes_between(const std::uint16_t* old_weights, const std::uint16_t* new_weights,
                        std::size_t count);

DeltaBytes written(const Changes& changes);

// Reads what `written` writes for a chunk of `count` weights, from any bytes; allocates no more than
// three times `size`. Returns what is wrong, or null.
const char* read_changes(const std::uint8_t* bytes, std::size_t size, std::size_t count,
                         Changes& changes);

// out = old_weights with the changes. Returns what is wrong, or null; out does not overlap the old.
const char* apply_changes(const std::uint16_t* old_weights, std::size_t count,
                          const Changes& changes, std::uint16_t* out);

// Exponents, then signs and mantissas: 2 * count bytes that compress better than the weights.
void split_bf16(const std::uint16_t* weights, std::size_t count, std::uint8_t* out);
void join_bf16(const std::uint8_t* planes, std::size_t count, std::uint16_t* out);

}  // namespace primed
