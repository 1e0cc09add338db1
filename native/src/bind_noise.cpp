// Noise for Python, see native/noise.py.
#include "bindings.h"
#include "gumbel.h"
#include "parallel.h"

namespace primed {
namespace {

struct Nothing {};  // the scratch of a thread that needs none

void noise(Array<const std::uint64_t, 1> seeds, Array<const std::uint32_t, 1> positions,
           Array<float, 2> out) {
    if (seeds.shape(0) != positions.shape(0) || seeds.shape(0) != out.shape(0))
        throw nb::value_error("seeds, positions and out differ in length");
    nb::gil_scoped_release released;
    gumbel(seeds.data(), positions.data(), out.shape(0), out.shape(1), out.data());
}

void noise_of_words(Array<const std::uint32_t, 1> words, Array<float, 1> out) {
    if (words.shape(0) != out.shape(0)) throw nb::value_error("words and out differ in length");
    nb::gil_scoped_release released;
    gumbel_of_words(words.data(), words.shape(0), out.data());
}

void choices(Array<const float, 2> logits, Array<const std::uint64_t, 1> seeds,
             Array<const std::uint32_t, 1> positions, float inverse_temperature, bool greedy,
             std::size_t threads, Array<std::uint32_t, 1> tokens, Array<float, 1> scores) {
    const std::size_t rows = logits.shape(0), vocabulary = logits.shape(1);
    if (seeds.shape(0) != rows || positions.shape(0) != rows || tokens.shape(0) != rows ||
        scores.shape(0) != rows)
        throw nb::value_error("logits, seeds, positions, tokens and scores differ in length");
    if (vocabulary < 1 || vocabulary > UINT32_MAX) throw nb::value_error("no vocabulary");
    nb::gil_scoped_release released;
    parallel<Nothing>(rows, threads, [&](std::size_t b, Nothing&) {
        const Choice best = choose(logits.data() + b * vocabulary, vocabulary, seeds.data()[b],
                                   positions.data()[b], inverse_temperature, greedy);
        tokens.data()[b] = best.token;
        scores.data()[b] = best.score;
    });
}

void noise_at(Array<const std::uint64_t, 1> seeds, Array<const std::uint32_t, 1> positions,
              Array<const std::uint32_t, 1> tokens, Array<float, 1> out) {
    const std::size_t rows = out.shape(0);
    if (seeds.shape(0) != rows || positions.shape(0) != rows || tokens.shape(0) != rows)
        throw nb::value_error("seeds, positions, tokens and out differ in length");
    nb::gil_scoped_release released;
    for (std::size_t b = 0; b < rows; ++b)
        out.data()[b] = gumbel_at(seeds.data()[b], positions.data()[b], tokens.data()[b]);
}

}  // namespace

void bind_noise(nb::module_& m) {
    m.def("gumbel", &noise, nb::arg("seeds"), nb::arg("positions"), nb::arg("out").noconvert());
    m.def("gumbel_of_words", &noise_of_words, nb::arg("words"), nb::arg("out").noconvert());
    m.def("gumbel_at", &noise_at, nb::arg("seeds"), nb::arg("positions"), nb::arg("tokens"),
          nb::arg("out").noconvert());
    m.def("gumbel_choose", &choices, nb::arg("logits").noconvert(), nb::arg("seeds"),
          nb::arg("positions"), nb::arg("inverse_temperature"), nb::arg("greedy"),
          nb::arg("threads"), nb::arg("tokens").noconvert(), nb::arg("scores").noconvert());
}

}  // namespace primed
