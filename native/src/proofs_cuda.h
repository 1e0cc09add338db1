// TOPLOC proofs and the noisy argmax on a CUDA device: the same results as toploc.h and gumbel.h.
// Pointers are to device memory; `stream` is a cudaStream_t; nothing waits for it. A failure of CUDA
// itself is a std::runtime_error. Plain C++, so that no caller needs CUDA's headers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace primed {

constexpr std::size_t kCudaTopMax = 1024;  // k: a block's shared memory holds the top

// Rows [rows, width] of one completion as chunks of `chunk_rows`, the last one short.
struct CudaRows {
    const std::uint16_t* bits;
    std::size_t rows, width, chunk_rows;

    std::size_t chunks() const { return (rows + chunk_rows - 1) / chunk_rows; }
};

// proofs [chunks, 1 + k]: modulus (0: none keeps the places apart), coefficients, then zeros.
void toploc_build_cuda(const CudaRows& rows, std::size_t k, std::uint16_t* proofs, void* stream);

// proofs, others: as above, from peers; a row of zeros in `others` for none. scores: columns of
// toploc::Score [chunks, 8]; lengths are the caller's to check.
void toploc_score_cuda(const CudaRows& rows, const std::uint16_t* proofs,
                       const std::uint16_t* others, std::size_t k, std::uint16_t cap,
                       std::int64_t* scores, void* stream);

void gumbel_cuda(const std::uint64_t* seeds, const std::uint32_t* positions, std::size_t rows,
                 std::size_t vocabulary, float* out, void* stream);

void gumbel_choose_cuda(const float* logits, const std::uint64_t* seeds,
                        const std::uint32_t* positions, std::size_t rows, std::size_t vocabulary,
                        float inverse_temperature, bool greedy, std::uint32_t* tokens,
                        float* scores, void* stream);

}  // namespace primed
