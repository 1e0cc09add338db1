// Blocks of 64 fp32 numbers as 8, 4 or 2 bits a number and a bf16 step; specification and layout:
// twins/quantise.py. `bits` is 8, 4 or 2 throughout.
#pragma once

#include <cstddef>
#include <cstdint>

namespace primed {

constexpr std::size_t kQuantisedBlock = 64;


template <int bits>
struct Codec {
    static constexpr std::size_t kCodeBytes = kQuantisedBlock * bits / 8;
    static constexpr std::size_t kBytes = 2 + kCodeBytes;
    static constexpr int kTop = bits == 8 ? 127 : bits == 4 ? 7 : 1;    // largest code
    static constexpr int kOffset = bits == 8 ? 0 : bits == 4 ? 8 : 1;  // added to a code
    // Largest bf16 whose product with the largest code is finite.
    static constexpr std::uint32_t kStepMax = bits == 8 ? 0x7c01u : bits == 4 ? 0x7e12u : 0x7f7fu;
    static constexpr std::uint32_t kMask = (1u << bits) - 1;
    static constexpr std::uint32_t kUnused = bits == 8 ? 0x80u : bits == 4 ? 0u : 3u;
};

// Bytes that `count` numbers become.
std::size_t quantised_bytes(int bits, std::size_t count);

// False if a number is not finite, or so large that its code times the step would not be.
bool quantise(int bits, const float* values, std::size_t count, std::uint8_t* out);

// Whether `data` (quantised_bytes long) is something that quantise can have written for `count`
// numbers: every step and product finite, no unused code, nothing after the last number.
bool is_quantised(int bits, const std::uint8_t* data, std::size_t count);

// out[i] = the number; the data must have passed is_quantised.
void dequantise(int bits, const std::uint8_t* data, std::size_t count, float* out);

// out[i] += the number; the data must have passed is_quantised.
void accumulate(int bits, const std::uint8_t* data, std::size_t count, float* out);

}  // namespace primed
