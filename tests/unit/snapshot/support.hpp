#pragma once

#include "messages/unique_fd.hpp"
#include "snapshot/repository.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::snapshot::test {

namespace fs = std::filesystem;

/// A directory that goes away with the test.
struct temp_dir {
  temp_dir() {
    std::string name = fs::temp_directory_path() / "troupe-snapshot-XXXXXX";
    if (!::mkdtemp(name.data()))
      std::abort();
    path = name;
  }
  ~temp_dir() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  temp_dir(const temp_dir&) = delete;
  temp_dir& operator=(const temp_dir&) = delete;

  std::string operator/(std::string_view name) const {
    return path + '/' + std::string{name};
  }

  std::string path;
};

inline unique_fd open_dir(const std::string& path) {
  return unique_fd{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
}

inline void write_text(const std::string& path, std::string_view text) {
  fs::create_directories(fs::path{path}.parent_path());
  std::ofstream{path, std::ios::binary} << text;
}

inline std::string read_text(const std::string& path) {
  std::ifstream in{path, std::ios::binary};
  return {std::istreambuf_iterator<char>{in}, {}};
}

inline void set_mtime(const std::string& path, int64_t seconds, long nanoseconds) {
  timespec times[2] = {{0, UTIME_OMIT}, {seconds, nanoseconds}};
  if (::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0)
    std::abort();
}

/// All that a restore has to give back, one line for each path. Files with several names say their
/// first one.
inline std::map<std::string, std::string> describe(const std::string& root) {
  std::map<std::string, std::string> lines;
  std::set<std::string> paths;
  for (const auto& item : fs::recursive_directory_iterator{root})
    paths.insert(item.path().string());
  std::map<ino_t, std::string> first_names;
  for (const auto& path : paths) {
    struct stat st;
    if (::lstat(path.c_str(), &st) != 0)
      continue;
    auto name = path.substr(root.size() + 1);
    char head[96];
    std::snprintf(head, sizeof head, "%o %lld.%09ld ", st.st_mode,
                  static_cast<long long>(st.st_mtim.tv_sec), st.st_mtim.tv_nsec);
    std::string line = head;
    if (S_ISLNK(st.st_mode))
      line += "-> " + fs::read_symlink(path).string();
    if (S_ISREG(st.st_mode))
      line += std::to_string(st.st_size) + ' '
              + std::to_string(std::hash<std::string>{}(read_text(path))) + " = "
              + first_names.try_emplace(st.st_ino, name).first->second;
    lines.emplace(name, line);
  }
  return lines;
}

/// Names in a folder.
inline std::set<std::string> names(const std::string& folder) {
  std::set<std::string> found;
  for (const auto& item : fs::directory_iterator{folder})
    found.insert(item.path().filename().string());
  return found;
}

inline snapshot_ref local_ref(const std::string& base_path, const std::string& id = "snap") {
  return {snapshot_kind::local, id, base_path, {}};
}

inline result<snapshot_outcome> persist(repository& repo, const snapshot_ref& ref,
                                        const std::string& root, std::vector<std::string> skip = {},
                                        std::stop_token stop = {}, const progress& report = {}) {
  auto fd = open_dir(root);
  return repo.persist({ref, "session", "tenant", fd.get(), std::move(skip), "manifest"},
                      std::move(stop), report);
}

inline std::string fingerprint_at(const std::string& root) {
  auto fd = open_dir(root);
  return fingerprint(fd.get(), {}, "manifest", {}).value();
}

// -- hand-made archives
// -------------------------------------------------------------------------------

/// One ustar header, as an attacker would write it.
inline std::string tar_header(std::string_view name, char type, std::string_view link = {},
                              uint64_t size = 0, unsigned mode = 0644) {
  std::string block(512, '\0');
  auto put = [&](size_t at, std::string_view text) { text.copy(block.data() + at, text.size()); };
  auto octal = [&](size_t at, size_t width, unsigned long long value) {
    char text[32];
    auto n = std::snprintf(text, sizeof text, "%0*llo", static_cast<int>(width - 1), value);
    put(at, {text, static_cast<size_t>(n)});
  };
  put(0, name.substr(0, 100));
  octal(100, 8, mode);
  octal(108, 8, 0);
  octal(116, 8, 0);
  octal(124, 12, size);
  octal(136, 12, 1'700'000'000);
  put(148, "        ");
  block[156] = type;
  put(157, link.substr(0, 100));
  put(257, std::string_view{"ustar\00000", 8});
  unsigned sum = 0;
  for (char c : block)
    sum += static_cast<unsigned char>(c);
  octal(148, 7, sum);
  return block;
}

inline std::string tar_file(std::string_view name, std::string_view content, unsigned mode = 0644) {
  auto bytes = tar_header(name, '0', {}, content.size(), mode);
  bytes += content;
  bytes.append((512 - content.size() % 512) % 512, '\0');
  return bytes;
}

inline std::string tar_directory(std::string_view name, unsigned mode = 0755) {
  return tar_header(name, '5', {}, 0, mode);
}

inline std::string tar_symlink(std::string_view name, std::string_view target) {
  return tar_header(name, '2', target);
}

inline std::string tar_hard_link(std::string_view name, std::string_view target) {
  return tar_header(name, '1', target);
}

inline std::string tar_end() {
  return std::string(1024, '\0');
}

/// A pax record for the member that follows.
inline std::string tar_pax(std::string_view key, std::string_view value) {
  auto body = ' ' + std::string{key} + '=' + std::string{value} + '\n';
  auto size = body.size() + 1;
  while (std::to_string(size).size() + body.size() != size)
    ++size;
  auto record = std::to_string(size) + body;
  auto bytes = tar_header("pax", 'x', {}, record.size()) + record;
  bytes.append((512 - record.size() % 512) % 512, '\0');
  return bytes;
}

inline std::string from_hex(std::string_view hex) {
  auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(digit(hex[i]) * 16 + digit(hex[i + 1]));
  return bytes;
}

// A tar of "./a.txt" with the text "hello" and the time 1700000000.5, compressed by others.
inline const std::string gzip_tar = from_hex(
  "1f8b0800000000000203edd3b10a02310c06e0cc3e459f204d627a9d0447475fa16041e10ee1acd0c7f74e11a7"
  "1bebd27c4b429640c88f1efdf19cea29a74b9ea109fad8aa4432fcfa75ce24bc0757e10f9e8f92e6653df449c4"
  "4de536e503c7effd31ecc074027dc2524bd31deb530daadbf9a700ac413446d2f73cb21038b2fc3777cde378b7"
  "1818634c775e3229953d000c0000");
inline const std::string bzip2_tar = from_hex(
  "425a6839314159265359a6d45ba200002adf81cf904001ff824040502066669e40008008082000721aa1a6991a"
  "680340d340d3d4d04a1098a69a686690c8d0033cfbfb668a57f1c844111fc5d22772852ab68d31115019a8a5ff"
  "f877c1309925442458c08679bc315431680b17e4d0869bf27d70b9d1eb6d4e51e949fbc1ae480695c396174f7b"
  "109226c86a0405900bca02742ae110fc5dc914e142429b516e88");
inline const std::string xz_tar = from_hex(
  "fd377a585a000004e6d6b4460200210116000000742fe5a3e00bff007f5d00170bdc0480503226ee1d7d1bf3f2"
  "cb33ececf837f0ead67add38761b561f756eb2d97a94f2696741f61248e93bdea32ed911f78c246e971b42abc7"
  "bf77faf39221a9d9cfb9c93d5738143411d415ca5d4caeaaab5b688607161e57b49bdda9b85107808be7d847e9"
  "09806be51730eec7fa574c1198d1ad259861c0e4b43c0000004a751d718b05314b00019b01801800001e5ff876"
  "b1c467fb020000000004595a");

} // namespace troupe::snapshot::test
