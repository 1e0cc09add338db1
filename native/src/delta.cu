// Weight deltas on a CUDA device: the device finds the changes and their ranks, or puts them into
// place; the host reads and writes the bytes with the code of delta.cpp.
//
// A warp owns a tile of 1,024 weights. Counting the classes of every tile and adding up over the
// tiles before gives each weight's rank: how many of its class come before it.
#include "delta.h"
#include "device.cuh"
#include "weights_cuda.h"

namespace primed {
namespace {

constexpr unsigned kTile = 1024;
constexpr unsigned kWarps = 4;  // of one thread block
constexpr unsigned kAll = 0xffffffffu;
constexpr unsigned kClasses = kDeltaClasses;

__device__ std::size_t tile_of_warp() { return std::size_t{blockIdx.x} * kWarps + threadIdx.x / 32; }

// Table [class][tile]: weights of a class in a tile; only changed ones if there are new weights.
__global__ void count_tiles(const std::uint16_t* old_weights, const std::uint16_t* new_weights,
                            std::size_t count, std::size_t tiles, std::uint32_t* table) {
    __shared__ std::uint32_t counts[kWarps][kClasses];
    std::uint32_t* mine = counts[threadIdx.x / 32];
    const unsigned lane = threadIdx.x % 32;
    const std::size_t tile = tile_of_warp();
    for (unsigned c = lane; c < kClasses; c += 32) mine[c] = 0;
    __syncwarp();
    for (unsigned k = lane; k < kTile; k += 32) {
        const std::size_t i = tile * kTile + k;
        if (i < count && (!new_weights || old_weights[i] != new_weights[i]))
            atomicAdd(&mine[class_of(old_weights[i])], 1u);
    }
    __syncwarp();
    if (tile < tiles)
        for (unsigned c = lane; c < kClasses; c += 32) table[c * tiles + tile] = mine[c];
}

// One thread block a class: the sums over all tiles before replace the counts.
__global__ void add_up_tiles(std::size_t tiles, std::uint32_t* table, std::uint32_t* totals) {
    constexpr unsigned kThreads = 256;
    __shared__ std::uint32_t sums[kThreads];
    std::uint32_t* row = table + blockIdx.x * tiles;
    const std::size_t each = (tiles + kThreads - 1) / kThreads;
    const std::size_t begin = min(threadIdx.x * each, tiles), end = min(begin + each, tiles);
    std::uint32_t sum = 0;
    for (std::size_t t = begin; t < end; ++t) sum += row[t];
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (unsigned distance = 1; distance < kThreads; distance *= 2) {
        const std::uint32_t left = threadIdx.x >= distance ? sums[threadIdx.x - distance] : 0;
        __syncthreads();
        sums[threadIdx.x] += left;
        __syncthreads();
    }
    std::uint32_t before = sums[threadIdx.x] - sum;
    for (std::size_t t = begin; t < end; ++t) {
        const std::uint32_t own = row[t];
        row[t] = before;
        before += own;
    }
    if (threadIdx.x == kThreads - 1) totals[blockIdx.x] = sums[kThreads - 1];
}

// seen, changed: sums over the tiles before; starts: where the changes of a class begin.
__global__ void gather_changes(const std::uint16_t* old_weights, const std::uint16_t* new_weights,
                               std::size_t count, std::size_t tiles, const std::uint32_t* seen,
                               const std::uint32_t* changed, const std::uint32_t* starts,
                               std::uint32_t* ranks, std::uint16_t* steps) {
    __shared__ std::uint32_t next_rank[kWarps][kClasses], next_place[kWarps][kClasses];
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const std::size_t tile = tile_of_warp();
    if (tile >= tiles) return;
    for (unsigned c = lane; c < kClasses; c += 32) {
        next_rank[warp][c] = seen[c * tiles + tile];
        next_place[warp][c] = starts[c] + changed[c * tiles + tile];
    }
    __syncwarp();
    const unsigned before = (1u << lane) - 1;
    for (unsigned k = 0; k < kTile; k += 32) {
        const std::size_t i = tile * kTile + k + lane;
        const bool is_there = i < count;
        const std::uint16_t old_weight = is_there ? old_weights[i] : 0;
        const std::uint16_t new_weight = is_there ? new_weights[i] : 0;
        const unsigned c = is_there ? class_of(old_weight) : kClasses;  // its own, beyond the end
        const unsigned same = __match_any_sync(kAll, c);
        const unsigned moved = same & __ballot_sync(kAll, old_weight != new_weight);
        std::uint32_t rank = 0, place = 0;
        if (is_there) {
            rank = next_rank[warp][c] + __popc(same & before);
            place = next_place[warp][c] + __popc(moved & before);
        }
        __syncwarp();
        if (is_there && !(same & before)) {  // the first of its class counts for all
            next_rank[warp][c] += __popc(same);
            next_place[warp][c] += __popc(moved);
        }
        __syncwarp();
        if (old_weight != new_weight) {
            ranks[place] = rank;
            steps[place] = static_cast<std::uint16_t>(ordered(new_weight) - ordered(old_weight));
        }
    }
}

// The last index at which a sorted array is not above a value; array[0] is not.
__device__ std::size_t last_not_above(const std::uint32_t* array, std::size_t size,
                                      std::uint32_t value) {
    std::size_t low = 0, high = size;
    while (high - low > 1) {
        const std::size_t middle = (low + high) / 2;
        (array[middle] <= value ? low : high) = middle;
    }
    return low;
}

// One warp a change: find its class, its tile, and in the tile the weight of its rank.
__global__ void scatter_changes(const std::uint16_t* old_weights, std::size_t count,
                                std::size_t tiles, const std::uint32_t* seen,
                                const std::uint32_t* starts, const std::uint32_t* ranks,
                                const std::uint16_t* steps, std::uint32_t changes,
                                std::uint16_t* out) {
    const std::size_t change = tile_of_warp();
    if (change >= changes) return;
    const unsigned lane = threadIdx.x % 32;
    const auto c = static_cast<unsigned>(
        last_not_above(starts, kClasses, static_cast<std::uint32_t>(change)));
    const std::uint32_t* row = seen + c * tiles;
    const std::size_t tile = last_not_above(row, tiles, ranks[change]);
    std::uint32_t left = ranks[change] - row[tile];
    for (unsigned k = 0; k < kTile; k += 32) {
        const std::size_t i = tile * kTile + k + lane;
        unsigned found = __ballot_sync(kAll, i < count && class_of(old_weights[i]) == c);
        const auto here = static_cast<std::uint32_t>(__popc(found));
        if (left >= here) {
            left -= here;
            continue;
        }
        for (; left; --left) found &= found - 1;
        if (static_cast<int>(lane) == __ffs(static_cast<int>(found)) - 1)
            out[i] = unordered(static_cast<std::uint16_t>(ordered(old_weights[i]) + steps[change]));
        return;
    }
}

using Counts = std::array<std::uint32_t, kDeltaClasses>;

// For every class and tile, the weights (or changes) in the tiles before; and in all.
class TileTable {
  public:
    TileTable(const std::uint16_t* old_weights, const std::uint16_t* new_weights,
              std::size_t count, cudaStream_t stream)
        : tiles((count + kTile - 1) / kTile), table_(kClasses * tiles, stream),
          totals_(kClasses, stream) {
        count_tiles<<<blocks_for(tiles, kWarps), 32 * kWarps, 0, stream>>>(
            old_weights, new_weights, count, tiles, table_.get());
        add_up_tiles<<<kClasses, 256, 0, stream>>>(tiles, table_.get(), totals_.get());
        check(cudaGetLastError());
    }

