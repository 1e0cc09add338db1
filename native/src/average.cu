// Rounding and averages on a CUDA device, as average.cpp: products and sums rounded one by one.
#include "arithmetic.h"
#include "device.cuh"
#include "weights_cuda.h"

namespace primed {
namespace {

constexpr unsigned kThreads = 256;

struct Rows {
    const std::uint16_t* data[kCudaRowsMax];
    double weights[kCudaRowsMax];
    unsigned count;
};

__global__ void round_all(const float* values, std::size_t count, std::uint16_t* out) {
    const std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i < count) out[i] = rounded(word_of(values[i]));
}

__device__ double term_of(double weight, std::uint16_t bits) {
    return __dmul_rn(weight, static_cast<double>(float_of_word(std::uint32_t{bits} << 16)));
}

__global__ void average_all(const __grid_constant__ Rows rows, std::size_t count,
                            std::uint16_t* out) {
    const std::size_t i = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
    if (i >= count) return;
    double sum = term_of(rows.weights[0], rows.data[0][i]);
    for (unsigned r = 1; r < rows.count; ++r)
        sum = __dadd_rn(sum, term_of(rows.weights[r], rows.data[r][i]));
    out[i] = rounded(odd_word_of(sum));
}

}  // namespace

void round_to_bf16_cuda(const float* values, std::size_t count, std::uint16_t* out, void* stream) {
    if (!count) return;
    round_all<<<blocks_for(count, kThreads), kThreads, 0, as_stream(stream)>>>(values, count, out);
    check(cudaGetLastError());
}

void average_bf16_cuda(const std::uint16_t* const* host_rows, const double* host_weights,
                       std::size_t rows_count, std::size_t count, std::uint16_t* out,
                       void* stream) {
    if (rows_count > kCudaRowsMax) throw std::invalid_argument("more rows than an average takes");
    if (!count) return;
    Rows rows{};
    rows.count = static_cast<unsigned>(rows_count);
    for (std::size_t r = 0; r < rows_count; ++r) {
        rows.data[r] = host_rows[r];
        rows.weights[r] = host_weights[r];
    }
    average_all<<<blocks_for(count, kThreads), kThreads, 0, as_stream(stream)>>>(rows, count, out);
    check(cudaGetLastError());
}

}  // namespace primed
