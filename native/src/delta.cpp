// The same results as twins/delta.py. Sorting by exponent is only counting here: a weight's rank is
// how many of its exponent came before it.
#include "delta.h"

#include <algorithm>
#include <cstring>
#include <memory>

namespace primed {
namespace {

constexpr std::size_t kLanes = 4;  // independent counters, so that none waits for its last store
constexpr std::size_t kCutBytes = 2048;
constexpr std::uint32_t kEscape = 255;

using Counts = std::array<std::uint32_t, kDeltaClasses>;

struct Change {
    std::uint32_t rank;  // within its lane
    std::uint16_t exponent;
    std::uint16_t step;
};

struct Lane {
    std::size_t begin = 0, end = 0;
    Counts seen{};
    std::unique_ptr<Change[]> changes;  // room for all, of which only what is used gets memory
    std::size_t found = 0;

    PRIMED_INLINE void look_at(std::uint16_t before, std::uint16_t after) {
        const std::size_t exponent = class_of(before);
        const std::uint32_t rank = seen[exponent]++;
        if (before != after)
            changes[found++] = {rank, static_cast<std::uint16_t>(exponent),
                                static_cast<std::uint16_t>(ordered(after) - ordered(before))};
    }
};

void put_varint(std::uint32_t value, std::vector<std::uint8_t>& out) {
    for (; value >= 128; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 128));
    out.push_back(static_cast<std::uint8_t>(value));
}

void cut(DeltaBytes& out) {
    const std::size_t last = out.cuts.empty() ? 0 : out.cuts.back();
    if (out.bytes.size() - last >= kCutBytes)
        out.cuts.push_back(static_cast<std::uint32_t>(out.bytes.size()));
}

std::uint32_t distance_of(std::uint16_t step) { return step & 0x8000 ? 0x10000u - step : step; }

// Takes bytes from the front of a buffer and never goes beyond it.
struct Reader {
    const std::uint8_t* at;
    const std::uint8_t* end;

    std::size_t left() const { return static_cast<std::size_t>(end - at); }

    bool varint(std::uint32_t& value) {
        value = 0;
        for (int shift = 0; shift <= 21 && at < end; shift += 7) {
            const std::uint32_t byte = *at++;
            value |= (byte & 127) << shift;
            if (byte < 128) return true;
        }
        return false;
    }

    // A run of 255s and a smaller byte, added up; false at the end or above `most`.
    bool gap(std::uint32_t most, std::uint32_t& value) {
        value = 0;
        while (at < end) {
            const std::uint32_t byte = *at++;
            value += byte;
            if (value > most) return false;
            if (byte < kEscape) return true;
        }
        return false;
    }
};

bool read_ranks(Reader& reader, std::uint32_t count, std::uint32_t changed, std::uint32_t* ranks) {
    std::uint32_t next = 0;  // the smallest rank that the next one can have
    for (std::uint32_t i = 0; i < changed; ++i) {
        std::uint32_t gap;
        if (next >= count || !reader.gap(count - 1 - next, gap)) return false;
        ranks[i] = next + gap;
        next = ranks[i] + 1;
    }
    return true;
}

const char* read_steps(Reader& reader, std::vector<std::uint16_t>& steps) {
    const std::size_t changed = steps.size(), sign_bytes = (changed + 7) / 8;
    const std::uint8_t* distances = reader.at;  // `changed` bytes are there: the caller looked
    const auto large = static_cast<std::size_t>(
        std::count(distances, distances + changed, static_cast<std::uint8_t>(kEscape)));
    if (reader.left() != changed + 2 * large + sign_bytes) return "distances have another length";
    const std::uint8_t* wide = distances + changed;
    const std::uint8_t* signs = wide + 2 * large;
    if (changed % 8 && signs[sign_bytes - 1] >> (changed % 8)) return "bits after the last sign";
    for (std::size_t i = 0; i < changed; ++i) {
        std::uint32_t distance = distances[i];
        if (distance == kEscape) {
            distance = static_cast<std::uint32_t>(wide[0] | wide[1] << 8);
            wide += 2;
            if (distance < kEscape || distance > 0x7fff) return "a distance out of range";
        }
        const std::uint32_t step = distance + 1;
        const bool is_down = (signs[i / 8] >> (i % 8)) & 1;
        steps[i] = static_cast<std::uint16_t>(is_down ? 0x10000u - step : step);
    }
    return nullptr;
}

}  // namespace

Changes changes_between(const std::uint16_t* old_weights, const std::uint16_t* new_weights,
                        std::size_t count) {
    const std::size_t length = count / kLanes;
    std::array<Lane, kLanes> lanes;
    for (std::size_t l = 0; l < kLanes; ++l) {
        lanes[l].begin = l * length;
        lanes[l].end = l + 1 < kLanes ? (l + 1) * length : count;
        lanes[l].changes.reset(new Change[lanes[l].end - lanes[l].begin]);
    }
    for (std::size_t i = 0; i < length; ++i)
        for (Lane& lane : lanes)
            lane.look_at(old_weights[lane.begin + i], new_weights[lane.begin + i]);
    for (std::size_t i = kLanes * length; i < count; ++i)
        lanes[kLanes - 1].look_at(old_weights[i], new_weights[i]);

    Changes changes;
    std::size_t total = 0;
    for (const Lane& lane : lanes) {
        total += lane.found;
        for (std::size_t k = 0; k < lane.found; ++k) ++changes.counts[lane.changes[k].exponent];
    }
    Counts at{}, before{};  // where the next change of a class goes; weights in lanes before
    for (std::size_t c = 1; c < kDeltaClasses; ++c) at[c] = at[c - 1] + changes.counts[c - 1];
    changes.ranks.resize(total);
    changes.steps.resize(total);
    for (const Lane& lane : lanes) {
        for (std::size_t k = 0; k < lane.found; ++k) {
            const Change& change = lane.changes[k];
            const std::uint32_t place = at[change.exponent]++;
            changes.ranks[place] = before[change.exponent] + change.rank;
            changes.steps[place] = change.step;
        }
        for (std::size_t c = 0; c < kDeltaClasses; ++c) before[c] += lane.seen[c];
    }
    return changes;
}

