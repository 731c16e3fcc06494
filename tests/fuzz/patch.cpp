#include "tests/fuzz/support.hpp"
#include "workspace/patch_diff.hpp"
#include "workspace/patch_text.hpp"

using namespace troupe;
using namespace troupe::workspace;

// The input is a text, a line of `=====`, and a patch: to be parsed, and as a diff by itself.
int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view separator = "=====\n";
  auto input = fuzz::as_text(data, size);
  auto at = input.find(separator);
  auto text = at == input.npos ? std::string_view{} : input.substr(0, at);
  auto patch = at == input.npos ? input : input.substr(at + separator.size());
  (void) apply_diff(text, patch, diff_mode::update);
  (void) apply_diff(text, patch, diff_mode::create);
  auto operations = parse_patch(patch);
  if (!operations)
    return 0;
  for (const auto& x : *operations) {
    if (!x.diff)
      continue;
    auto mode = x.kind == patch_kind::create_file ? diff_mode::create : diff_mode::update;
    auto first = apply_diff(text, *x.diff, mode);
    auto second = apply_diff(text, *x.diff, mode);
    fuzz::require(first.has_value() == second.has_value() && (!first || *first == *second),
                  "a diff always gives the same");
  }
  return 0;
}
