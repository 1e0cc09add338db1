// One block's work on one chunk: select the top, find the modulus, interpolate, evaluate. Only
// integers: any order of the threads gives the same result. Every function is called by all threads
// of a block and ends with a barrier.
#pragma once

#include <cstddef>
#include <cstdint>

#include "field.h"
#include "proofs_cuda.h"

namespace primed::toploc_block {

constexpr unsigned kThreads = 256;
constexpr unsigned kTop = kCudaTopMax;
constexpr std::uint16_t kMagnitude = 0x7fff;

struct Chunk {
    const std::uint16_t* bits;
    std::size_t elements;
};

struct Shared {
    std::uint32_t histogram[256], seen[2048];  // seen: a bit per residue
    std::uint32_t indices[kTop], sums[kTop];
    std::uint16_t values[kTop], x[kTop];  // x: residues, in Montgomery form while interpolating
    std::uint16_t master[2][kTop + 1], slopes[kTop], coefficients[kTop];
    std::uint32_t taken, ties, partial[kThreads];
    std::uint32_t totals[4];
    std::uint32_t low, high;
};

// The bin, from the top, in which the count reaches k; k becomes what is still wanted in it.
__device__ inline std::uint32_t bin_of(Shared& s, unsigned bins, std::uint32_t& k) {
    __syncthreads();
    std::uint32_t bin = bins - 1;  // every thread walks alone: 256 steps at most
#pragma unroll 1
    for (; bin > 0 && s.histogram[bin] < k; --bin) k -= s.histogram[bin];
    __syncthreads();
    return bin;
}

__device__ inline void clear_histogram(Shared& s) {
    for (unsigned i = threadIdx.x; i < 256; i += kThreads) s.histogram[i] = 0;
    __syncthreads();
}

// The k-th largest magnitude; k becomes the number of ties with it that are wanted.
__device__ inline std::uint16_t bound_of(Shared& s, const Chunk& chunk, std::uint32_t& k) {
    clear_histogram(s);
    for (std::size_t i = threadIdx.x; i < chunk.elements; i += kThreads)
        atomicAdd(&s.histogram[(chunk.bits[i] & kMagnitude) >> 7], 1u);
    const std::uint32_t high = bin_of(s, 256, k);
    clear_histogram(s);
    for (std::size_t i = threadIdx.x; i < chunk.elements; i += kThreads) {
        const std::uint32_t magnitude = chunk.bits[i] & kMagnitude;
        if (magnitude >> 7 == high) atomicAdd(&s.histogram[magnitude & 127], 1u);
    }
    return static_cast<std::uint16_t>(high << 7 | bin_of(s, 128, k));
}

__device__ inline void take(Shared& s, const Chunk& chunk, std::uint32_t slot, std::size_t i) {
    s.indices[slot] = static_cast<std::uint32_t>(i);
    s.values[slot] = chunk.bits[i];
}

// The first `wanted` elements equal to the bound, by index: tile after tile, eight a thread.
__device__ inline void take_ties(Shared& s, const Chunk& chunk, std::uint16_t bound,
                                 std::uint32_t wanted) {
    constexpr std::size_t kEach = 8, kTile = kEach * kThreads;
    std::uint32_t found = 0;  // the same in all threads
    for (std::size_t tile = 0; tile < chunk.elements && found < wanted; tile += kTile) {
        const std::size_t begin = tile + threadIdx.x * kEach;
        std::uint32_t equal = 0;  // a bit per element
        for (unsigned j = 0; j < kEach; ++j)
            if (begin + j < chunk.elements && (chunk.bits[begin + j] & kMagnitude) == bound)
                equal |= 1u << j;
        if (!__syncthreads_or(equal != 0)) continue;
        s.partial[threadIdx.x] = __popc(equal);
        __syncthreads();
        std::uint32_t rank = found, in_tile = 0;
        for (unsigned t = 0; t < kThreads; ++t) {
            if (t == threadIdx.x) rank += in_tile;
            in_tile += s.partial[t];
        }
        for (unsigned j = 0; j < kEach; ++j)
            if (equal >> j & 1 && rank++ < wanted) take(s, chunk, s.taken + rank - 1, begin + j);
        found += in_tile;
        __syncthreads();
    }
    __syncthreads();
}

// indices and values of the k <= elements largest magnitudes, ties by the smaller index, unordered.
__device__ inline void select_top(Shared& s, const Chunk& chunk, std::uint32_t k) {
    std::uint32_t ties = k;
    const std::uint16_t bound = bound_of(s, chunk, ties);
    if (threadIdx.x == 0) s.taken = 0;
    __syncthreads();
    for (std::size_t i = threadIdx.x; i < chunk.elements; i += kThreads)
        if ((chunk.bits[i] & kMagnitude) > bound) take(s, chunk, atomicAdd(&s.taken, 1u), i);
    __syncthreads();
    take_ties(s, chunk, bound, ties);
}

__device__ inline void clear_seen(Shared& s) {
    for (unsigned i = threadIdx.x; i < 2048; i += kThreads) s.seen[i] = 0;
    __syncthreads();
}

// Marks the residues of the top; whether they are distinct.
__device__ inline bool mark_residues(Shared& s, std::uint32_t k, std::uint32_t modulus) {
    clear_seen(s);
    int collides = 0;
    for (std::uint32_t i = threadIdx.x; i < k; i += kThreads) {
        const std::uint32_t residue = s.indices[i] % modulus, bit = 1u << residue % 32;
        collides |= (atomicOr(&s.seen[residue / 32], bit) & bit) != 0;
    }
    return !__syncthreads_or(collides);
}

// The largest modulus that keeps the top apart; 0 if there is none.
__device__ inline std::uint32_t modulus_of(Shared& s, std::uint32_t k) {
    int beyond = 0;
    for (std::uint32_t i = threadIdx.x; i < k; i += kThreads)
        beyond |= s.indices[i] >= field::kPrime;
    if (!__syncthreads_or(beyond)) return field::kPrime;
#pragma unroll 1
    for (std::uint32_t modulus = field::kPrime; modulus >= k; --modulus)
        if (mark_residues(s, k, modulus)) return modulus;
    return 0;
}

__device__ inline std::uint16_t horner(const std::uint16_t* coefficients, std::uint32_t k,
                                       std::uint16_t x) {
    std::uint16_t value = 0;
#pragma unroll 1
    for (std::uint32_t j = k; j-- > 0;)
        value = field::sum(field::product(value, x), coefficients[j]);
    return value;
}

// 1 / a in Montgomery form by Fermat
__device__ inline std::uint16_t inverse(std::uint16_t a) {
    std::uint16_t power = field::montgomery(a), result = field::kOne;
#pragma unroll 1
    for (std::uint32_t exponent = field::kPrime - 2; exponent; exponent >>= 1) {
        if (exponent & 1) result = field::product(result, power);
        power = field::product(power, power);
    }
    return result;
}

// prod (X - x_i); returns which of the two buffers holds it.
__device__ inline unsigned master_of(Shared& s, std::uint32_t k) {
    for (std::uint32_t j = threadIdx.x; j <= k; j += kThreads) {
        s.master[0][j] = j == 0;
        s.master[1][j] = 0;
    }
    __syncthreads();
    for (std::uint32_t i = 0; i < k; ++i) {
        const std::uint16_t *in = s.master[i % 2], x = s.x[i];
        for (std::uint32_t j = threadIdx.x; j <= i + 1; j += kThreads)
            s.master[(i + 1) % 2][j] =
                field::difference(j ? in[j - 1] : std::uint16_t{0}, field::product(in[j], x));
        __syncthreads();
    }
    return k % 2;
}

// sums[r] = sum_i w_i x_i^r with w_i = y_i / M'(x_i), M' in coefficients
__device__ inline void power_sums(Shared& s, std::uint32_t k) {
    for (std::uint32_t r = threadIdx.x; r < k; r += kThreads) s.sums[r] = 0;
    __syncthreads();
    const std::uint32_t rounds = (k + kThreads - 1) / kThreads;  // whole warps take part
    for (std::uint32_t round = 0; round < rounds; ++round) {
        const std::uint32_t i = round * kThreads + threadIdx.x;
        const std::uint16_t x = i < k ? s.x[i] : std::uint16_t{0};
        std::uint16_t weight = 0;
        if (i < k)
            weight = field::product(inverse(horner(s.coefficients, k, x)), s.values[i]);
#pragma unroll 1
        for (std::uint32_t r = 0; r < k; ++r) {
            const std::uint32_t total = __reduce_add_sync(0xffffffffu, std::uint32_t{weight});
            if (threadIdx.x % 32 == 0) atomicAdd(&s.sums[r], total);
            weight = field::product(weight, x);
        }
    }
    __syncthreads();
}

// coefficients through (x, values), x the residues of the top; leaves x in Montgomery form
__device__ inline void interpolate(Shared& s, std::uint32_t k, std::uint32_t modulus) {
    for (std::uint32_t i = threadIdx.x; i < k; i += kThreads)
        s.x[i] = field::montgomery(static_cast<std::uint16_t>(s.indices[i] % modulus));
    __syncthreads();
    const std::uint16_t* master = s.master[master_of(s, k)];
    for (std::uint32_t j = threadIdx.x; j < k; j += kThreads)
        s.coefficients[j] = field::product(
            field::montgomery(static_cast<std::uint16_t>(j + 1)), master[j + 1]);
    __syncthreads();
    power_sums(s, k);
    for (std::uint32_t r = threadIdx.x; r < k; r += kThreads)
        s.slopes[r] = field::montgomery(static_cast<std::uint16_t>(s.sums[r] % field::kPrime));
    __syncthreads();
    for (std::uint32_t j = threadIdx.x; j < k; j += kThreads) {
        std::uint16_t value = 0;
#pragma unroll 1
        for (std::uint32_t r = 0; r + j < k; ++r)
            value = field::sum(value, field::product(master[j + 1 + r], s.slopes[r]));
        s.coefficients[j] = value;
    }
    __syncthreads();
}

}  // namespace primed::toploc_block
