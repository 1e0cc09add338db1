// GF(65497) in 16-bit lanes: Montgomery products with R = 2^16, so that loops over arrays of u16
// become vector loops. Numbers are canonical (below the prime) unless a line says otherwise.
#pragma once

#include <cstdint>

#include "clones.h"

namespace primed::field {

constexpr std::uint16_t kPrime = 65497;
constexpr std::uint16_t kPrimeInverse = 36969;  // kPrime * kPrimeInverse = 1 mod 2^16
constexpr std::uint16_t kR2 = 1521;             // 2^32 mod kPrime: brings a number into Montgomery form
constexpr std::uint16_t kOne = 39;              // 1 in Montgomery form

static_assert(std::uint16_t(std::uint32_t{kPrime} * kPrimeInverse) == 1);
static_assert((std::uint64_t{1} << 32) % kPrime == kR2 && (1u << 16) % kPrime == kOne);

// a * b / 2^16; one of the two may be any u16
PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t product(std::uint16_t a, std::uint16_t b) {
    const std::uint32_t wide = std::uint32_t{a} * b;
    const auto high = static_cast<std::uint16_t>(wide >> 16);
    const auto q = static_cast<std::uint16_t>(static_cast<std::uint16_t>(wide) *
                                              std::uint32_t{kPrimeInverse});
    const auto multiple = static_cast<std::uint16_t>(std::uint32_t{q} * kPrime >> 16);
    const auto difference = static_cast<std::uint16_t>(high - multiple);
    const auto corrected = static_cast<std::uint16_t>(difference + kPrime);
    return high < multiple ? corrected : difference;
}

// companion = b / kPrime mod 2^16, for a factor b that is used often
PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t companion_of(std::uint16_t value) {
    return static_cast<std::uint16_t>(value * std::uint32_t{kPrimeInverse});
}

// product(a, b) in three multiplications, with b's companion at hand; a may be any u16
PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t product(std::uint16_t a, std::uint16_t b,
                                                       std::uint16_t companion) {
    const auto high = static_cast<std::uint16_t>(std::uint32_t{a} * b >> 16);
    const auto q = static_cast<std::uint16_t>(std::uint32_t{a} * companion);
    const auto multiple = static_cast<std::uint16_t>(std::uint32_t{q} * kPrime >> 16);
    const auto difference = static_cast<std::uint16_t>(high - multiple);
    const auto corrected = static_cast<std::uint16_t>(difference + kPrime);
    return high < multiple ? corrected : difference;
}

PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t difference(std::uint16_t a, std::uint16_t b) {
    const auto plain = static_cast<std::uint16_t>(a - b);
    const auto corrected = static_cast<std::uint16_t>(plain + kPrime);
    return a < b ? corrected : plain;
}

PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t sum(std::uint16_t a, std::uint16_t b) {
    return difference(a, static_cast<std::uint16_t>(kPrime - b));  // b = 0 gives a - kPrime + kPrime
}

PRIMED_HOST_DEVICE PRIMED_INLINE std::uint16_t montgomery(std::uint16_t a) {
    return product(a, kR2);
}

}  // namespace primed::field