DeltaBytes written(const Changes& changes) {
    const std::size_t changed = changes.ranks.size();
    DeltaBytes out;
    if (!changed) return out;
    out.bytes.reserve(kDeltaClasses + 3 * changed);
    for (const std::uint32_t count : changes.counts) put_varint(count, out.bytes);
    cut(out);
    std::size_t i = 0;
    for (const std::uint32_t count : changes.counts) {
        std::uint32_t next = 0;
        for (const std::size_t end = i + count; i < end; ++i) {
            std::uint32_t gap = changes.ranks[i] - next;
            for (; gap >= kEscape; gap -= kEscape) out.bytes.push_back(kEscape);
            out.bytes.push_back(static_cast<std::uint8_t>(gap));
            next = changes.ranks[i] + 1;
        }
        cut(out);
    }
    i = 0;
    for (const std::uint32_t count : changes.counts) {
        for (const std::size_t end = i + count; i < end; ++i)
            out.bytes.push_back(static_cast<std::uint8_t>(
                std::min(distance_of(changes.steps[i]) - 1, kEscape)));
        cut(out);
    }
    for (const std::uint16_t step : changes.steps) {
        const std::uint32_t distance = distance_of(step) - 1;
        if (distance < kEscape) continue;
        out.bytes.push_back(static_cast<std::uint8_t>(distance));
        out.bytes.push_back(static_cast<std::uint8_t>(distance >> 8));
    }
    cut(out);
    const std::size_t signs = out.bytes.size();
    out.bytes.resize(signs + (changed + 7) / 8);
    for (i = 0; i < changed; ++i)
        out.bytes[signs + i / 8] = static_cast<std::uint8_t>(
            out.bytes[signs + i / 8] | (changes.steps[i] >> 15) << (i % 8));
    return out;
}

const char* read_changes(const std::uint8_t* bytes, std::size_t size, std::size_t count,
                         Changes& changes) {
    changes = {};
    if (!size) return nullptr;
    Reader reader{bytes, bytes + size};
    std::size_t changed = 0;
    for (std::uint32_t& class_count : changes.counts) {
        if (!reader.varint(class_count)) return "counts are cut short";
        changed += class_count;
    }
    if (!changed || changed > count) return "counts do not fit the chunk";
    if (reader.left() / 2 < changed) return "changes are cut short";
    changes.ranks.resize(changed);
    changes.steps.resize(changed);
    std::size_t at = 0;
    for (const std::uint32_t class_count : changes.counts) {
        if (!read_ranks(reader, static_cast<std::uint32_t>(count), class_count,
                        changes.ranks.data() + at))
            return "gaps do not fit the chunk";
        at += class_count;
    }
    if (reader.left() < changed) return "distances are cut short";
    return read_steps(reader, changes.steps);
}

const char* apply_changes(const std::uint16_t* old_weights, std::size_t count,
                          const Changes& changes, std::uint16_t* out) {
    constexpr std::uint32_t kNever = 0xffffffffu;
    Counts left, at, end;  // weights to pass before the next change; that change; the last one
    std::uint32_t begin = 0;
    for (std::size_t c = 0; c < kDeltaClasses; ++c) {
        at[c] = begin;
        end[c] = begin += changes.counts[c];
        left[c] = changes.counts[c] ? changes.ranks[at[c]] : kNever;
    }
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint16_t weight = old_weights[i];
        const std::size_t c = class_of(weight);
        out[i] = weight;
        if (left[c]-- != 0) continue;
        const std::uint32_t k = at[c]++;
        out[i] = unordered(static_cast<std::uint16_t>(ordered(weight) + changes.steps[k]));
        left[c] = at[c] < end[c] ? changes.ranks[k + 1] - changes.ranks[k] - 1 : kNever;
    }
    return at == end ? nullptr : "a change lies outside its chunk";
}

PRIMED_CLONES void split_bf16(const std::uint16_t* weights, std::size_t count, std::uint8_t* out) {
    for (std::size_t i = 0; i < count; ++i) out[i] = static_cast<std::uint8_t>(weights[i] >> 7);
    for (std::size_t i = 0; i < count; ++i)
        out[count + i] =
            static_cast<std::uint8_t>((weights[i] >> 8 & 0x80) | (weights[i] & 0x7f));
}

PRIMED_CLONES void join_bf16(const std::uint8_t* planes, std::size_t count, std::uint16_t* out) {
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint16_t low = planes[count + i];
        out[i] = static_cast<std::uint16_t>((low & 0x80) << 8 | planes[i] << 7 | (low & 0x7f));
    }
}

}  // namespace primed
