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

}  // namespace primed
