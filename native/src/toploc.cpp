// Building a proof: top places, modulus, polynomial, big-endian bytes.
#include "toploc.h"

#include <algorithm>

#include "field.h"

namespace primed::toploc {
namespace {

// Sets a bit per residue; false at the first that is set already. Clears all of them afterwards.
bool distinct(std::span<const std::uint32_t> places, std::uint32_t modulus,
              std::vector<std::uint64_t>& seen) {
    std::size_t marked = 0;
    bool fresh = true;
    for (; fresh && marked < places.size(); ++marked) {
        const std::uint32_t residue = places[marked] % modulus;
        const std::uint64_t bit = std::uint64_t{1} << residue % 64;
        fresh = (seen[residue / 64] & bit) == 0;
        seen[residue / 64] |= bit;
    }
    for (std::size_t i = 0; i < marked; ++i) seen[places[i] % modulus / 64] = 0;
    return fresh;
}

void put(std::uint8_t* out, std::uint16_t value) {
    out[0] = static_cast<std::uint8_t>(value >> 8);
    out[1] = static_cast<std::uint8_t>(value);
}

}  // namespace

std::uint16_t modulus_of(std::span<const std::uint32_t> places, Workspace& workspace) {
    if (*std::max_element(places.begin(), places.end()) < field::kPrime) return field::kPrime;
    for (std::uint32_t modulus = field::kPrime; modulus >= places.size(); --modulus)
        if (distinct(places, modulus, workspace.seen)) return static_cast<std::uint16_t>(modulus);
    return 0;
}

bool build(Bits chunk, std::size_t k, Workspace& workspace, std::uint8_t* proof) {
    select_top(chunk, k, workspace);
    const Top& top = workspace.top;
    const std::uint16_t modulus = modulus_of(top.indices, workspace);
    if (modulus == 0) return false;
    const std::size_t count = top.indices.size();
    workspace.residues.resize(count);
    workspace.coefficients.resize(count);
    for (std::size_t i = 0; i < count; ++i)
        workspace.residues[i] = static_cast<std::uint16_t>(top.indices[i] % modulus);
    interpolate(workspace.residues, top.values, workspace, workspace.coefficients.data());
    put(proof, modulus);
    for (std::size_t i = 0; i < count; ++i) put(proof + 2 + 2 * i, workspace.coefficients[i]);
    return true;
}

}  // namespace primed::toploc
