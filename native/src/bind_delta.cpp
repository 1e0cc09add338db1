// Weight deltas for Python, see native/deltas.py.
#include <utility>

#include "bindings.h"
#include "delta.h"

namespace primed {
namespace {

using Weights = Array<const std::uint16_t, 1>;
using WeightsOut = Array<std::uint16_t, 1>;

void check(std::size_t count, std::size_t other) {
    if (count != other) throw nb::value_error("the chunks differ in length");
    if (count > kDeltaWeightsMax) throw nb::value_error("the chunk has too many weights");
}

void check_planes(std::size_t count, std::size_t bytes) {
    if (bytes % 2) throw nb::value_error("half a weight");
    check(count, bytes / 2);
}

nb::tuple encode(Weights old_weights, Weights new_weights) {
    check(old_weights.shape(0), new_weights.shape(0));
    DeltaBytes made;
    {
        nb::gil_scoped_release released;
        made = written(
            changes_between(old_weights.data(), new_weights.data(), old_weights.shape(0)));
    }
    nb::list cuts;
    for (const std::uint32_t cut : made.cuts) cuts.append(cut);
    return nb::make_tuple(nb::bytes(made.bytes.data(), made.bytes.size()), cuts);
}

void apply(Weights old_weights, Array<const std::uint8_t, 1> data, WeightsOut out) {
    check(old_weights.shape(0), out.shape(0));
    const char* wrong;
    {
        nb::gil_scoped_release released;
        Changes changes;
        wrong = read_changes(data.data(), data.shape(0), out.shape(0), changes);
        if (!wrong) wrong = apply_changes(old_weights.data(), out.shape(0), changes, out.data());
    }
    if (wrong) throw nb::value_error(wrong);
}

void split(Weights weights, Array<std::uint8_t, 1> out) {
    check_planes(weights.shape(0), out.shape(0));
    nb::gil_scoped_release released;
    split_bf16(weights.data(), weights.shape(0), out.data());
}

void join(Array<const std::uint8_t, 1> planes, WeightsOut out) {
    check_planes(out.shape(0), planes.shape(0));
    nb::gil_scoped_release released;
    join_bf16(planes.data(), out.shape(0), out.data());
}

}  // namespace

void bind_delta(nb::module_& m) {
    const auto out = nb::arg("out").noconvert();
    m.def("delta_encode", &encode, nb::arg("old"), nb::arg("new"));
    m.def("delta_apply", &apply, nb::arg("old"), nb::arg("data"), out);
    m.def("delta_split", &split, nb::arg("weights"), out);
    m.def("delta_join", &join, nb::arg("planes"), out);
}

}  // namespace primed
