// Deltas, quantised blocks and rounding on CUDA devices for Python, see native/cuda_weights.py. `stream` is
// the number of a cudaStream_t.
#ifdef PRIMED_CUDA
#include <utility>
#include <vector>

#include "bindings.h"
#include "quantise.h"
#include "weights_cuda.h"

namespace primed {
namespace {

using Weights = DeviceView<const std::uint16_t, 1>;
using WeightsOut = DeviceView<std::uint16_t, 1>;

void* stream_of(std::uintptr_t stream) { return reinterpret_cast<void*>(stream); }

void check_same(std::size_t one, std::size_t other) {
    if (one != other) throw nb::value_error("arrays differ in length");
}

void check_blocks(int bits, std::size_t count, std::size_t bytes) {
    if (bits != 8 && bits != 4 && bits != 2) throw nb::value_error("bits are not 8, 4 or 2");
    if (quantised_bytes(bits, count) != bytes)
        throw nb::value_error("the bytes have another length than the numbers need");
}

void check_chunk(std::size_t count, std::size_t other) {
    check_same(count, other);
    if (count > kDeltaWeightsMax) throw nb::value_error("the chunk has too many weights");
}

void round_array(DeviceView<const float, 1> values, WeightsOut out, std::uintptr_t stream) {
    check_same(values.shape(0), out.shape(0));
    nb::gil_scoped_release released;
    round_to_bf16_cuda(values.data(), values.shape(0), out.data(), stream_of(stream));
}

void average(nb::list rows, Array<const double, 1> weights, WeightsOut out,
             std::uintptr_t stream) {
    if (!rows.size() || rows.size() != weights.shape(0) || rows.size() > kCudaRowsMax)
        throw nb::value_error("there is not one weight for each of 1 to 128 rows");
    std::vector<Weights> arrays;
    std::vector<const std::uint16_t*> data;
    for (nb::handle row : rows) {
        arrays.push_back(nb::cast<Weights>(row));
        check_same(arrays.back().shape(0), out.shape(0));
        data.push_back(arrays.back().data());
    }
    nb::gil_scoped_release released;
    average_bf16_cuda(data.data(), weights.data(), data.size(), out.shape(0), out.data(),
                      stream_of(stream));
}

bool quantise_array(int bits, DeviceView<const float, 1> values, DeviceView<std::uint8_t, 1> out,
                    std::uintptr_t stream) {
    check_blocks(bits, values.shape(0), out.shape(0));
    nb::gil_scoped_release released;
    return quantise_cuda(bits, values.data(), values.shape(0), out.data(), stream_of(stream));
}

bool dequantise_array(int bits, DeviceView<const std::uint8_t, 1> data, DeviceView<float, 1> out,
                      bool adds, std::uintptr_t stream) {
    check_blocks(bits, out.shape(0), data.shape(0));
    nb::gil_scoped_release released;
    if (!is_quantised_cuda(bits, data.data(), out.shape(0), stream_of(stream))) return false;
    dequantise_cuda(bits, data.data(), out.shape(0), out.data(), adds, stream_of(stream));
    return true;
}

nb::tuple encode(Weights old_weights, Weights new_weights, std::uintptr_t stream) {
    check_chunk(old_weights.shape(0), new_weights.shape(0));
    DeltaBytes made;
    {
        nb::gil_scoped_release released;
        made = written(changes_between_cuda(old_weights.data(), new_weights.data(),
                                            old_weights.shape(0), stream_of(stream)));
    }
    nb::list cuts;
    for (const std::uint32_t cut : made.cuts) cuts.append(cut);
    return nb::make_tuple(nb::bytes(made.bytes.data(), made.bytes.size()), cuts);
}

void apply(Weights old_weights, Array<const std::uint8_t, 1> data, WeightsOut out,
           std::uintptr_t stream) {
    check_chunk(old_weights.shape(0), out.shape(0));
    const char* wrong;
    {
        nb::gil_scoped_release released;
        Changes changes;
        wrong = read_changes(data.data(), data.shape(0), out.shape(0), changes);
        if (!wrong)
            wrong = apply_changes_cuda(old_weights.data(), out.shape(0), changes, out.data(),
                                       stream_of(stream));
    }
    if (wrong) throw nb::value_error(wrong);
}

}  // namespace

void bind_weights_cuda(nb::module_& m) {
    const auto out = nb::arg("out").noconvert();
    const auto stream = nb::arg("stream");
    m.def("bf16_of_cuda", &round_array, nb::arg("values"), out, stream);
    m.def("average_bf16_cuda", &average, nb::arg("rows"), nb::arg("weights"), out, stream);
    m.def("quantise_cuda", &quantise_array, nb::arg("bits"), nb::arg("values"), out, stream);
    m.def("dequantise_cuda", &dequantise_array, nb::arg("bits"), nb::arg("data"), out,
          nb::arg("adds"), stream);
    m.def("delta_encode_cuda", &encode, nb::arg("old"), nb::arg("new"), stream);
    m.def("delta_apply_cuda", &apply, nb::arg("old"), nb::arg("data"), out, stream);
}

}  // namespace primed
#endif
