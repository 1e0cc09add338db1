#include "bindings.h"

namespace primed {

void bind_toploc(nb::module_&) {}

}  // namespace primed
