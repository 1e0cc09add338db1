// The same operations in the same order as twins/gumbel.py. Bits depend on the compiler flags in
// CMakeLists.txt: no contraction into fused multiply-adds, fp32 arithmetic in fp32 registers.
#include "gumbel.h"

#include <algorithm>
#include <cfloat>
#include <limits>

#include "clones.h"
#include "gumbel_steps.h"

static_assert(FLT_EVAL_METHOD == 0, "fp32 must be evaluated as fp32");
#ifdef __FAST_MATH__
#error "-ffast-math changes bits that other machines check"
#endif

namespace primed {
namespace {

constexpr std::size_t kBlock = 256;  // counters at a time: 4 KiB of words stay in the first cache

// words[4 * i + j] = output j of Philox4x32-10 for counter (first + i, position, 0, 0)
PRIMED_CLONES void philox(std::uint64_t seed, std::uint32_t position, std::uint32_t first,
                          std::size_t counters, std::uint32_t* words) {
    for (std::size_t i = 0; i < counters; ++i) {
        const auto [output] =
            gumbel_steps::philox(seed, position, first + static_cast<std::uint32_t>(i));
        words[4 * i] = output[0];
        words[4 * i + 1] = output[1];
        words[4 * i + 2] = output[2];
        words[4 * i + 3] = output[3];
    }
}

PRIMED_CLONES void add_noise(const float* logits, const std::uint32_t* words, std::size_t count,
                             float inverse_temperature, float* scores) {
    for (std::size_t i = 0; i < count; ++i)
        scores[i] = logits[i] * inverse_temperature + gumbel_steps::noise_of(words[i]);
}

constexpr std::size_t kLanes = 32;

// Largest of `count` scores, a multiple of kLanes; NaN is never larger.
PRIMED_CLONES float largest(const float* scores, std::size_t count) {
    float lanes[kLanes];
    std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
    for (std::size_t at = 0; at < count; at += kLanes)
        for (std::size_t i = 0; i < kLanes; ++i)
            lanes[i] = scores[at + i] > lanes[i] ? scores[at + i] : lanes[i];
    return *std::max_element(lanes, lanes + kLanes);
}

}  // namespace

PRIMED_CLONES void gumbel_of_words(const std::uint32_t* words, std::size_t count, float* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = gumbel_steps::noise_of(words[i]);
}

void gumbel(const std::uint64_t* seeds, const std::uint32_t* positions, std::size_t rows,
            std::size_t vocabulary, float* out) {
    std::uint32_t words[4 * kBlock];
    for (std::size_t b = 0; b < rows; ++b) {
        for (std::size_t t = 0; t < vocabulary; t += 4 * kBlock) {
            const std::size_t count = std::min(4 * kBlock, vocabulary - t);
            philox(seeds[b], positions[b], static_cast<std::uint32_t>(t / 4), (count + 3) / 4,
                   words);
            gumbel_of_words(words, count, out + b * vocabulary + t);
        }
    }
}

float gumbel_at(std::uint64_t seed, std::uint32_t position, std::uint32_t token) {
    std::uint32_t words[4];
    philox(seed, position, token / 4, 1, words);
    return gumbel_steps::noise_of(words[token % 4]);
}

Choice choose(const float* logits, std::size_t vocabulary, std::uint64_t seed,
              std::uint32_t position, float inverse_temperature, bool greedy) {
    std::uint32_t words[4 * kBlock];
    float scores[4 * kBlock];
    Choice best{0, -std::numeric_limits<float>::infinity()};
    for (std::size_t t = 0; t < vocabulary; t += 4 * kBlock) {
        const std::size_t count = std::min(4 * kBlock, vocabulary - t);
        if (greedy) {
            std::copy_n(logits + t, count, scores);
        } else {
            philox(seed, position, static_cast<std::uint32_t>(t / 4), (count + 3) / 4, words);
            add_noise(logits + t, words, count, inverse_temperature, scores);
        }
        const std::size_t end = (count + kLanes - 1) / kLanes * kLanes;
        std::fill(scores + count, scores + end, -std::numeric_limits<float>::infinity());
        const float found = largest(scores, end);
        if (!(found > best.score)) continue;
        const float* first = std::find(scores, scores + count, found);
        best = {static_cast<std::uint32_t>(t + (first - scores)), *first};
    }
    return best;
}

}  // namespace primed
