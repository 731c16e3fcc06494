#include "workspace/patch_text.hpp"

#include "workspace/unicode_text.hpp"

#include <algorithm>
#include <array>

namespace troupe::workspace {

namespace {

constexpr std::string_view begin_marker = "*** Begin Patch";
constexpr std::string_view end_marker = "*** End Patch";
constexpr std::string_view move_header = "*** Move to: ";

struct section_header {
  std::string_view prefix;
  patch_kind kind;
};

constexpr std::array<section_header, 3> section_headers = {{
  {"*** Add File: ", patch_kind::create_file},
  {"*** Delete File: ", patch_kind::delete_file},
  {"*** Update File: ", patch_kind::update_file},
}};

constexpr std::array kinds
  = {patch_kind::create_file, patch_kind::update_file, patch_kind::delete_file};

/// As much of the input as an error repeats.
constexpr size_t quoted_bytes = 500;

template <class T = std::vector<patch_operation>>
result<T> fault(std::string_view text, std::string_view quoted = {}, std::string_view more = {}) {
  std::string message{text};
  message.append(head_of(quoted, quoted_bytes)).append(more);
  return unexpected(make_error(errc::apply_patch_invalid_diff, op::apply_patch, message));
}

// -- the text form --------------------------------------------------------------------------------

const section_header* header_of(std::string_view line) {
  auto i = std::find_if(section_headers.begin(), section_headers.end(),
                        [&](const section_header& x) { return line.starts_with(x.prefix); });
  return i == section_headers.end() ? nullptr : &*i;
}

result<std::string> path_in(std::string_view line, std::string_view prefix) {
  auto path = trim(line.substr(prefix.size()));
  if (path.empty())
    return fault<std::string>("Missing path in apply_patch header: ", line);
  return std::string{path};
}

/// Line by line through what is between the markers.
class envelope_reader {
public:
  explicit envelope_reader(std::string_view body) : rest_(body) {
    advance();
  }

  result<std::vector<patch_operation>> read() {
    std::vector<patch_operation> operations;
    while (line_) {
      auto header = header_of(*line_);
      if (header == nullptr)
        return fault("Invalid apply_patch file operation header: ", *line_);
      auto next = read_section(*header);
      if (!next)
        return unexpected(std::move(next.error()));
      operations.push_back(std::move(*next));
    }
    if (operations.empty())
      return fault("apply_patch input must include at least one file operation");
    return operations;
  }

private:
  void advance() {
    line_ = rest_.empty() ? std::nullopt : std::optional{take_line(rest_)};
  }

  bool in_section() const {
    return line_ && header_of(*line_) == nullptr;
  }

  result<patch_operation> read_section(const section_header& header) {
    auto path = path_in(*line_, header.prefix);
    if (!path)
      return unexpected(std::move(path.error()));
    advance();
    patch_operation x{header.kind, std::move(*path), std::nullopt, std::nullopt};
    switch (x.kind) {
      case patch_kind::create_file: return read_added(std::move(x));
      case patch_kind::update_file: return read_updated(std::move(x));
      case patch_kind::delete_file: break;
    }
    if (in_section())
      return fault<patch_operation>("Delete File patch for ", x.path, " must not include a diff");
    return x;
  }

  result<patch_operation> read_added(patch_operation x) {
    x.diff.emplace();
    for (; in_section(); advance()) {
      if (!line_->starts_with('+'))
        return fault<patch_operation>("Invalid Add File line: ", *line_);
      x.diff->append(*line_).append("\n");
    }
    if (x.diff->empty())
      return fault<patch_operation>("Add File patch for ", x.path,
                                    " must include at least one + line");
    return x;
  }

  result<patch_operation> read_updated(patch_operation x) {
    if (line_ && line_->starts_with(move_header)) {
      auto target = path_in(*line_, move_header);
      if (!target)
        return unexpected(std::move(target.error()));
      x.move_to = std::move(*target);
      advance();
    }
    x.diff.emplace();
    for (; in_section(); advance())
      x.diff->append(*line_).append("\n");
    if (x.diff->empty())
      return fault<patch_operation>("Update File patch for ", x.path, " must include a hunk");
    return x;
  }

