// Noise and noisy argmax, one block a row; four tokens of one Philox counter a step and thread.
#include "device.cuh"
#include "gumbel_steps.h"
#include "proofs_cuda.h"

namespace primed {
namespace {

constexpr unsigned kThreads = 256;

__global__ void noise(const std::uint64_t* seeds, const std::uint32_t* positions,
                      std::size_t vocabulary, float* out) {
    const std::size_t row = blockIdx.x;
    float* mine = out + row * vocabulary;
    for (std::size_t four = threadIdx.x; 4 * four < vocabulary; four += kThreads) {
        const auto words = gumbel_steps::philox(seeds[row], positions[row],
                                                static_cast<std::uint32_t>(four));
        for (unsigned j = 0; j < 4 && 4 * four + j < vocabulary; ++j)
            mine[4 * four + j] = gumbel_steps::noise_of(words.output[j]);
    }
}

// Larger scores win, of equal ones the smaller token; NaN is never larger.
__device__ bool wins(float score, std::uint32_t token, float best, std::uint32_t best_token) {
    return score > best || (score == best && token < best_token);
}

__global__ void choose(const float* logits, const std::uint64_t* seeds,
                       const std::uint32_t* positions, std::size_t vocabulary,
                       float inverse_temperature, bool greedy, std::uint32_t* tokens,
                       float* scores) {
    __shared__ float best_scores[kThreads];
    __shared__ std::uint32_t best_tokens[kThreads];
    const std::size_t row = blockIdx.x;
    const unsigned thread = threadIdx.x;
    const float* mine = logits + row * vocabulary;
    float best = -INFINITY;
    std::uint32_t best_token = 0;
    for (std::size_t four = thread; 4 * four < vocabulary; four += kThreads) {
        gumbel_steps::Words words{};
        if (!greedy)
            words = gumbel_steps::philox(seeds[row], positions[row],
                                         static_cast<std::uint32_t>(four));
        for (unsigned j = 0; j < 4 && 4 * four + j < vocabulary; ++j) {
            float score = mine[4 * four + j];
            if (!greedy)
                score = gumbel_steps::plus(gumbel_steps::times(score, inverse_temperature),
                                           gumbel_steps::noise_of(words.output[j]));
            if (!(score > best)) continue;
            best = score;
            best_token = static_cast<std::uint32_t>(4 * four + j);
        }
    }
    best_scores[thread] = best;
    best_tokens[thread] = best_token;
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (thread >= half) continue;
        const float other = best_scores[thread + half];
        const std::uint32_t other_token = best_tokens[thread + half];
        if (!wins(other, other_token, best_scores[thread], best_tokens[thread])) continue;
        best_scores[thread] = other;
        best_tokens[thread] = other_token;
    }
    if (thread != 0) return;
    tokens[row] = best_tokens[0];
    scores[row] = best_scores[0];
}

}  // namespace

void gumbel_cuda(const std::uint64_t* seeds, const std::uint32_t* positions, std::size_t rows,
                 std::size_t vocabulary, float* out, void* stream) {
    if (rows == 0) return;
    noise<<<static_cast<unsigned>(rows), kThreads, 0, as_stream(stream)>>>(seeds, positions,
                                                                           vocabulary, out);
    check(cudaGetLastError());
}

void gumbel_choose_cuda(const float* logits, const std::uint64_t* seeds,
                        const std::uint32_t* positions, std::size_t rows, std::size_t vocabulary,
                        float inverse_temperature, bool greedy, std::uint32_t* tokens,
                        float* scores, void* stream) {
    if (rows == 0) return;
    choose<<<static_cast<unsigned>(rows), kThreads, 0, as_stream(stream)>>>(
        logits, seeds, positions, vocabulary, inverse_temperature, greedy, tokens, scores);
    check(cudaGetLastError());
}

}  // namespace primed
