#include "bindings.h"

namespace primed {

void bind_digest(nb::module_&) {}

}  // namespace primed
