// The operations of twins/average.py; see arithmetic.h for what keeps their bits.
#include "average.h"

#include <algorithm>

#include "arithmetic.h"

namespace primed {
namespace {

constexpr std::size_t kBlock = 256;  // sums at a time: they stay in the first cache

PRIMED_INLINE double term_of(double weight, std::uint16_t bits) {
    return weight * float_of_word(std::uint32_t{bits} << 16);
}

PRIMED_CLONES void average_block(const std::uint16_t* const* rows, const double* weights,
                                 std::size_t rows_count, std::size_t at, std::size_t count,
                                 std::uint16_t* out) {
    double sums[kBlock];
    for (std::size_t i = 0; i < count; ++i) sums[i] = term_of(weights[0], rows[0][at + i]);
    std::size_t r = 1;
    for (; r + 2 <= rows_count; r += 2) {  // two at a time: half the traffic with the cache
        const std::uint16_t *one = rows[r] + at, *two = rows[r + 1] + at;
        const double first = weights[r], second = weights[r + 1];
        for (std::size_t i = 0; i < count; ++i)
            sums[i] = (sums[i] + term_of(first, one[i])) + term_of(second, two[i]);
    }
    if (r < rows_count) {
        const std::uint16_t* one = rows[r] + at;
        const double first = weights[r];
        for (std::size_t i = 0; i < count; ++i) sums[i] = sums[i] + term_of(first, one[i]);
    }
    for (std::size_t i = 0; i < count; ++i) out[at + i] = rounded(odd_word_of(sums[i]));
}

PRIMED_CLONES void round_all(const float* values, std::size_t count, std::uint16_t* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = rounded(word_of(values[i]));
}

}  // namespace

void round_to_bf16(const float* values, std::size_t count, std::uint16_t* out) {
    round_all(values, count, out);
}

void average_bf16(const std::uint16_t* const* rows, const double* weights, std::size_t rows_count,
                  std::size_t count, std::uint16_t* out) {
    const DefaultArithmetic arithmetic;
    for (std::size_t at = 0; at < count; at += kBlock)
        average_block(rows, weights, rows_count, at, std::min(kBlock, count - at), out);
}

}  // namespace primed
