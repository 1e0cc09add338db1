// Noise for Python, see native/noise.py.
#include "bindings.h"
#include "gumbel.h"

namespace primed {
namespace {

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

}  // namespace

void bind_noise(nb::module_& m) {
    m.def("gumbel", &noise, nb::arg("seeds"), nb::arg("positions"), nb::arg("out").noconvert());
    m.def("gumbel_of_words", &noise_of_words, nb::arg("words"), nb::arg("out").noconvert());
}

}  // namespace primed
