#include "snapshot/tree_index.hpp"

#include "snapshot/repository.hpp"

#include <charconv>

namespace troupe::snapshot {

namespace {

constexpr size_t flush_above = 4096;

void put_number(std::string& line, uint64_t x, int base) {
  char digits[32];
  auto end = std::to_chars(digits, digits + sizeof digits, x, base).ptr;
  line.append(digits, end) += ' ';
}

} // namespace

void tree_index::add_directory(std::string_view path, uint32_t mode) {
  add('d', path, mode & restored_directory_mode, 0, {});
}

void tree_index::add_file(std::string_view path, uint32_t mode, uint64_t size,
                          const digest_bytes& content) {
  constexpr char digits[] = "0123456789abcdef";
  char hex[2 * std::tuple_size_v<digest_bytes>];
  char* to = hex;
  for (auto byte : content) {
    *to++ = digits[byte >> 4];
    *to++ = digits[byte & 15];
  }
  add('f', path, mode & restored_file_mode, size, {hex, sizeof hex});
}

void tree_index::add_symlink(std::string_view path, std::string_view target) {
  add('l', path, 0, 0, target);
}

void tree_index::add_hard_link(std::string_view path, std::string_view target) {
  add('h', path, 0, 0, target);
}

digest_bytes tree_index::finish() {
  lines_.update(line_);
  line_.clear();
  return lines_.finish();
}

// Fields end with NUL, which no path or link target can hold.
void tree_index::add(char type, std::string_view path, uint32_t mode, uint64_t size,
                     std::string_view detail) {
  line_ += type;
  put_number(line_, mode, 8);
  put_number(line_, size, 10);
  line_.append(path) += '\0';
  line_.append(detail) += '\0';
  if (line_.size() < flush_above)
    return;
  lines_.update(line_);
  line_.clear();
}

std::string fingerprint_of(const digest_bytes& tree, std::string_view manifest_digest) {
  return fingerprint_of(to_hex(tree), manifest_digest);
}

std::string fingerprint_of(std::string_view tree, std::string_view manifest_digest) {
  sha256 all;
  all.update(std::string{fingerprint_version} + '\n');
  all.update(tree);
  all.update("\n");
  all.update(manifest_digest);
  all.update("\n");
  return to_hex(all.finish());
}

} // namespace troupe::snapshot
