// TOPLOC proofs for Python, see native/proofs.py.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "bindings.h"
#include "field.h"
#include "parallel.h"
#include "toploc.h"

namespace primed {
namespace {

using AnyChunk = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// A chunk of 16-bit patterns: uint16, float16 or bfloat16 [n, H]. Throws ValueError.
toploc::Bits bits_of(const AnyChunk& chunk) {
    const auto type = chunk.dtype();
    const auto code = static_cast<nb::dlpack::dtype_code>(type.code);
    const bool known = code == nb::dlpack::dtype_code::UInt ||
                       code == nb::dlpack::dtype_code::Float ||
                       code == nb::dlpack::dtype_code::Bfloat;
    if (type.bits != 16 || type.lanes != 1 || !known)
        throw nb::value_error("a chunk is not uint16, float16 or bfloat16");
    if (chunk.size() == 0 || chunk.size() > toploc::kElementsMax)
        throw nb::value_error("a chunk has no elements or too many");
    return {static_cast<const std::uint16_t*>(chunk.data()), chunk.size()};
}

// Keeps the arrays alive while the kernels read them. The lists are native/proofs.py's own.
struct Chunks {
    std::vector<AnyChunk> arrays;
    std::vector<toploc::Bits> bits;

    explicit Chunks(const nb::list& chunks) {
        for (nb::handle chunk : chunks) {
            AnyChunk array;
            if (!nb::try_cast(chunk, array, false))  // never a copy
                throw nb::value_error("a chunk is not a contiguous [n, H] array in CPU memory");
            bits.push_back(bits_of(array));
            arrays.push_back(std::move(array));
        }
    }
};

void check_k(std::size_t k) {
    if (k < 1 || k > toploc::kTopMax) throw nb::value_error("k is out of range");
}

nb::list build(const nb::list& sequence, std::size_t k, std::size_t threads) {
    check_k(k);
    const Chunks chunks(sequence);
    nb::list proofs;
    std::vector<std::uint8_t*> out;
    for (const toploc::Bits bits : chunks.bits) {
        const auto size = static_cast<Py_ssize_t>(toploc::proof_bytes(bits.size(), k));
        nb::object proof = nb::steal(PyBytes_FromStringAndSize(nullptr, size));
        if (!proof.is_valid()) throw nb::python_error();
        out.push_back(reinterpret_cast<std::uint8_t*>(PyBytes_AS_STRING(proof.ptr())));
        proofs.append(proof);
    }
    std::atomic<bool> failed{false};
    {
        nb::gil_scoped_release released;
        parallel<toploc::Workspace>(out.size(), threads, [&](std::size_t i, auto& workspace) {
            if (!toploc::build(chunks.bits[i], k, workspace, out[i])) failed = true;
        });
    }
    if (failed) throw nb::value_error("no modulus keeps the top places apart");
    return proofs;
}

std::vector<toploc::Bytes> bytes_of(const nb::list& sequence, std::size_t count) {
    std::vector<toploc::Bytes> found;
    for (nb::handle item : sequence) {
        if (!PyBytes_Check(item.ptr())) throw nb::value_error("a proof is not bytes");
        found.emplace_back(reinterpret_cast<const std::uint8_t*>(PyBytes_AS_STRING(item.ptr())),
                           static_cast<std::size_t>(PyBytes_GET_SIZE(item.ptr())));
    }
    if (found.size() != count) throw nb::value_error("not one proof a chunk");
    return found;
}

void score(const nb::list& sequence, const nb::list& proofs, const nb::list& others, std::size_t k,
           std::uint16_t cap, std::size_t threads, Array<std::int64_t, 2> out) {
    check_k(k);
    if (cap < 1 || cap > 0x7fff) throw nb::value_error("cap is out of range");
    const Chunks chunks(sequence);
    const std::size_t count = chunks.bits.size();
    const auto own = bytes_of(proofs, count), foreign = bytes_of(others, count);
    constexpr std::size_t kColumns = sizeof(toploc::Score) / sizeof(std::int64_t);
    if (out.shape(0) != count || out.shape(1) != kColumns)
        throw nb::value_error("out is not [chunks, columns]");
    nb::gil_scoped_release released;
    parallel<toploc::Workspace>(count, threads, [&](std::size_t i, auto& workspace) {
        const toploc::Score found =
            toploc::score(chunks.bits[i], own[i], foreign[i], k, cap, workspace);
        std::memcpy(out.data() + i * kColumns, &found, sizeof found);
    });
}

// Filled in the order of the magnitudes; both have min(k, elements) places.
void top(const AnyChunk& chunk, Array<std::int64_t, 1> indices, Array<std::uint16_t, 1> values) {
    const toploc::Bits bits = bits_of(chunk);
    const std::size_t k = indices.shape(0);
    check_k(k);
    if (k > bits.size() || values.shape(0) != k) throw nb::value_error("out has another length");
    nb::gil_scoped_release released;
    toploc::Workspace workspace;
    toploc::select_top(bits, k, workspace);
    auto& places = workspace.top.indices;
    std::stable_sort(places.begin(), places.end(), [&](std::uint32_t a, std::uint32_t b) {
        return (bits[a] & 0x7fff) > (bits[b] & 0x7fff);
    });
    for (std::size_t i = 0; i < k; ++i) {
        indices.data()[i] = places[i];
        values.data()[i] = bits[places[i]];
    }
}

void evaluate(Array<const std::uint16_t, 1> coefficients, Array<const std::uint16_t, 1> x,
              Array<std::uint16_t, 1> out) {
    if (x.shape(0) != out.shape(0)) throw nb::value_error("x and out differ in length");
    const std::span stated(coefficients.data(), coefficients.shape(0));
    const std::span places(x.data(), x.shape(0));
    const auto below = [](std::uint16_t value) { return value < field::kPrime; };
    if (!std::all_of(stated.begin(), stated.end(), below) ||
        !std::all_of(places.begin(), places.end(), below))
        throw nb::value_error("a number is not below the prime");
    nb::gil_scoped_release released;
    toploc::evaluate(stated, places, out.data());
}

}  // namespace

void bind_toploc(nb::module_& m) {
    m.def("toploc_build", &build, nb::arg("chunks"), nb::arg("k"), nb::arg("threads"));
    m.def("toploc_score", &score, nb::arg("chunks"), nb::arg("proofs"), nb::arg("others"),
          nb::arg("k"), nb::arg("cap"), nb::arg("threads"), nb::arg("out").noconvert());
    m.def("toploc_top", &top, nb::arg("chunk").noconvert(), nb::arg("indices").noconvert(),
          nb::arg("values").noconvert());
    m.def("toploc_evaluate", &evaluate, nb::arg("coefficients"), nb::arg("x"),
          nb::arg("out").noconvert());
}

}  // namespace primed
