// Rounding to bf16 for Python, see native/rounding.py.
#include <vector>

#include "average.h"
#include "bindings.h"

namespace primed {
namespace {

void round_array(Array<const float, 1> values, Array<std::uint16_t, 1> out) {
    if (values.shape(0) != out.shape(0)) throw nb::value_error("values and out differ in length");
    nb::gil_scoped_release released;
    round_to_bf16(values.data(), values.shape(0), out.data());
}

void average_arrays(nb::list rows, Array<const double, 1> weights, Array<std::uint16_t, 1> out) {
    if (!rows.size() || rows.size() != weights.shape(0))
        throw nb::value_error("there is not one weight for each of at least one row");
    std::vector<Array<const std::uint16_t, 1>> arrays;
    std::vector<const std::uint16_t*> data;
    for (nb::handle row : rows) {
        arrays.push_back(nb::cast<Array<const std::uint16_t, 1>>(row));
        if (arrays.back().shape(0) != out.shape(0))
            throw nb::value_error("rows and out differ in length");
        data.push_back(arrays.back().data());
    }
    nb::gil_scoped_release released;
    average_bf16(data.data(), weights.data(), data.size(), out.shape(0), out.data());
}

}  // namespace

void bind_average(nb::module_& m) {
    m.def("bf16_of", &round_array, nb::arg("values"), nb::arg("out").noconvert());
    m.def("average_bf16", &average_arrays, nb::arg("rows"), nb::arg("weights"),
          nb::arg("out").noconvert());
}

}  // namespace primed