    void totals_to(Counts& host) const { totals_.copy_to(host.data(), host.size()); }
    const std::uint32_t* get() const { return table_.get(); }

    const std::size_t tiles;

  private:
    DeviceArray<std::uint32_t> table_, totals_;
};

Counts starts_of(const Counts& counts) {
    Counts starts{};
    for (std::size_t c = 1; c < counts.size(); ++c) starts[c] = starts[c - 1] + counts[c - 1];
    return starts;
}

}  // namespace

Changes changes_between_cuda(const std::uint16_t* old_weights, const std::uint16_t* new_weights,
                             std::size_t count, void* stream) {
    Changes changes;
    if (!count) return changes;
    const cudaStream_t on = as_stream(stream);
    const TileTable seen(old_weights, nullptr, count, on);
    const TileTable changed(old_weights, new_weights, count, on);
    changed.totals_to(changes.counts);
    check(cudaStreamSynchronize(on));
    const Counts starts = starts_of(changes.counts);
    const std::size_t total = starts.back() + changes.counts.back();
    changes.ranks.resize(total);
    changes.steps.resize(total);
    if (!total) return changes;
    DeviceArray<std::uint32_t> device_starts(kClasses, on), ranks(total, on);
    DeviceArray<std::uint16_t> steps(total, on);
    device_starts.copy_from(starts.data(), starts.size());
    gather_changes<<<blocks_for(seen.tiles, kWarps), 32 * kWarps, 0, on>>>(
        old_weights, new_weights, count, seen.tiles, seen.get(), changed.get(),
        device_starts.get(), ranks.get(), steps.get());
    check(cudaGetLastError());
    ranks.copy_to(changes.ranks.data(), total);
    steps.copy_to(changes.steps.data(), total);
    check(cudaStreamSynchronize(on));
    return changes;
}

const char* apply_changes_cuda(const std::uint16_t* old_weights, std::size_t count,
                               const Changes& host_changes, std::uint16_t* out, void* stream) {
    if (!count) return nullptr;
    const cudaStream_t on = as_stream(stream);
    check(cudaMemcpyAsync(out, old_weights, count * sizeof *out, cudaMemcpyDeviceToDevice, on));
    const std::size_t total = host_changes.ranks.size();
    if (!total) return nullptr;
    const TileTable seen(old_weights, nullptr, count, on);
    Counts sizes;
    seen.totals_to(sizes);
    check(cudaStreamSynchronize(on));
    const Counts starts = starts_of(host_changes.counts);
    for (std::size_t c = 0; c < kDeltaClasses; ++c) {
        const std::uint32_t changed = host_changes.counts[c];
        if (changed && host_changes.ranks[starts[c] + changed - 1] >= sizes[c])
            return "a change lies outside its chunk";
    }
    DeviceArray<std::uint32_t> device_starts(kClasses, on), ranks(total, on);
    DeviceArray<std::uint16_t> steps(total, on);
    device_starts.copy_from(starts.data(), starts.size());
    ranks.copy_from(host_changes.ranks.data(), total);
    steps.copy_from(host_changes.steps.data(), total);
    scatter_changes<<<blocks_for(total, kWarps), 32 * kWarps, 0, on>>>(
        old_weights, count, seen.tiles, seen.get(), device_starts.get(), ranks.get(), steps.get(),
        static_cast<std::uint32_t>(total), out);
    check(cudaGetLastError());
    check(cudaStreamSynchronize(on));  // the host's arrays may go once it has been read
    return nullptr;
}

}  // namespace primed
