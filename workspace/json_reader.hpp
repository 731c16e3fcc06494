#pragma once

#include "messages/error.hpp"
#include "messages/json.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::workspace {

/// Where in a document something stands; a chain on the stack, written out only for a problem.
class location {
public:
  location() = default;
  location(const location& parent, std::string_view key) : parent_(&parent), key_(key) {}
  location(const location& parent, size_t index) : parent_(&parent), index_(index) {}

  /// The steps from the document's root; long keys are cut.
  std::vector<std::string> steps() const;

private:
  const location* parent_ = nullptr;
  std::string_view key_;
  std::optional<size_t> index_;
};

/// One thing wrong with a document. `type` and `text` follow the names that pydantic gives them.
struct problem {
  std::vector<std::string> loc;
  std::string type;
  std::string text;
};

/// `invalid_manifest` from at least one problem: the first is the message, all are in `details`.
error invalid_manifest(const std::vector<problem>& problems);

/// `text`, cut when it is too long to be repeated in an error.
std::string shortened(std::string_view text);

/// Reads typed members of JSON objects and collects what is wrong with them. A member that is
/// missing or wrong leaves its target as it was.
class json_reader {
public:
  enum class need { optional, required };

  bool ok() const {
    return problems_.empty();
  }
  const std::vector<problem>& problems() const {
    return problems_;
  }

  /// Notes a problem; those after the first hundred are dropped.
  void fail(const location& at, const char* type, std::string text);

  /// The member, or null; a missing one that is needed is a problem.
  const json* member(const json& object, const location& at, const char* key, need needed);

  void text(const json& object, const location& at, const char* key, std::string& out,
            need needed = need::optional);
  /// Text or null.
  void text(const json& object, const location& at, const char* key,
            std::optional<std::string>& out);
  /// Also 0 and 1, and the usual words.
  void boolean(const json& object, const location& at, const char* key, bool& out);
  /// Also whole floats, booleans and decimal text.
  void integer(const json& object, const location& at, const char* key, int32_t& out);

  /// Calls `read(element, location)` for every element of a list.
  template <class Read>
  void list(const json& object, const location& at, const char* key, Read read,
            need needed = need::optional) {
    auto* value = member(object, at, key, needed);
    if (!value)
      return;
    location here{at, key};
    if (!value->is_array())
      return fail(here, "list_type", "Input should be a valid list");
    size_t i = 0;
    for (const auto& element : *value)
      read(element, location{here, i++});
  }

private:
  std::vector<problem> problems_;
};

} // namespace troupe::workspace
