// Quantised blocks for Python, see native/quantised.py.
#include "bindings.h"
#include "quantise.h"

namespace primed {
namespace {

using Bytes = Array<std::uint8_t, 1>;
using ConstBytes = Array<const std::uint8_t, 1>;

void check(int bits, std::size_t count, std::size_t bytes) {
    if (bits != 8 && bits != 4 && bits != 2) throw nb::value_error("bits are not 8, 4 or 2");
    if (quantised_bytes(bits, count) != bytes)
        throw nb::value_error("the bytes have another length than the numbers need");
}

bool quantise_array(int bits, Array<const float, 1> values, Bytes out) {
    check(bits, values.shape(0), out.shape(0));
    nb::gil_scoped_release released;
    return quantise(bits, values.data(), values.shape(0), out.data());
}

template <void (*kernel)(int, const std::uint8_t*, std::size_t, float*)>
bool from_bytes(int bits, ConstBytes data, Array<float, 1> out) {
    check(bits, out.shape(0), data.shape(0));
    nb::gil_scoped_release released;
    if (!is_quantised(bits, data.data(), out.shape(0))) return false;
    kernel(bits, data.data(), out.shape(0), out.data());
    return true;
}

}  // namespace

void bind_quantise(nb::module_& m) {
    const auto out = nb::arg("out").noconvert();
    m.def("quantise", &quantise_array, nb::arg("bits"), nb::arg("values"), out);
    m.def("dequantise", &from_bytes<&dequantise>, nb::arg("bits"), nb::arg("data"), out);
    m.def("accumulate", &from_bytes<&accumulate>, nb::arg("bits"), nb::arg("data"), out);
}

}  // namespace primed
