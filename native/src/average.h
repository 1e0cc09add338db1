// fp32 and weighted sums of bf16 to bf16, nearest even; specification: twins/average.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace primed {

// out[i] = bf16 of values[i]
void round_to_bf16(const float* values, std::size_t count, std::uint16_t* out);

// out[i] = bf16 of weights[0] * rows[0][i] + weights[1] * rows[1][i] + ... in fp64, from the left,
// rounded once at the end. At least one row.
void average_bf16(const std::uint16_t* const* rows, const double* weights, std::size_t rows_count,
                  std::size_t count, std::uint16_t* out);

}  // namespace primed
