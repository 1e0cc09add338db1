#include "bindings.h"

namespace primed {

void bind_delta(nb::module_&) {}

}  // namespace primed
