// Floating point with fixed bits: every sum and product is rounded on its own (CMakeLists.txt), to
// nearest even, with subnormals, whatever the calling thread has set (torch.set_flush_denormal).
#pragma once

#include <cfenv>
#include <cfloat>
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

PRIMED_INLINE std::uint32_t word_of(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    return word;
}

PRIMED_INLINE float float_of_word(std::uint32_t word) {
    float value;
    std::memcpy(&value, &word, sizeof value);
    return value;
}

// bf16 nearest to the fp32 number with these bits, ties to even; every NaN becomes 0x7fc0.
PRIMED_INLINE std::uint16_t rounded(std::uint32_t word) {
    const std::uint32_t nearest = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    return static_cast<std::uint16_t>((word & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : nearest);
}

}  // namespace primed
