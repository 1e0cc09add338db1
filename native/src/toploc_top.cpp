// The k largest magnitudes of a chunk in about one read of it: the k-th largest of the maxima of
// blocks bounds the k-th largest element from below, so only the few blocks that reach that bound
// are looked at again.
#include <algorithm>
#include <bit>
#include <cstring>

#include "toploc.h"
#include "clones.h"

static_assert(std::endian::native == std::endian::little, "four patterns a word, lowest first");

namespace primed::toploc {
namespace {

constexpr std::size_t kBlock = 128;
constexpr std::uint16_t kMagnitude = 0x7fff;

std::uint16_t magnitude(std::uint16_t bits) { return bits & kMagnitude; }

// The minimum of the complements: x86 has one instruction for the minimum of eight u16.
PRIMED_CLONES void block_maxima(const std::uint16_t* bits, std::size_t blocks,
                                std::uint16_t* maxima) {
    for (std::size_t b = 0; b < blocks; ++b) {
        std::uint16_t lowest = kMagnitude;
        for (std::size_t i = 0; i < kBlock; ++i) {
            const auto complement = static_cast<std::uint16_t>(~bits[b * kBlock + i] & kMagnitude);
            lowest = complement < lowest ? complement : lowest;
        }
        maxima[b] = kMagnitude - lowest;
    }
}

PRIMED_CLONES std::size_t count_from(const std::uint16_t* values, std::size_t count,
                                     std::uint16_t lowest) {
    constexpr std::size_t kPart = 1 << 15;  // counts of a part fit in 16 bits
    std::size_t found = 0;
    for (std::size_t at = 0; at < count; at += kPart) {
        const std::size_t end = count - at < kPart ? count : at + kPart;
        std::uint16_t part = 0;
        for (std::size_t i = at; i < end; ++i) part += values[i] >= lowest;
        found += part;
    }
    return found;
}

// The place of the only element of a block that reaches the bound; kBlock if there are several.
PRIMED_CLONES std::size_t only_from(const std::uint16_t* bits, std::uint16_t bound) {
    std::uint16_t places = 0;  // 256 each and their sum: one gives 256..383
    for (std::uint16_t i = 0; i < kBlock; ++i)
        places += (bits[i] & kMagnitude) >= bound ? static_cast<std::uint16_t>(256 + i) : 0;
    return places < 256 + kBlock ? places - 256 : kBlock;
}

PRIMED_CLONES void magnitudes_of(const std::uint16_t* bits, std::size_t count,
                                 std::uint16_t* magnitudes) {
    for (std::size_t i = 0; i < count; ++i) magnitudes[i] = bits[i] & kMagnitude;
}

// The k-th largest of the values (15 bits), bit by bit.
std::uint16_t kth_largest(const std::vector<std::uint16_t>& values, std::size_t k) {
    std::uint16_t bound = 0;
    for (int bit = 14; bit >= 0; --bit) {
        const auto higher = static_cast<std::uint16_t>(bound | 1 << bit);
        if (count_from(values.data(), values.size(), higher) >= k) bound = higher;
    }
    return bound;
}

// Appends what reaches `bound` in [begin, end); of equal ones only the first `ties`, which suffice.
class Collector {
  public:
    Collector(Bits chunk, std::uint16_t bound, std::size_t ties, Workspace& workspace)
        : chunk_(chunk), bound_(bound), ties_(ties), workspace_(workspace) {
        workspace.candidates.clear();
        workspace.candidate_indices.clear();
    }

    // A block that reaches the bound; most do so once.
    void scan_block(std::size_t begin) {
        const std::size_t only = only_from(&chunk_[begin], bound_);
        if (only < kBlock)
            add(begin + only);
        else
            scan(begin, begin + kBlock);
    }

    void scan(std::size_t begin, std::size_t end) {
        constexpr std::uint64_t kEach = 0x0001000100010001;
        const std::uint64_t carry = kEach * static_cast<std::uint16_t>(0x8000 - bound_);
        std::size_t at = begin;
        for (; at + 4 <= end; at += 4) {
            std::uint64_t four;
            std::memcpy(&four, &chunk_[at], sizeof four);
            // a lane's top bit is set where its magnitude reaches the bound; no lane overflows
            std::uint64_t hits = ((four & kEach * kMagnitude) + carry) & kEach * 0x8000;
            for (; hits; hits &= hits - 1) add(at + std::countr_zero(hits) / 16);
        }
        for (; at < end; ++at)
            if (magnitude(chunk_[at]) >= bound_) add(at);
    }

  private:
    void add(std::size_t index) {
        const std::uint16_t found = magnitude(chunk_[index]);
        if (found == bound_ && ties_ == 0) return;
        if (found == bound_) --ties_;
        workspace_.candidates.push_back(found);
        workspace_.candidate_indices.push_back(static_cast<std::uint32_t>(index));
    }

    Bits chunk_;
    std::uint16_t bound_;
    std::size_t ties_;
    Workspace& workspace_;
};

void collect(Bits chunk, std::size_t k, Workspace& workspace) {
    const std::size_t blocks = chunk.size() / kBlock, whole = blocks * kBlock;
    auto& maxima = workspace.maxima;
    if (blocks < 2 * k) {  // too few blocks to leave any out
        maxima.resize(chunk.size());
        magnitudes_of(chunk.data(), chunk.size(), maxima.data());
        Collector(chunk, kth_largest(maxima, k), k, workspace).scan(0, chunk.size());
        return;
    }
    maxima.resize(blocks);
    block_maxima(chunk.data(), blocks, maxima.data());
    const std::uint16_t bound = kth_largest(maxima, k);
    Collector collector(chunk, bound, k, workspace);
    for (std::size_t b = 0; b < blocks; ++b)
        if (maxima[b] >= bound) collector.scan_block(b * kBlock);
    collector.scan(whole, chunk.size());
}

}  // namespace

void select_top(Bits chunk, std::size_t k, Workspace& workspace) {
    k = std::min(k, chunk.size());
    collect(chunk, k, workspace);
    const auto& found = workspace.candidates;
    const std::uint16_t last = kth_largest(found, k);
    std::size_t ties = k - count_from(found.data(), found.size(), last + 1);
    Top& top = workspace.top;
    top.indices.clear();
    top.values.clear();
    for (std::size_t i = 0; i < found.size(); ++i) {
        if (found[i] < last || (found[i] == last && ties == 0)) continue;
        if (found[i] == last) --ties;
        top.indices.push_back(workspace.candidate_indices[i]);
        top.values.push_back(chunk[workspace.candidate_indices[i]]);
    }
}

}  // namespace primed::toploc
