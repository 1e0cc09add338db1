// TOPLOC build and score, one block a chunk, on the caller's stream.
#include "device.cuh"
#include "proofs_cuda.h"
#include "toploc.h"
#include "toploc_block.cuh"

namespace primed {
namespace {

using namespace toploc_block;

struct Plan {
    CudaRows rows;
    std::uint32_t k;
    std::uint16_t cap;
};

__device__ Chunk chunk_of(const CudaRows& rows, std::size_t c) {
    const std::size_t first = c * rows.chunk_rows, left = rows.rows - first;
    const std::size_t count = left < rows.chunk_rows ? left : rows.chunk_rows;
    return {rows.bits + first * rows.width, count * rows.width};
}

__device__ std::uint32_t top_size(const Chunk& chunk, std::uint32_t k) {
    return chunk.elements < k ? static_cast<std::uint32_t>(chunk.elements) : k;
}

__global__ void build(Plan plan, std::uint16_t* proofs) {
    __shared__ Shared s;
    const Chunk chunk = chunk_of(plan.rows, blockIdx.x);
    const std::uint32_t k = top_size(chunk, plan.k);
    select_top(s, chunk, k);
    const std::uint32_t modulus = modulus_of(s, k);
    if (modulus != 0) interpolate(s, k, modulus);
    std::uint16_t* proof = proofs + blockIdx.x * std::size_t{plan.k + 1};
    if (threadIdx.x == 0) proof[0] = static_cast<std::uint16_t>(modulus);
    for (std::uint32_t j = threadIdx.x; j < plan.k; j += kThreads)
        proof[1 + j] = j < k && modulus != 0 ? s.coefficients[j] : std::uint16_t{0};
}

__device__ std::uint32_t distance(std::uint16_t a, std::uint16_t b, std::uint32_t cap) {
    const int apart = (a & kMagnitude) - (b & kMagnitude);
    const std::uint32_t size = apart < 0 ? -apart : apart;
    return (a ^ b) & 0x8000 || size > cap ? cap : size;
}

// Status of a hostile proof row, its coefficients copied to shared memory.
__device__ std::int64_t load(Shared& s, const std::uint16_t* proof, std::uint32_t k,
                             std::uint32_t modulus_min) {
    int large = 0;
    for (std::uint32_t j = threadIdx.x; j < k; j += kThreads) {
        s.coefficients[j] = proof[1 + j];
        large |= proof[1 + j] >= field::kPrime;
    }
    large = __syncthreads_or(large);
    if (proof[0] < modulus_min || proof[0] > field::kPrime) return toploc::kWrongModulus;
    return large ? toploc::kWrongCoefficient : toploc::kGood;
}

__device__ std::uint16_t stated_at(const Shared& s, std::uint32_t k, std::uint32_t residue) {
    return horner(s.coefficients, k, field::montgomery(static_cast<std::uint16_t>(residue)));
}

// totals[0]: distances at the top; totals[1]: wrong signs
__device__ void compare(Shared& s, std::uint32_t top, std::uint32_t k, std::uint32_t modulus,
                        std::uint32_t cap) {
    if (threadIdx.x < 2) s.totals[threadIdx.x] = 0;
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < top; i += kThreads) {
        const std::uint16_t stated = stated_at(s, k, s.indices[i] % modulus);
        atomicAdd(&s.totals[0], distance(s.values[i], stated, cap));
        atomicAdd(&s.totals[1], std::uint32_t((s.values[i] ^ stated) >> 15));
    }
    __syncthreads();
}

// totals[2]: the best constant's distances
__device__ void compare_constants(Shared& s, std::uint32_t top, std::uint32_t cap) {
    if (threadIdx.x == 0) s.totals[2] = UINT32_MAX;
    __syncthreads();
    for (std::uint32_t c = threadIdx.x; c < top; c += kThreads) {
        std::uint32_t total = 0;
        for (std::uint32_t i = 0; i < top; ++i) total += distance(s.values[i], s.values[c], cap);
        atomicMin(&s.totals[2], total);
    }
    __syncthreads();
}

// totals[2]: places outside the top; totals[3]: those with plausible numbers. See toploc_score.cpp.
__device__ void test_offset(Shared& s, const Chunk& chunk, std::uint32_t top,
                            std::uint32_t modulus, int cap) {
    if (threadIdx.x == 0) {
        s.low = kMagnitude;
        s.high = s.totals[2] = s.totals[3] = 0;
    }
    __syncthreads();
    for (std::uint32_t i = threadIdx.x; i < top; i += kThreads) {
        atomicMin(&s.low, std::uint32_t(s.values[i] & kMagnitude));
        atomicMax(&s.high, std::uint32_t(s.values[i] & kMagnitude));
    }
    __syncthreads();
    const int low = static_cast<int>(s.low), high = static_cast<int>(s.high);
    if (chunk.elements - top < toploc::kOffsetShare * top ||
        high - low > toploc::kOffsetWindowMax)
        return;
    mark_residues(s, top, modulus);
    const std::size_t stride = chunk.elements / top;
    for (std::uint32_t i = threadIdx.x; i < top; i += kThreads) {
        const auto residue = static_cast<std::uint32_t>((i * stride + stride / 2) % modulus);
        if (s.seen[residue / 32] >> residue % 32 & 1) continue;
        const int magnitude = stated_at(s, top, residue) & kMagnitude;
        atomicAdd(&s.totals[2], 1u);
        atomicAdd(&s.totals[3], std::uint32_t(magnitude >= low - cap && magnitude <= high + cap));
    }
    __syncthreads();
}

__global__ void score(Plan plan, const std::uint16_t* proofs, const std::uint16_t* others,
                      toploc::Score* scores) {
    __shared__ Shared s;
    const Chunk chunk = chunk_of(plan.rows, blockIdx.x);
    const std::uint32_t top = top_size(chunk, plan.k);
    const std::size_t at = blockIdx.x * std::size_t{plan.k + 1};
    const std::uint32_t lowest =
        chunk.elements <= field::kPrime ? field::kPrime : toploc::kModulusMin;
    toploc::Score found{};
    found.status = load(s, proofs + at, top, lowest);
    if (found.status == toploc::kGood) {
        const std::uint32_t modulus = proofs[at];
        select_top(s, chunk, top);
        for (std::uint32_t i = threadIdx.x; i < top; i += kThreads)
            s.values[i] %= field::kPrime;  // as far as a proof can say it
        __syncthreads();
        found.values = top;
        compare(s, top, top, modulus, plan.cap);
        found.distance_sum = s.totals[0];
        found.sign_errors = s.totals[1];
        test_offset(s, chunk, top, modulus, plan.cap);
        found.offset_places = s.totals[2];
        found.offset_plausible = s.totals[3];
        __syncthreads();
        compare_constants(s, top, plan.cap);
        found.constant_sum = s.totals[2];
        found.replay_sum = std::int64_t{top} * plan.cap;
        if (load(s, others + at, plan.k, toploc::kModulusMin) == toploc::kGood) {
            compare(s, top, plan.k, others[at], plan.cap);
            found.replay_sum = s.totals[0];
        }
    }
    if (threadIdx.x == 0) scores[blockIdx.x] = found;
}

}  // namespace

void toploc_build_cuda(const CudaRows& rows, std::size_t k, std::uint16_t* proofs, void* stream) {
    const Plan plan{rows, static_cast<std::uint32_t>(k), 0};
    build<<<static_cast<unsigned>(rows.chunks()), kThreads, 0, as_stream(stream)>>>(plan, proofs);
    check(cudaGetLastError());
}

void toploc_score_cuda(const CudaRows& rows, const std::uint16_t* proofs,
                       const std::uint16_t* others, std::size_t k, std::uint16_t cap,
                       std::int64_t* scores, void* stream) {
    const Plan plan{rows, static_cast<std::uint32_t>(k), cap};
    score<<<static_cast<unsigned>(rows.chunks()), kThreads, 0, as_stream(stream)>>>(
        plan, proofs, others, reinterpret_cast<toploc::Score*>(scores));
    check(cudaGetLastError());
}

}  // namespace primed
