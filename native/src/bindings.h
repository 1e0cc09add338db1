// Python border of the compiled kernels: one bind_<topic>.cpp a topic, called by ext.cpp. Arrays in,
// arrays filled, no GIL in between; a wrong shape or type is a Python exception before any work.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace primed {

namespace nb = nanobind;

// A C-contiguous array in CPU memory: NumPy, or a torch tensor by DLPack, without a copy.
template <typename T, std::size_t N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

// The same in the memory of a CUDA device.
template <typename T, std::size_t N>
using DeviceView = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cuda>;

void bind_noise(nb::module_& m);
void bind_toploc(nb::module_& m);
void bind_delta(nb::module_& m);
void bind_average(nb::module_& m);
void bind_quantise(nb::module_& m);
void bind_weights_cuda(nb::module_& m);  // with PRIMED_CUDA
void bind_proofs_cuda(nb::module_& m);   // with PRIMED_CUDA

}  // namespace primed
