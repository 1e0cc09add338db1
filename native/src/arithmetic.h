// Floating point with fixed bits: every sum and product is rounded on its own (CMakeLists.txt), to
// nearest even, with subnormals, whatever the calling thread has set (torch.set_flush_denormal).
#pragma once

#include <cfenv>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "clones.h"

static_assert(FLT_EVAL_METHOD == 0, "fp32 must be evaluated as fp32");
#ifdef __FAST_MATH__
#error "-ffast-math changes bits that other machines check"
#endif

namespace primed {

// The default floating-point environment for as long as it lives.
class DefaultArithmetic {
  public:
    DefaultArithmetic() {
        std::fegetenv(&saved_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultArithmetic() { std::fesetenv(&saved_); }
    DefaultArithmetic(const DefaultArithmetic&) = delete;
    DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

  private:
    std::fenv_t saved_;
};

PRIMED_HOST_DEVICE PRIMED_INLINE std::uint32_t word_of(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    return word;
}

PRIMED_HOST_DEVICE PRIMED_INLINE float float_of_word(std::uint32_t word) {
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

// bf16 nearest to the fp32 number with these bits, ties to even; every NaN becomes 0x7fc0.
PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t rounded(std::uint32_t word) {
    const std::uint32_t nearest = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    return static_cast<std::uint16_t>((word & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : nearest);
}

// fp32 bits between which and the number no bf16 and no middle of two lies: cut towards zero, last
// bit set if anything was cut ("round to odd"), so that rounding twice is rounding once.
PRIMED_HOST_DEVICE PRIMED_INLINE std::uint32_t odd_word_of(double value) {
    const float nearest = static_cast<float>(value);
    const double back = nearest;
    const std::uint32_t word = word_of(nearest);
    const std::uint32_t cut = word - (std::fabs(back) > std::fabs(value) ? 1u : 0u);
    return back == value || value != value ? word : cut | 1u;
}

}  // namespace primed
