#pragma once

#include <type_traits>

namespace troupe {

/// Names one member of a message for an inspector.
template <class T>
struct field_ref {
  const char* name;
  T& value;
};

template <class T>
field_ref<T> field(const char* name, T& value) {
  // CAF 0.17 loops forever on an infinity and mangles denormals, so no message may hold one.
  static_assert(!std::is_floating_point_v<T>,
                "use integers (nanoseconds, milli-units) in messages");
  return {name, value};
}

/// Describes a message once. CAF's serialisers see the bare values, our JSON reader and writer
/// (`json_codec.hpp`) also see the names.
template <class Inspector, class T, class... Ts>
auto inspect_object(Inspector& f, T& object, field_ref<Ts>... fields) {
  if constexpr (requires { f.visit(object, fields...); }) {
    return f.visit(object, fields...);
  } else {
    (void) object;
    return f(fields.value...);
  }
}

} // namespace troupe
