// Gumbel noise with fixed bits; the specification is twins/gumbel.py. Plain C++ border, no Python.
#pragma once

#include <cstddef>
#include <cstdint>

namespace primed {

// out[i] = noise of words[i]
void gumbel_of_words(const std::uint32_t* words, std::size_t count, float* out);

// out[b * vocabulary + t] = noise of token t at (seeds[b], positions[b])
void gumbel(const std::uint64_t* seeds, const std::uint32_t* positions, std::size_t rows,
            std::size_t vocabulary, float* out);

// The noise of one token at (seed, position).
float gumbel_at(std::uint64_t seed, std::uint32_t position, std::uint32_t token);

struct Choice {
    std::uint32_t token;
    float score;
};

// First token with the largest score logits[t] * inverse_temperature + noise, each operation rounded
// to fp32; without noise where `greedy`. NaN never wins.
Choice choose(const float* logits, std::size_t vocabulary, std::uint64_t seed,
              std::uint32_t position, float inverse_temperature, bool greedy);

}  // namespace primed
