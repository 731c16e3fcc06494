#pragma once

#include "support.hpp"

#include <sys/xattr.h>

#include <algorithm>
#include <random>

namespace troupe::snapshot::test {

/// Makes and changes trees that are as unpleasant as a workspace may be, the same for the same
/// seed: links of all kinds, odd names, deep paths, holes, unreadable modes, attributes.
class hostile_tree {
public:
  hostile_tree(std::string root, uint32_t seed) : root_(std::move(root)), random_(seed) {
    fs::create_directories(root_);
    for (int i = 0; i < 40; ++i)
      add();
  }

  /// Some changes of any kind.
  void change(int count) {
    for (int i = 0; i < count; ++i)
      switch (pick(8)) {
        case 0:
        case 1: add(); break;
        case 2:
        case 3: rewrite(); break;
        case 4: remove(); break;
        case 5: rename(); break;
        case 6: touch(); break;
        default: replace_kind();
      }
  }

private:
  size_t pick(size_t n) {
    return std::uniform_int_distribution<size_t>{0, n - 1}(random_);
  }

  std::vector<std::string> paths(bool directories) {
    std::vector<std::string> found;
    if (directories)
      found.push_back(root_);
    for (const auto& x : fs::recursive_directory_iterator{root_})
      if (fs::is_directory(x.symlink_status()) == directories)
        found.push_back(x.path());
    std::ranges::sort(found);
    return found;
  }

  std::string any(bool directories) {
    auto all = paths(directories);
    return all.empty() ? std::string{} : all[pick(all.size())];
  }

  std::string fresh() {
    static const std::vector<std::string> odd{
      "a",           "a.txt", "a-b",   "a b",     "caf\xc3\xa9", "\xff\xfe", "new\nline",
      "back\\slash", "-rf",   "...",   ".hidden", "C:x",         "'quote\"", "=x",
      "a\x01",       "*",     "a.wh.", "~",       "PaxHeaders",  "\x7f",     "\xe2\x80\xae"};
    auto name = odd[pick(odd.size())];
    if (pick(12) == 0)
      name.append(200, 'n');
    auto path = any(true) + '/' + name;
    if (pick(2) == 0)
      path += std::to_string(pick(1000));
    return path;
  }

  std::string bytes() {
    std::string text(pick(3) == 0 ? pick(200'000) : pick(600), '\0');
    bool noise = pick(2) == 0;
    for (auto& c : text)
      c = static_cast<char>(noise ? random_() : 'a' + random_() % 3);
    return text;
  }

  void mark(const std::string& path) {
    if (pick(3) == 0)
      set_mtime(path, static_cast<int64_t>(pick(2'000'000'000)),
                static_cast<long>(pick(1000000000)));
    if (pick(6) == 0)
      (void) ::setxattr(path.c_str(), "user.note", "some value", pick(10), 0);
    constexpr mode_t modes[] = {0, 0400, 0755, 0644, 0600, 0777, 0111};
    if (pick(3) == 0)
      ::chmod(path.c_str(), modes[pick(7)]);
  }

  void add() {
    auto path = fresh();
    struct stat st;
    if (::lstat(path.c_str(), &st) == 0)
      return;
    switch (pick(7)) {
      case 0:
      case 1:
        if (::mkdir(path.c_str(), 0755) == 0 && pick(2) == 0)
          ::chmod(path.c_str(), pick(2) == 0 ? 0500 : 01777);
        break;
      case 2: {
        static const std::vector<std::string> targets{"/etc/passwd", "../../..",           "a", "",
                                                      "nowhere/x",   std::string(150, 't')};
        auto target = targets[pick(targets.size())];
        (void) ::symlink(target.c_str(), path.c_str());
        break;
      }
      case 3: {
        auto first = any(false);
        if (!first.empty() && !fs::is_symlink(first))
          (void) ::link(first.c_str(), path.c_str());
        break;
      }
      case 4: {
        write_text(path, "begin");
        fs::resize_file(path, 1 << (12 + pick(10)));
        unique_fd fd{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
        (void) !::pwrite(fd.get(), "middle", 6, static_cast<off_t>(pick(1 << 20)));
        break;
      }
      default: write_text(path, bytes()); mark(path);
    }
  }

  void rewrite() {
    auto path = any(false);
    if (!path.empty() && !fs::is_symlink(path))
      write_text(path, bytes());
  }

  void remove() {
    auto path = any(pick(3) == 0);
    if (!path.empty() && path != root_)
      fs::remove_all(path);
  }

  void rename() {
    auto from = any(pick(2) == 0);
    auto to = fresh();
    if (!from.empty() && from != root_)
      (void) ::rename(from.c_str(), to.c_str());
  }

  void touch() {
    auto path = any(pick(4) == 0);
    if (!path.empty() && path != root_ && !fs::is_symlink(path))
      mark(path);
  }

  void replace_kind() {
    auto path = any(pick(2) == 0);
    if (path.empty() || path == root_)
      return;
    bool was_directory = fs::is_directory(fs::symlink_status(path));
    fs::remove_all(path);
    if (was_directory)
      write_text(path, bytes());
    else if (::mkdir(path.c_str(), 0755) == 0)
      write_text(path + "/below", bytes());
  }

  std::string root_;
  std::mt19937 random_;
};

/// `describe`, with the extended attributes that the tests set.
inline std::map<std::string, std::string> describe_all(const std::string& root) {
  auto lines = describe(root);
  for (auto& [path, line] : lines) {
    char value[64];
    auto n = ::lgetxattr((root + '/' + path).c_str(), "user.note", value, sizeof value);
    if (n >= 0)
      line += " note=" + std::string{value, static_cast<size_t>(n)};
  }
  return lines;
}

} // namespace troupe::snapshot::test
