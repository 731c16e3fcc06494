#include "snapshot/tree_index.hpp"

#include "snapshot/repository.hpp"

#include <cstdio>

namespace troupe::snapshot {

void tree_index::add_directory(std::string_view path, uint32_t mode) {
  add('d', path, mode & restored_directory_mode, 0, {});
}

void tree_index::add_file(std::string_view path, uint32_t mode, uint64_t size,
                          const digest_bytes& content) {
  add('f', path, mode & restored_file_mode, size, to_hex(content));
}

void tree_index::add_symlink(std::string_view path, std::string_view target) {
  add('l', path, 0, 0, target);
}

void tree_index::add_hard_link(std::string_view path, std::string_view target) {
  add('h', path, 0, 0, target);
}

digest_bytes tree_index::finish() {
  return lines_.finish();
}

// Fields end with NUL, which no path or link target can hold.
void tree_index::add(char type, std::string_view path, uint32_t mode, uint64_t size,
                     std::string_view detail) {
  char numbers[48];
  auto n = std::snprintf(numbers, sizeof numbers, "%c%o %llu ", type, mode,
                         static_cast<unsigned long long>(size));
  line_.assign(numbers, static_cast<size_t>(n));
  line_.append(path) += '\0';
  line_.append(detail) += '\0';
  lines_.update(line_);
}

std::string fingerprint_of(const digest_bytes& tree, std::string_view manifest_digest) {
  sha256 all;
  all.update(std::string{fingerprint_version} + '\n' + to_hex(tree) + '\n');
  all.update(manifest_digest);
  all.update("\n");
  return to_hex(all.finish());
}

} // namespace troupe::snapshot
