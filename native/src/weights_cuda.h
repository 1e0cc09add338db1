// The kernels of delta.h, quantise.h and average.h on a CUDA device: the same results. Pointers are
// to device memory but for what has a name with `host`; `stream` is a cudaStream_t. A failure of
// CUDA itself is a std::runtime_error. Plain C++, so that no caller needs CUDA's headers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "delta.h"

namespace primed {

constexpr std::size_t kCudaRowsMax = 128;  // of one average: they are kernel arguments

// These two do not wait.
void round_to_bf16_cuda(const float* values, std::size_t count, std::uint16_t* out, void* stream);
void average_bf16_cuda(const std::uint16_t* const* host_rows, const double* host_weights,
                       std::size_t rows_count, std::size_t count, std::uint16_t* out, void* stream);

// These wait for the stream, because their result is on the host.
bool quantise_cuda(int bits, const float* values, std::size_t count, std::uint8_t* out,
                   void* stream);
bool is_quantised_cuda(int bits, const std::uint8_t* data, std::size_t count, void* stream);
Changes changes_between_cuda(const std::uint16_t* old_weights, const std::uint16_t* new_weights,
                             std::size_t count, void* stream);
const char* apply_changes_cuda(const std::uint16_t* old_weights, std::size_t count,
                               const Changes& host_changes, std::uint16_t* out, void* stream);

// `adds`: accumulate, else dequantise. Does not wait; the data must have passed is_quantised_cuda.
void dequantise_cuda(int bits, const std::uint8_t* data, std::size_t count, float* out, bool adds,
                     void* stream);

}  // namespace primed
