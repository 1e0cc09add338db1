// Interpolation over GF(65497) in O(k^2) vector steps and no table. With M(X) = prod (X - x_i) and
// w_i = y_i / M'(x_i), coefficient j of the polynomial is sum_r m_(j+1+r) s_r, s_r = sum_i w_i x_i^r.
#include <algorithm>

#include "clones.h"
#include "field.h"
#include "toploc.h"

namespace primed::toploc {
namespace {

constexpr std::size_t kLanes = 128;  // arrays are padded with zeros to a multiple of it

std::size_t padded(std::size_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

PRIMED_CLONES void to_montgomery(const std::uint16_t* x, std::size_t count, std::uint16_t* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = field::montgomery(x[i]);
}

// out = (X - x) * in, x in Montgomery form; in[-1] = 0
PRIMED_CLONES void multiply_by_root(const std::uint16_t* in, std::uint16_t x, std::size_t count,
                                    std::uint16_t* __restrict out) {
    const std::uint16_t companion = field::companion_of(x);
    for (std::size_t j = 0; j < count; ++j)
        out[j] = field::difference(in[static_cast<std::ptrdiff_t>(j) - 1],
                                   field::product(in[j], x, companion));
}

// out[j] = (j + 1) * master[j + 1]
PRIMED_CLONES void differentiate(const std::uint16_t* master, std::size_t count,
                                 std::uint16_t* out) {
    for (std::size_t j = 0; j < count; ++j)
        out[j] = field::product(field::montgomery(static_cast<std::uint16_t>(j + 1)),
                                master[j + 1]);
}

// Horner's scheme at whole blocks of points, x in Montgomery form.
PRIMED_CLONES void horner(const std::uint16_t* coefficients, std::size_t k, const std::uint16_t* x,
                          std::size_t points, std::uint16_t* out) {
    for (std::size_t at = 0; at < points; at += kLanes) {
        std::uint16_t value[kLanes] = {}, companion[kLanes];
        for (std::size_t i = 0; i < kLanes; ++i) companion[i] = field::companion_of(x[at + i]);
        for (std::size_t j = k; j-- > 0;) {
            const auto negative = static_cast<std::uint16_t>(field::kPrime - coefficients[j]);
            for (std::size_t i = 0; i < kLanes; ++i)
                value[i] = field::difference(field::product(value[i], x[at + i], companion[i]), negative);
        }
        std::copy_n(value, kLanes, out + at);
    }
}

// weights = y / slopes by Fermat: slope^(p-2)
PRIMED_CLONES void divide(const std::uint16_t* y, const std::uint16_t* slopes, std::size_t count,
                          std::uint16_t* weights) {
    for (std::size_t at = 0; at < count; at += kLanes) {
        std::uint16_t power[kLanes], inverse[kLanes];
        for (std::size_t i = 0; i < kLanes; ++i) {
            power[i] = field::montgomery(slopes[at + i]);
            inverse[i] = field::kOne;
        }
        for (std::uint32_t exponent = field::kPrime - 2; exponent; exponent >>= 1) {
            if (exponent & 1)
                for (std::size_t i = 0; i < kLanes; ++i)
                    inverse[i] = field::product(inverse[i], power[i]);
            for (std::size_t i = 0; i < kLanes; ++i) power[i] = field::product(power[i], power[i]);
        }
        for (std::size_t i = 0; i < kLanes; ++i)
            weights[at + i] = field::product(inverse[i], y[at + i]);
    }
}

// One power sum: the weights' sum mod p; then each weight times its x.
PRIMED_CLONES std::uint16_t sum_and_advance(std::uint16_t* weights, const std::uint16_t* x,
                                            std::size_t count) {
    std::uint32_t total = 0;  // count <= 32748: below 2^32
    for (std::size_t i = 0; i < count; ++i) {
        total += weights[i];
        weights[i] = field::product(weights[i], x[i]);
    }
    return static_cast<std::uint16_t>(total % field::kPrime);
}

// coefficients[j] = sum_r master[j + 1 + r] * sums[r], sums in Montgomery form; master is padded
PRIMED_CLONES void convolve(const std::uint16_t* master, const std::uint16_t* sums, std::size_t k,
                            std::uint16_t* coefficients) {
    for (std::size_t at = 0; at < k; at += kLanes) {
        std::uint16_t value[kLanes] = {};
        for (std::size_t r = 0; r < k - at; ++r) {
            const std::uint16_t companion = field::companion_of(sums[r]);
            for (std::size_t j = 0; j < kLanes; ++j)
                value[j] = field::sum(value[j], field::product(master[at + j + 1 + r], sums[r], companion));
        }
        std::copy_n(value, std::min(kLanes, k - at), coefficients + at);
    }
}

}  // namespace

void interpolate(std::span<const std::uint16_t> x, std::span<const std::uint16_t> y,
                 Workspace& workspace, std::uint16_t* coefficients) {
    const std::size_t k = x.size(), n = padded(k), master_size = n + 2 * kLanes;
    workspace.lanes.assign(2 * master_size + 5 * n, 0);
    std::uint16_t* master = workspace.lanes.data() + kLanes;  // a zero before it
    std::uint16_t* next = master + master_size;
    std::uint16_t* xs = next + master_size - kLanes;
    std::uint16_t *ys = xs + n, *derivative = ys + n, *slopes = derivative + n, *sums = slopes + n;
    to_montgomery(x.data(), k, xs);
    std::copy(y.begin(), y.end(), ys);
    master[0] = 1;
    for (std::size_t i = 0; i < k; ++i) {
        multiply_by_root(master, xs[i], padded(i + 2), next);
        std::swap(master, next);
    }
    differentiate(master, k, derivative);
    horner(derivative, k, xs, n, slopes);
    std::uint16_t* weights = ys;
    divide(ys, slopes, n, weights);
    for (std::size_t r = 0; r < k; ++r) sums[r] = sum_and_advance(weights, xs, n);
    to_montgomery(sums, k, sums);
    convolve(master, sums, k, coefficients);
}

void evaluate(std::span<const std::uint16_t> coefficients, std::span<const std::uint16_t> x,
              std::uint16_t* out) {
    constexpr std::size_t kPart = 4 * kLanes;
    std::uint16_t xs[kPart], values[kPart];
    for (std::size_t at = 0; at < x.size(); at += kPart) {
        const std::size_t count = std::min(kPart, x.size() - at);
        std::fill_n(xs, kPart, 0);
        to_montgomery(x.data() + at, count, xs);
        horner(coefficients.data(), coefficients.size(), xs, padded(count), values);
        std::copy_n(values, count, out + at);
    }
}

}  // namespace primed::toploc
