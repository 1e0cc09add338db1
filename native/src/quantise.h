// Blocks of 64 fp32 numbers as 8, 4 or 2 bits a number and a bf16 step; specification and layout:
// twins/quantise.py. `bits` is 8, 4 or 2 throughout.
#pragma once

#include <cstddef>
#include <cstdint>

namespace primed {

constexpr std::size_t kQuantisedBlock = 64;

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
