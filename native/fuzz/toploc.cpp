// fuzz_toploc [seconds] [seed]: damaged and random proofs into the decoder and score, chunks of any
// bits and sizes into the builder, in buffers of exactly their size so that the sanitizers see every
// step outside. An honest proof must go through its chunk.
#include "toploc.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "gumbel.h"

namespace {

using Random = std::mt19937_64;
using namespace primed::toploc;

constexpr std::uint16_t kCap = 64;

std::vector<std::uint16_t> some_chunk(Random& random) {
    constexpr std::size_t kSizes[] = {1, 2, 127, 128, 129, 640, 3001, 20'000, 131'072};
    std::vector<std::uint16_t> chunk(kSizes[random() % 9] + random() % 3);
    const auto kind = random() % 4;  // any bits, few magnitudes, all equal, close to each other
    for (auto& bits : chunk) {
        if (kind == 0) bits = static_cast<std::uint16_t>(random());
        if (kind == 1) bits = static_cast<std::uint16_t>((random() & 0x8001) | 0x7f80);
        if (kind == 3) bits = static_cast<std::uint16_t>(0x3f80 + random() % 200);
    }
    if (random() % 4 == 0 && chunk.size() > 65'600)  // places that collide under 65497
        chunk[3] = chunk[3 + 65'497] = 0x7fff;
    return chunk;
}

void damage(Random& random, std::vector<std::uint8_t>& bytes) {
    for (auto times = random() % 4; times && !bytes.empty(); --times) {
        const std::size_t at = random() % bytes.size();
        switch (random() % 4) {
            case 0: bytes[at] = static_cast<std::uint8_t>(random()); break;
            case 1: bytes[at] = 255; break;
            case 2: bytes.resize(at); break;
            default: bytes.insert(bytes.begin() + static_cast<long>(at), bytes[at]);
        }
    }
    bytes.shrink_to_fit();
}

void check(const Score& score) {
    const bool sane = score.distance_sum >= 0 && score.distance_sum <= score.values * kCap &&
                      score.sign_errors <= score.values &&
                      score.offset_plausible <= score.offset_places &&
                      score.offset_places <= score.values &&
                      score.constant_sum <= score.values * kCap &&
                      score.replay_sum <= score.values * kCap;
    if (!sane || (score.status != kGood && score.values != 0)) std::abort();
}

void round(Random& random, Workspace& workspace) {
    const auto chunk = some_chunk(random), another = some_chunk(random);
    const std::size_t k = 1 + random() % (random() % 8 ? 140 : 2000);
    std::vector<std::uint8_t> proof(proof_bytes(chunk.size(), k));
    std::vector<std::uint8_t> other(proof_bytes(another.size(), k));
    if (!build(chunk, k, workspace, proof.data()) || !build(another, k, workspace, other.data())) {
        if (k < 200) std::abort();  // no modulus keeps so many places apart
        return;
    }
    const Score honest = score(chunk, proof, other, k, kCap, workspace);
    check(honest);
    // a modulus that only a large k needs is refused by the strict decoder
    if (honest.status == kGood ? honest.distance_sum != 0 : honest.status != kWrongModulus)
        std::abort();
    damage(random, proof);
    damage(random, other);
    check(score(chunk, proof, other, k, kCap, workspace));
    check(score(another, proof, other, k, kCap, workspace));
    std::vector<std::uint8_t> noise(proof_bytes(chunk.size(), k));
    for (auto& byte : noise) byte = static_cast<std::uint8_t>(random());
    noise[0] = 0xff;
    check(score(chunk, noise, other, k, kCap, workspace));
}

void choose_any(Random& random) {
    std::vector<float> logits(1 + random() % 2100);
    for (auto& logit : logits) {
        const auto word = static_cast<std::uint32_t>(random());
        std::memcpy(&logit, &word, sizeof logit);
    }
    const auto best = primed::choose(logits.data(), logits.size(), random(),
                                     static_cast<std::uint32_t>(random()), 1.0f, random() % 2);
    if (best.token >= logits.size() || best.score != best.score) std::abort();
}

}  // namespace

int main(int count, char** arguments) {
    const std::chrono::seconds time(count > 1 ? std::atoi(arguments[1]) : 5);
    Random random(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
    const auto end = std::chrono::steady_clock::now() + time;
    Workspace workspace;
    long rounds = 0;
    for (; std::chrono::steady_clock::now() < end; ++rounds) {
        round(random, workspace);
        choose_any(random);
    }
    std::printf("toploc: %ld rounds\n", rounds);
}
