// TOPLOC proofs; the specification is twins/toploc.py. Plain C++ border, no Python. A chunk is an
// array of 16-bit patterns (bf16 or fp16: sign and a magnitude that sorts as an integer).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace primed::toploc {

constexpr std::size_t kElementsMax = std::size_t{1} << 30;  // of one chunk
constexpr std::size_t kTopMax = 65497 / 2;                  // k

using Bits = std::span<const std::uint16_t>;
using Bytes = std::span<const std::uint8_t>;

struct Top {
    std::vector<std::uint32_t> indices;  // flat places of the min(k, elements) largest magnitudes
    std::vector<std::uint16_t> values;   // their patterns
};

// Scratch that is kept from chunk to chunk; one a thread.
struct Workspace {
    std::vector<std::uint16_t> maxima, candidates, lanes, residues, coefficients, own, stated;
    std::vector<std::uint32_t> candidate_indices, places;
    std::vector<std::uint64_t> seen = std::vector<std::uint64_t>(1024);  // residues, a bit each
    Top top;
};

// Fills workspace.top by ascending index.
void select_top(Bits chunk, std::size_t k, Workspace& workspace);

// Largest m <= 65497 for which the places are distinct mod m; 0 if there is none.
std::uint16_t modulus_of(std::span<const std::uint32_t> places, Workspace& workspace);

// Ascending coefficients of the polynomial through (x, y), x distinct.
void interpolate(std::span<const std::uint16_t> x, std::span<const std::uint16_t> y,
                 Workspace& workspace, std::uint16_t* coefficients);

// The polynomial at x (below the prime).
void evaluate(std::span<const std::uint16_t> coefficients, std::span<const std::uint16_t> x,
              std::uint16_t* out);

constexpr std::size_t proof_bytes(std::size_t elements, std::size_t k) {
    return 2 + 2 * (elements < k ? elements : k);
}

// The proof of one chunk: proof_bytes(chunk.size(), k) bytes. False if no modulus keeps the top
// places apart.
bool build(Bits chunk, std::size_t k, Workspace& workspace, std::uint8_t* proof);

enum Status : std::int64_t { kGood, kWrongLength, kWrongModulus, kWrongCoefficient };

struct Score {  // columns of the array that twins/toploc.py describes
    std::int64_t status, values, sign_errors, distance_sum, offset_places, offset_plausible,
        constant_sum, replay_sum;
};

constexpr std::uint16_t kModulusMin = 65433;     // of a proof that is looked at
constexpr std::size_t kOffsetShare = 4;          // elements outside the top per element in it
constexpr std::uint16_t kOffsetWindowMax = 1638;  // ULP from the least to the largest top value

// Compares hostile bytes with the verifier's own chunk. `other`: a proof of another chunk, or empty.
Score score(Bits chunk, Bytes proof, Bytes other, std::size_t k, std::uint16_t cap,
            Workspace& workspace);

}  // namespace primed::toploc
