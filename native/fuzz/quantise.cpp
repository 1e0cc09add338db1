// fuzz_quantise [seconds] [seed]: any numbers into the encoders, damaged and random bytes into the
// decoders, in buffers of exactly their size; and the averages of any bits.
#include "quantise.h"

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "average.h"

namespace {

using Random = std::mt19937_64;

std::vector<float> some_numbers(Random& random, std::size_t count) {
    std::vector<float> numbers(count);
    const bool any = random() % 4 == 0;
    for (auto& number : numbers) {
        const auto word = static_cast<std::uint32_t>(random());
        if (any) std::memcpy(&number, &word, sizeof number);
        else number = static_cast<float>(static_cast<std::int32_t>(word)) * 1e-12f;
    }
    return numbers;
}

void decode(int bits, const std::vector<std::uint8_t>& data, std::size_t count) {
    if (!primed::is_quantised(bits, data.data(), count)) return;
    std::vector<float> out(count);
    primed::dequantise(bits, data.data(), count, out.data());
    for (const float number : out)
        if (!std::isfinite(number)) std::abort();
    primed::accumulate(bits, data.data(), count, out.data());
}

void round(Random& random) {
    const int bits = 1 << (1 + random() % 3);
    const std::size_t count = random() % 300;
    const auto numbers = some_numbers(random, count);
    std::vector<std::uint8_t> data(primed::quantised_bytes(bits, count));
    if (primed::quantise(bits, numbers.data(), count, data.data()) &&
        !primed::is_quantised(bits, data.data(), count))
        std::abort();
    decode(bits, data, count);
    for (auto times = random() % 3; times && !data.empty(); --times)
        data[random() % data.size()] = static_cast<std::uint8_t>(random());
    decode(bits, data, count);

    std::vector<std::uint16_t> one(count), two(count), out(count);
    primed::round_to_bf16(numbers.data(), count, one.data());
    for (auto& bits16 : two) bits16 = static_cast<std::uint16_t>(random());
    const std::uint16_t* rows[] = {one.data(), two.data(), one.data()};
    const double weights[] = {0.25, 0.5, 0.25};
    primed::average_bf16(rows, weights, 1 + random() % 3, count, out.data());
}

}  // namespace

int main(int count, char** arguments) {
    const std::chrono::seconds time(count > 1 ? std::atoi(arguments[1]) : 5);
    Random random(count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1);
    const auto end = std::chrono::steady_clock::now() + time;
    long rounds = 0;
    for (; std::chrono::steady_clock::now() < end; ++rounds) round(random);
    std::printf("quantise: %ld rounds\n", rounds);
}
