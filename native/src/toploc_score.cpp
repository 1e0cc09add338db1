// Scoring a proof: strict decoder, then distances at the verifier's own top places and outside them.
#include <algorithm>

#include "clones.h"
#include "field.h"
#include "toploc.h"

namespace primed::toploc {
namespace {

constexpr std::uint16_t kMagnitude = 0x7fff;

// u16 distance of two patterns: of the magnitudes, at most the cap; the cap if the signs differ.
PRIMED_INLINE std::uint16_t distance(std::uint16_t a, std::uint16_t b, std::uint16_t cap) {
    const auto x = static_cast<std::uint16_t>(a & kMagnitude);
    const auto y = static_cast<std::uint16_t>(b & kMagnitude);
    const auto apart = static_cast<std::uint16_t>(x > y ? x - y : y - x);
    const std::uint16_t capped = apart < cap ? apart : cap;
    return ((a ^ b) & 0x8000) != 0 ? cap : capped;
}

PRIMED_CLONES std::int64_t distance_sum(const std::uint16_t* a, const std::uint16_t* b,
                                        std::size_t count, std::uint16_t cap) {
    std::uint32_t total = 0;  // count <= 32748 and cap <= 32767: below 2^32
    for (std::size_t i = 0; i < count; ++i) total += distance(a[i], b[i], cap);
    return total;
}

// The smallest distance of any constant. Between two own values the sum is linear or concave, so
// that one of them is the best.
PRIMED_CLONES std::int64_t constant_sum(const std::uint16_t* own, std::size_t count,
                                        std::uint16_t cap) {
    std::uint32_t best = UINT32_MAX;
    for (std::size_t c = 0; c < count; ++c) {
        std::uint32_t total = 0;
        for (std::size_t i = 0; i < count; ++i) total += distance(own[i], own[c], cap);
        best = total < best ? total : best;
    }
    return best;
}

std::int64_t sign_errors(std::span<const std::uint16_t> a, std::span<const std::uint16_t> b) {
    std::int64_t errors = 0;
    for (std::size_t i = 0; i < a.size(); ++i) errors += (a[i] ^ b[i]) >> 15;
    return errors;
}

struct Decoded {
    std::uint16_t modulus = 0;
    std::span<const std::uint16_t> coefficients;
};

std::uint16_t number(Bytes bytes, std::size_t at) {
    return static_cast<std::uint16_t>(bytes[at] << 8 | bytes[at + 1]);
}

// Any proof of a chunk of unknown size whose modulus is at least `lowest`.
Status decode(Bytes bytes, std::uint16_t lowest, std::vector<std::uint16_t>& storage,
              Decoded& decoded) {
    if (bytes.size() < 4 || bytes.size() % 2 || bytes.size() > 2 + 2 * kTopMax) return kWrongLength;
    decoded.modulus = number(bytes, 0);
    if (decoded.modulus < lowest || decoded.modulus > field::kPrime) return kWrongModulus;
    storage.clear();
    for (std::size_t at = 2; at < bytes.size(); at += 2) storage.push_back(number(bytes, at));
    decoded.coefficients = storage;
    const std::uint16_t largest = *std::max_element(storage.begin(), storage.end());
    return largest < field::kPrime ? kGood : kWrongCoefficient;
}

// The proof's values at the places.
void stated_at(const Decoded& proof, std::span<const std::uint32_t> places,
               std::vector<std::uint16_t>& residues, std::vector<std::uint16_t>& values) {
    residues.resize(places.size());
    values.resize(places.size());
    for (std::size_t i = 0; i < places.size(); ++i)
        residues[i] = static_cast<std::uint16_t>(places[i] % proof.modulus);
    evaluate(proof.coefficients, residues, values.data());
}

// Evenly spread places whose residue no top place has.
void spread_places(std::size_t elements, std::span<const std::uint16_t> top_residues,
                   std::uint16_t modulus, std::vector<std::uint64_t>& seen,
                   std::vector<std::uint32_t>& places) {
    for (std::uint16_t residue : top_residues)
        seen[residue / 64] |= std::uint64_t{1} << residue % 64;
    const std::size_t count = top_residues.size(), stride = elements / count;
    places.clear();
    for (std::size_t i = 0; i < count; ++i) {
        const auto place = static_cast<std::uint32_t>(i * stride + stride / 2);
        if ((seen[place % modulus / 64] >> place % modulus % 64 & 1) == 0) places.push_back(place);
    }
    for (std::uint16_t residue : top_residues) seen[residue / 64] = 0;
}

// Outside the top an honest polynomial gives any number; one that looks like a top value
// everywhere was not made from the chunk.
void test_offset(std::size_t elements, const Decoded& proof, std::uint16_t cap,
                 Workspace& workspace, Score& score) {
    const auto& own = workspace.own;
    if (elements - own.size() < kOffsetShare * own.size()) return;
    std::uint16_t low = kMagnitude, high = 0;
    for (std::uint16_t value : own) {
        low = std::min<std::uint16_t>(low, value & kMagnitude);
        high = std::max<std::uint16_t>(high, value & kMagnitude);
    }
    if (high - low > kOffsetWindowMax) return;
    // the residues of the top are still in workspace.residues
    spread_places(elements, workspace.residues, proof.modulus, workspace.seen, workspace.places);
    stated_at(proof, workspace.places, workspace.residues, workspace.stated);
    score.offset_places = static_cast<std::int64_t>(workspace.places.size());
    for (std::uint16_t value : workspace.stated) {
        const int magnitude = value & kMagnitude;
        score.offset_plausible += magnitude >= low - cap && magnitude <= high + cap;
    }
}

}  // namespace

Score score(Bits chunk, Bytes bytes, Bytes other, std::size_t k, std::uint16_t cap,
            Workspace& workspace) {
    Score score{};
    score.status = kWrongLength;
    if (bytes.size() != proof_bytes(chunk.size(), k)) return score;
    Decoded proof, replayed;
    const std::uint16_t lowest = chunk.size() <= field::kPrime ? field::kPrime : kModulusMin;
    score.status = decode(bytes, lowest, workspace.coefficients, proof);
    if (score.status != kGood) return score;
    select_top(chunk, k, workspace);
    const Top& top = workspace.top;
    auto& own = workspace.own;
    own.resize(top.values.size());
    for (std::size_t i = 0; i < own.size(); ++i)  // as far as a proof can say it
        own[i] = static_cast<std::uint16_t>(top.values[i] % field::kPrime);
    stated_at(proof, top.indices, workspace.residues, workspace.stated);
    score.values = static_cast<std::int64_t>(own.size());
    score.sign_errors = sign_errors(own, workspace.stated);
    score.distance_sum = distance_sum(own.data(), workspace.stated.data(), own.size(), cap);
    test_offset(chunk.size(), proof, cap, workspace, score);
    score.constant_sum = constant_sum(own.data(), own.size(), cap);
    score.replay_sum = score.values * cap;
    if (decode(other, kModulusMin, workspace.coefficients, replayed) != kGood) return score;
    stated_at(replayed, top.indices, workspace.residues, workspace.stated);
    score.replay_sum = distance_sum(own.data(), workspace.stated.data(), own.size(), cap);
    return score;
}

}  // namespace primed::toploc
