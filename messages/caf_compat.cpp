#include "messages/caf_compat.hpp"

#include "messages/interfaces.hpp"

#include <caf/sec.hpp>

namespace troupe {

caf::error to_caf(error x) {
  auto code = x.code;
  return caf::make_error(code, std::move(x));
}

error from_caf(const caf::error& x) {
  if (x.category() == caf::detail::error_factory<errc>::category) {
    const auto& context = x.context();
    if (context.match_elements<error>())
      return context.get_as<error>(0);
    return make_error(static_cast<errc>(x.code()), op::request, "");
  }
  return make_error(errc::interrupted, op::request,
                    "what worked on this ended before it could answer")
    .with("detail", to_string(x));
}

} // namespace troupe
