// Quantised blocks on a CUDA device, as quantise.cpp: one warp a block, two numbers a lane.
#include <stdexcept>

#include "arithmetic.h"
#include "device.cuh"
#include "quantise.h"
#include "weights_cuda.h"

namespace primed {
namespace {

constexpr unsigned kWarps = 8;  // of one thread block
constexpr unsigned kAll = 0xffffffffu;

__device__ std::size_t block_of_warp() {
    return std::size_t{blockIdx.x} * kWarps + threadIdx.x / 32;
}

template <int bits>
__device__ std::uint32_t code_of(float x, float divisor) {
    const float shifted = __fadd_rn(__fdiv_rn(x, divisor), 12582912.0f);
    return (word_of(shifted) + Codec<bits>::kOffset) & Codec<bits>::kMask;
}

// worst: the largest step of all blocks
template <int bits>
__global__ void quantise_all(const float* values, std::size_t count, std::uint8_t* out,
                             unsigned* worst) {
    using C = Codec<bits>;
    const std::size_t block = block_of_warp(), begin = block * kQuantisedBlock;
    if (begin >= count) return;
    const unsigned lane = threadIdx.x % 32;
    const std::size_t i = begin + lane, j = i + 32;
    const float x = i < count ? values[i] : 0.0f, y = j < count ? values[j] : 0.0f;
    const unsigned top =
        __reduce_max_sync(kAll, max(word_of(x) & 0x7fffffffu, word_of(y) & 0x7fffffffu));
    const float exact = __fdiv_rn(float_of_word(top), static_cast<float>(C::kTop));
    const std::uint32_t step = (word_of(exact) + 0xffffu) >> 16;
    const float divisor = step ? float_of_word(step << 16) : 1.0f;
    const std::uint32_t low = code_of<bits>(x, divisor), high = code_of<bits>(y, divisor);
    std::uint8_t* to = out + block * C::kBytes;
    if (!lane) {
        to[0] = static_cast<std::uint8_t>(step);
        to[1] = static_cast<std::uint8_t>(step >> 8);
        atomicMax(worst, step);
    }
    if constexpr (bits == 8) {
        to[2 + lane] = static_cast<std::uint8_t>(low);
        to[2 + 32 + lane] = static_cast<std::uint8_t>(high);
    } else if constexpr (bits == 4) {
        to[2 + lane] = static_cast<std::uint8_t>(low | high << 4);
    } else {  // byte j: numbers j, j + 16, j + 32, j + 48
        const std::uint32_t mine = low | high << 4;
        const std::uint32_t next = __shfl_down_sync(kAll, mine, 16);
        if (lane < 16) to[2 + lane] = static_cast<std::uint8_t>(mine | next << 2);
    }
}

template <int bits>
__device__ std::uint32_t stored_code(const std::uint8_t* data, unsigned i) {
    using C = Codec<bits>;
    return (data[2 + i % C::kCodeBytes] >> (i / C::kCodeBytes * bits)) & C::kMask;
}

template <int bits>
__global__ void look_for_unused(const std::uint8_t* data, std::size_t count, unsigned* bad) {
    using C = Codec<bits>;
    const std::size_t block = block_of_warp(), begin = block * kQuantisedBlock;
    if (begin >= count) return;
    const std::uint8_t* from = data + block * C::kBytes;
    bool is_bad = (from[0] | from[1] << 8) > static_cast<int>(C::kStepMax);
    for (unsigned i = threadIdx.x % 32; i < kQuantisedBlock; i += 32) {
        const std::uint32_t code = stored_code<bits>(from, i);
        is_bad |= code == C::kUnused || (begin + i >= count && code != C::kOffset);
    }
    if (is_bad) atomicOr(bad, 1u);
}

template <int bits, bool adds>
__global__ void dequantise_all(const std::uint8_t* data, std::size_t count, float* out) {
    using C = Codec<bits>;
    const std::size_t block = block_of_warp(), begin = block * kQuantisedBlock;
    const std::uint8_t* from = data + block * C::kBytes;
    if (begin >= count) return;
    const float step = float_of_word(static_cast<std::uint32_t>(from[0] | from[1] << 8) << 16);
    for (unsigned i = threadIdx.x % 32; i < kQuantisedBlock && begin + i < count; i += 32) {
        const std::uint32_t stored = stored_code<bits>(from, i);
        const int code = bits == 8 ? static_cast<std::int8_t>(stored)
                                   : static_cast<int>(stored) - C::kOffset;
        const float number = __fmul_rn(static_cast<float>(code), step);
        out[begin + i] = adds ? __fadd_rn(out[begin + i], number) : number;
    }
}

unsigned grid_for(std::size_t count) {
    return blocks_for((count + kQuantisedBlock - 1) / kQuantisedBlock, kWarps);
}

// Calls with the width as a constant.
template <typename Work>
void with_bits(int bits, Work work) {
    if (bits == 8) return work(std::integral_constant<int, 8>{});
    if (bits == 4) return work(std::integral_constant<int, 4>{});
    if (bits == 2) return work(std::integral_constant<int, 2>{});
    throw std::invalid_argument("bits are not 8, 4 or 2");
}

unsigned waited_for(const DeviceArray<unsigned>& flag, cudaStream_t stream) {
    unsigned value = 0;
    check(cudaGetLastError());
    flag.copy_to(&value, 1);
    check(cudaStreamSynchronize(stream));
    return value;
}

}  // namespace

bool quantise_cuda(int bits, const float* values, std::size_t count, std::uint8_t* out,
                   void* stream) {
    if (!count) return true;
    const cudaStream_t on = as_stream(stream);
    DeviceArray<unsigned> worst(1, on);
    worst.fill_with_zeros(1);
    unsigned step_max = 0;
    with_bits(bits, [&](auto width) {
        constexpr int kBits = decltype(width)::value;
        step_max = Codec<kBits>::kStepMax;
        quantise_all<kBits><<<grid_for(count), 32 * kWarps, 0, on>>>(values, count, out,
                                                                     worst.get());
    });
    return waited_for(worst, on) <= step_max;
}

bool is_quantised_cuda(int bits, const std::uint8_t* data, std::size_t count, void* stream) {
    if (!count) return true;
    const cudaStream_t on = as_stream(stream);
    DeviceArray<unsigned> bad(1, on);
    bad.fill_with_zeros(1);
    with_bits(bits, [&](auto width) {
        look_for_unused<decltype(width)::value>
            <<<grid_for(count), 32 * kWarps, 0, on>>>(data, count, bad.get());
    });
    return !waited_for(bad, on);
}

void dequantise_cuda(int bits, const std::uint8_t* data, std::size_t count, float* out, bool adds,
                     void* stream) {
    if (!count) return;
    with_bits(bits, [&](auto width) {
        constexpr int kBits = decltype(width)::value;
        const unsigned grid = grid_for(count);
        if (adds)
            dequantise_all<kBits, true><<<grid, 32 * kWarps, 0, as_stream(stream)>>>(data, count, out);
        else
            dequantise_all<kBits, false><<<grid, 32 * kWarps, 0, as_stream(stream)>>>(data, count, out);
    });
    check(cudaGetLastError());
}

}  // namespace primed
