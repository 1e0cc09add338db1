// TOPLOC proofs and noise on CUDA devices for Python, see native/cuda_proofs.py. `stream` is the
// number of a cudaStream_t.
#ifdef PRIMED_CUDA
#include <algorithm>

#include "bindings.h"
#include "proofs_cuda.h"
#include "toploc.h"

namespace primed {
namespace {

using AnyRows = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cuda>;
using ProofRows = DeviceView<const std::uint16_t, 2>;
using Seeds = DeviceView<const std::uint64_t, 1>;
using Numbers = DeviceView<const std::uint32_t, 1>;

void* stream_of(std::uintptr_t stream) { return reinterpret_cast<void*>(stream); }

CudaRows rows_of(const AnyRows& rows, std::size_t chunk_rows, std::size_t k) {
    const auto type = rows.dtype();
    const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
    const bool known = code == nb::dlpack::dtype_code::UInt ||
                       code == nb::dlpack::dtype_code::Float ||
                       code == nb::dlpack::dtype_code::Bfloat;
    if (type.bits != 16 || type.lanes != 1 || !known)
        throw nb::value_error("rows are not uint16, float16 or bfloat16");
    if (k < 1 || k > kCudaTopMax) throw nb::value_error("k is out of range");
    const CudaRows found{static_cast<const std::uint16_t*>(rows.data()), rows.shape(0),
                         rows.shape(1), chunk_rows};
    if (!found.rows || !found.width || !chunk_rows || found.rows > toploc::kElementsMax ||
        found.width > toploc::kElementsMax ||
        std::min(found.rows, chunk_rows) > toploc::kElementsMax / found.width)
        throw nb::value_error("a chunk has no elements or too many");
    return found;
}

void check_proofs(std::size_t chunks, std::size_t columns, const CudaRows& rows, std::size_t k) {
    if (chunks != rows.chunks() || columns != 1 + k)
        throw nb::value_error("proofs are not [chunks, 1 + k]");
}

void build(const AnyRows& rows, std::size_t chunk_rows, std::size_t k,
           DeviceView<std::uint16_t, 2> out, std::uintptr_t stream) {
    const CudaRows found = rows_of(rows, chunk_rows, k);
    check_proofs(out.shape(0), out.shape(1), found, k);
    toploc_build_cuda(found, k, out.data(), stream_of(stream));
}

void score(const AnyRows& rows, std::size_t chunk_rows, ProofRows proofs, ProofRows others,
           std::size_t k, std::uint16_t cap, DeviceView<std::int64_t, 2> out,
           std::uintptr_t stream) {
    const CudaRows found = rows_of(rows, chunk_rows, k);
    check_proofs(proofs.shape(0), proofs.shape(1), found, k);
    check_proofs(others.shape(0), others.shape(1), found, k);
    if (cap < 1 || cap > 0x7fff) throw nb::value_error("cap is out of range");
    if (out.shape(0) != found.chunks() || out.shape(1) != sizeof(toploc::Score) / 8)
        throw nb::value_error("out is not [chunks, columns]");
    toploc_score_cuda(found, proofs.data(), others.data(), k, cap, out.data(), stream_of(stream));
}

void check_lengths(std::size_t rows, std::size_t vocabulary, const Seeds& seeds,
                   const Numbers& positions) {
    if (seeds.shape(0) != rows || positions.shape(0) != rows || rows > INT32_MAX)
        throw nb::value_error("seeds, positions and rows differ in length");
    if (vocabulary < 1 || vocabulary > UINT32_MAX) throw nb::value_error("no vocabulary");
}

void noise(Seeds seeds, Numbers positions, DeviceView<float, 2> out, std::uintptr_t stream) {
    check_lengths(out.shape(0), out.shape(1), seeds, positions);
    gumbel_cuda(seeds.data(), positions.data(), out.shape(0), out.shape(1), out.data(),
                stream_of(stream));
}

void choices(DeviceView<const float, 2> logits, Seeds seeds, Numbers positions,
             float inverse_temperature, bool greedy, DeviceView<std::uint32_t, 1> tokens,
             DeviceView<float, 1> scores, std::uintptr_t stream) {
    const std::size_t rows = logits.shape(0);
    check_lengths(rows, logits.shape(1), seeds, positions);
    if (tokens.shape(0) != rows || scores.shape(0) != rows)
        throw nb::value_error("tokens, scores and logits differ in length");
    gumbel_choose_cuda(logits.data(), seeds.data(), positions.data(), rows, logits.shape(1),
                       inverse_temperature, greedy, tokens.data(), scores.data(),
                       stream_of(stream));
}

}  // namespace

void bind_proofs_cuda(nb::module_& m) {
    m.def("toploc_build_cuda", &build, nb::arg("rows").noconvert(), nb::arg("chunk_rows"), nb::arg("k"),
          nb::arg("out").noconvert(), nb::arg("stream"));
    m.def("toploc_score_cuda", &score, nb::arg("rows").noconvert(), nb::arg("chunk_rows"),
          nb::arg("proofs").noconvert(), nb::arg("others").noconvert(), nb::arg("k"),
          nb::arg("cap"), nb::arg("out").noconvert(), nb::arg("stream"));
    m.def("gumbel_cuda", &noise, nb::arg("seeds").noconvert(), nb::arg("positions").noconvert(),
          nb::arg("out").noconvert(), nb::arg("stream"));
    m.def("gumbel_choose_cuda", &choices, nb::arg("logits").noconvert(),
          nb::arg("seeds").noconvert(), nb::arg("positions").noconvert(),
          nb::arg("inverse_temperature"), nb::arg("greedy"), nb::arg("tokens").noconvert(),
          nb::arg("scores").noconvert(), nb::arg("stream"));
}

}  // namespace primed
#endif