  std::string_view rest_;
  std::optional<std::string_view> line_; ///< nullopt: at the end
};

result<std::vector<patch_operation>> parse_envelope(std::string_view text) {
  auto rest = text;
  if (text.empty() || take_line(rest) != begin_marker)
    return fault("apply_patch input must start with '*** Begin Patch'");
  std::string_view body;
  std::string_view last;
  for (auto left = rest; !left.empty();) {
    body = rest.substr(0, rest.size() - left.size());
    last = take_line(left);
  }
  if (last != end_marker)
    return fault("apply_patch input must end with '*** End Patch'");
  return envelope_reader{body}.read();
}

// -- the JSON forms -------------------------------------------------------------------------------

/// The member, null if there is none.
const json& member(const json& object, const char* key) {
  static const json none;
  auto i = object.find(key);
  return i == object.end() ? none : *i;
}

std::optional<std::string> text_in(const json& x) {
  return x.is_string() ? std::optional{x.get_ref<const std::string&>()} : std::nullopt;
}

std::optional<patch_kind> kind_in(const json& x) {
  auto i = std::find_if(kinds.begin(), kinds.end(),
                        [&](patch_kind kind) { return x.is_string() && x == to_string(kind); });
  return i == kinds.end() ? std::nullopt : std::optional{*i};
}

/// One operation as a model writes it.
result<patch_operation> read_written(const json& x) {
  using operation = patch_operation;
  if (!x.is_object())
    return fault<operation>("apply_patch operation must be an object");
  auto kind = kind_in(member(x, "type"));
  if (!kind) {
    const auto& given = member(x, "type");
    return fault<operation>("Invalid apply_patch operation type: ",
                            text_in(given).value_or(given.type_name()));
  }
  auto path = text_in(member(x, "path"));
  if (!path || path->empty())
    return fault<operation>("apply_patch operation is missing a path");
  auto diff = *kind == patch_kind::delete_file ? std::nullopt : text_in(member(x, "diff"));
  if (!diff && *kind != patch_kind::delete_file)
    return fault<operation>("apply_patch operation ", to_string(*kind), " is missing a diff");
  const auto& target = member(x, "move_to");
  if (!target.is_null() && !target.is_string())
    return fault<operation>("apply_patch operation move_to must be a string");
  return operation{*kind, std::move(*path), std::move(diff), text_in(target)};
}

/// One operation as a client sends it.
result<patch_operation> read_sent(const json& x) {
  using operation = patch_operation;
  if (!x.is_object())
    return fault<operation>("Invalid apply_patch operation type: ", x.type_name());
  auto kind = kind_in(member(x, "type"));
  if (!kind)
    return fault<operation>("Invalid apply_patch operation type: ", member(x, "type").type_name());
  const auto& path = member(x, "path");
  if (!path.is_string())
    return fault<operation>("Invalid apply_patch path type: ", path.type_name());
  for (auto key : {"diff", "move_to"})
    if (const auto& value = member(x, key); !value.is_null() && !value.is_string())
      return fault<operation>("Invalid apply_patch ", key,
                              std::string{" type: "} + value.type_name());
  return operation{*kind, path.get<std::string>(), text_in(member(x, "diff")),
                   text_in(member(x, "move_to"))};
}

template <class Read>
result<std::vector<patch_operation>> read_each(const json& list, Read read) {
  std::vector<patch_operation> operations;
  operations.reserve(list.size());
  for (const auto& x : list) {
    auto operation = read(x);
    if (!operation)
      return unexpected(std::move(operation.error()));
    operations.push_back(std::move(*operation));
  }
  return operations;
}

result<std::vector<patch_operation>> parse_json_form(std::string_view text) {
  auto payload = parse_json(text);
  if (!payload) {
    auto& e = payload.error();
    e.code = errc::apply_patch_invalid_diff;
    e.operation = op::apply_patch;
    return unexpected(std::move(e));
  }
  if (payload->is_array())
    return read_each(*payload, read_written);
  if (const auto& list = member(*payload, "operations"); list.is_array())
    return read_each(list, read_written);
  const auto& one = member(*payload, "operation");
  return read_each(json::array({one.is_object() ? one : *payload}), read_written);
}

} // namespace

std::string_view to_string(patch_kind kind) {
  switch (kind) {
    case patch_kind::create_file: return "create_file";
    case patch_kind::update_file: return "update_file";
    case patch_kind::delete_file: break;
  }
  return "delete_file";
}

result<std::vector<patch_operation>> parse_patch(std::string_view text) {
  auto start = trim(text);
  return start.starts_with('{') || start.starts_with('[') ? parse_json_form(text)
                                                          : parse_envelope(text);
}

result<std::vector<patch_operation>> read_patch_operations(const json& operations) {
  if (operations.is_array())
    return read_each(operations, read_sent);
  if (operations.is_object())
    return read_each(json::array({operations}), read_sent);
  return fault("Invalid apply_patch operations payload: ", operations.type_name());
}

} // namespace troupe::workspace
