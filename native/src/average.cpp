// The operations of twins/average.py; see arithmetic.h for what keeps their bits.
//
// An average is read at the speed of fp32, not fp64: a first pass sums in fp32 and tells for each
// number whether the fp64 sum must round to the same bf16. Where it cannot tell, fp64 decides.
#include "average.h"

#include <algorithm>

#include "arithmetic.h"

namespace primed {
namespace {

constexpr std::size_t kBlock = 256;      // sums at a time: they stay in the first cache
constexpr std::size_t kFew = 16;         // unsure numbers of a block, decided one by one
constexpr std::size_t kQuickRows = 8;    // at most, in a first pass
constexpr float kErrorShare = 0x1p-23f;  // of the terms' sizes, a rounding: twice what it can be
constexpr float kSmallest = 0x1p-140f;   // more than what subnormal terms lose together
constexpr float kLarge = 0x1p100f;       // far from overflow

PRIMED_INLINE double term_of(double weight, std::uint16_t bits) {
    return weight * float_of_word(std::uint32_t{bits} << 16);
}

PRIMED_INLINE std::uint32_t nearest(std::uint32_t word) {  // no NaN
    return (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
}

// For weights whose products are exact: where no sum from the left is rounded in fp32, none is in
// fp64. Halves and quarters of near numbers are often exact ties, which the other pass cannot decide.
template <std::size_t Rows>
struct ExactSum {
    static PRIMED_INLINE bool decide(const float (&terms)[Rows], std::uint32_t& out) {
        float sum = terms[0];
        bool exact = std::fabs(sum) < kLarge;
        for (std::size_t r = 1; r < Rows; ++r) {
            const float next = sum + terms[r];
            exact &= (next - sum == terms[r]) & (next - terms[r] == sum);
            sum = next;
        }
        out = nearest(word_of(sum));
        return exact;
    }
};

// For any weights: all numbers as near to the fp32 sum as the fp64 sum is round to one bf16.
template <std::size_t Rows>
struct BoundedSum {
    static PRIMED_INLINE bool decide(const float (&terms)[Rows], std::uint32_t& out) {
        float sum = terms[0], size = std::fabs(terms[0]);
        for (std::size_t r = 1; r < Rows; ++r) {
            sum += terms[r];
            size += std::fabs(terms[r]);
        }
        const float error = size * (kErrorShare * static_cast<float>(Rows + 4)) + kSmallest;
        out = nearest(word_of(sum - error));
        return (out == nearest(word_of(sum + error))) & (size < kLarge);
    }
};

// The weights in fp32, where a first pass can be made with them.
struct QuickWeights {
    QuickWeights(const double* of, std::size_t count) : rows(count <= kQuickRows ? count : 0) {
        for (std::size_t r = 0; r < rows; ++r) {
            weights[r] = static_cast<float>(of[r]);
            exact &= of[r] * 0x1p16 == std::rint(of[r] * 0x1p16) && std::fabs(of[r]) <= 1;
            const double size = std::fabs(of[r]);
            if (size != 0.0 && !(size > 0x1p-60 && size < 0x1p60)) rows = 0;
        }
    }

    float weights[kQuickRows];
    bool exact = true;  // multiples of 2^-16 up to 1: times a bf16, exact in fp32
    std::size_t rows;   // 0: fp64 decides all
};

template <template <std::size_t> class Sum, std::size_t Rows>
PRIMED_INLINE std::size_t first_pass(const std::uint16_t* const* rows, const float* weights,
                                     std::size_t at, std::size_t count, std::uint16_t* out,
                                     std::uint16_t* unsure) {
    const std::uint16_t* row[Rows];
    float weight[Rows];
    for (std::size_t r = 0; r < Rows; ++r) row[r] = rows[r] + at, weight[r] = weights[r];
    std::uint32_t marked = 0;
    for (std::size_t i = 0; i < count; ++i) {
        float terms[Rows];
        for (std::size_t r = 0; r < Rows; ++r)
            terms[r] = weight[r] * float_of_word(std::uint32_t{row[r][i]} << 16);
        std::uint32_t word;
        const std::uint32_t mark = !Sum<Rows>::decide(terms, word);
        out[i] = static_cast<std::uint16_t>(word);
        unsure[i] = static_cast<std::uint16_t>(mark);
        marked += mark;
    }
    return marked;
}

template <std::size_t Rows>
PRIMED_INLINE std::size_t first_pass_over(bool exact, const std::uint16_t* const* rows,
                                          const float* weights, std::size_t at, std::size_t count,
                                          std::uint16_t* out, std::uint16_t* unsure) {
    return exact ? first_pass<ExactSum, Rows>(rows, weights, at, count, out, unsure)
                 : first_pass<BoundedSum, Rows>(rows, weights, at, count, out, unsure);
}

// Writes `count` sums to out and marks in `unsure` those that fp64 must decide. Returns how many.
PRIMED_CLONES std::size_t sum_quickly(const QuickWeights& by, const std::uint16_t* const* rows,
                                      std::size_t at, std::size_t count,
                                      std::uint16_t* __restrict out,
                                      std::uint16_t* __restrict unsure) {
    const float* weights = by.weights;
    const bool exact = by.exact;
    switch (by.rows) {
        case 2: return first_pass_over<2>(exact, rows, weights, at, count, out, unsure);
        case 3: return first_pass_over<3>(exact, rows, weights, at, count, out, unsure);
        case 4: return first_pass_over<4>(exact, rows, weights, at, count, out, unsure);
        case 5: return first_pass_over<5>(exact, rows, weights, at, count, out, unsure);
        case 6: return first_pass_over<6>(exact, rows, weights, at, count, out, unsure);
        case 7: return first_pass_over<7>(exact, rows, weights, at, count, out, unsure);
        case 8: return first_pass_over<8>(exact, rows, weights, at, count, out, unsure);
    }
    return count;
}

std::uint16_t average_of(const std::uint16_t* const* rows, const double* weights,
                         std::size_t rows_count, std::size_t at) {
    double sum = term_of(weights[0], rows[0][at]);
    for (std::size_t r = 1; r < rows_count; ++r) sum += term_of(weights[r], rows[r][at]);
    return rounded(odd_word_of(sum));
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
    const QuickWeights quick(weights, rows_count);
    std::uint16_t unsure[kBlock];
    for (std::size_t at = 0; at < count; at += kBlock) {
        const std::size_t here = std::min(kBlock, count - at);
        const std::size_t marked = sum_quickly(quick, rows, at, here, out + at, unsure);
        if (marked > kFew) {
            average_block(rows, weights, rows_count, at, here, out);
        } else if (marked > 0) {
            for (std::size_t i = 0; i < here; ++i)
                if (unsure[i]) out[at + i] = average_of(rows, weights, rows_count, at + i);
        }
    }
}

}  // namespace primed
