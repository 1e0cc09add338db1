// fuzz_delta [seconds] [seed]: damaged and random bytes into the delta decoder, and round trips, in
// buffers of exactly their size so that the sanitizers see every step outside.
#include "delta.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

namespace {

using primed::Changes;
using Random = std::mt19937_64;

std::vector<std::uint16_t> some_weights(Random& random, std::size_t count) {
    std::vector<std::uint16_t> weights(count);
    const bool few = random() % 2;  // exponents
    for (auto& weight : weights)
        weight = static_cast<std::uint16_t>(few ? 0x3c00 + random() % 300 : random());
    return weights;
}

// Whether the bytes were taken; out then holds the new weights.
bool decode(const std::vector<std::uint8_t>& bytes, const std::vector<std::uint16_t>& old_weights,
            std::vector<std::uint16_t>& out) {
    const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), exact.get());
    Changes changes;
    if (primed::read_changes(exact.get(), bytes.size(), old_weights.size(), changes)) return false;
    out.assign(old_weights.size(), 0);
    return !primed::apply_changes(old_weights.data(), old_weights.size(), changes, out.data());
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
}

void round(Random& random) {
    const auto old_weights = some_weights(random, random() % 700);
    auto new_weights = old_weights;
    const auto share = random() % 100;
    for (auto& weight : new_weights)
        if (random() % 100 < share) weight = static_cast<std::uint16_t>(weight + random() % 600);
    auto bytes = primed::written(
        primed::changes_between(old_weights.data(), new_weights.data(), old_weights.size())).bytes;
    std::vector<std::uint16_t> out;
    if (!decode(bytes, old_weights, out) || out != new_weights) std::abort();
    damage(random, bytes);
    decode(bytes, old_weights, out);
    std::vector<std::uint8_t> noise(random() % 900);
    for (auto& byte : noise) byte = static_cast<std::uint8_t>(random() % 8 ? 0 : random());
    decode(noise, old_weights, out);
    std::vector<std::uint8_t> planes(2 * new_weights.size());
    primed::split_bf16(new_weights.data(), new_weights.size(), planes.data());
    out.resize(new_weights.size());
    primed::join_bf16(planes.data(), new_weights.size(), out.data());
    if (out != new_weights) std::abort();
}

}  // namespace

int main(int count, char** arguments) {
    const std::chrono::seconds time(count > 1 ? std::atoi(arguments[1]) : 5);
    Random random(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
    const auto end = std::chrono::steady_clock::now() + time;
    long rounds = 0;
    for (; std::chrono::steady_clock::now() < end; ++rounds) round(random);
    std::printf("delta: %ld rounds\n", rounds);
}
