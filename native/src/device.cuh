// What the CUDA kernels of weights share: errors as exceptions, memory that lives on a stream.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

namespace primed {

inline void check(cudaError_t status) {
    if (status != cudaSuccess)
        throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

inline cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

inline unsigned blocks_for(std::size_t items, unsigned a_block) {
    return static_cast<unsigned>((items + a_block - 1) / a_block);
}

// Device memory for `count` values, allocated and given back in the order of the stream.
template <typename T>
class DeviceArray {
  public:
    DeviceArray(std::size_t count, cudaStream_t stream) : stream_(stream) {
        check(cudaMallocAsync(reinterpret_cast<void**>(&data_), (count + 1) * sizeof(T), stream));
    }
    ~DeviceArray() { cudaFreeAsync(data_, stream_); }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;

    T* get() const { return data_; }

    void fill_with_zeros(std::size_t count) {
        check(cudaMemsetAsync(data_, 0, count * sizeof(T), stream_));
    }
    void copy_from(const T* host, std::size_t count) {
        check(cudaMemcpyAsync(data_, host, count * sizeof(T), cudaMemcpyHostToDevice, stream_));
    }
    // The values are there after the stream was waited for.
    void copy_to(T* host, std::size_t count) const {
        check(cudaMemcpyAsync(host, data_, count * sizeof(T), cudaMemcpyDeviceToHost, stream_));
    }

  private:
    T* data_ = nullptr;
    cudaStream_t stream_;
};

}  // namespace primed
