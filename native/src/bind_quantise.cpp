#include "bindings.h"

namespace primed {

void bind_quantise(nb::module_&) {}

}  // namespace primed
