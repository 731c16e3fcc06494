#include "snapshot/layer_cache.hpp"
#include "snapshot/repository.hpp"
#include "support.hpp"

#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <zstd.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>

// What stops, checkpoints and restores cost against the bare work of the same kind, by turns in one
// run: `bench_snapshot_layers [files] [megabytes]`. One JSON line for each.

namespace {

using namespace troupe;
using namespace troupe::bench;
namespace fs = std::filesystem;

int rounds = 7;

/// Half like text, half noise; sizes as of a source tree.
void generate(const std::string& root, size_t files, double bytes) {
  std::mt19937_64 random{42};
  std::lognormal_distribution<double> size{9.5, 1.4};
  std::vector<double> sizes(files);
  double sum = 0;
  for (auto& x : sizes)
    sum += x = std::min(size(random), 3e6);
  fs::create_directories(root);
  std::string content;
  for (size_t i = 0; i < files; ++i) {
    auto dir = root + "/d" + std::to_string(i / 20);
    if (i % 20 == 0)
      fs::create_directory(dir);
    content.resize(static_cast<size_t>(sizes[i] / sum * bytes) + 1);
    uint64_t word = 0;
    for (size_t k = 0; k < content.size(); ++k) {
      if (k % 8 == 0)
        word = random();
      auto byte = static_cast<unsigned char>(word >> (8 * (k % 8)));
      content[k] = static_cast<char>(i % 2 ? byte : 'a' + (byte & byte >> 4 & 15));
    }
    unique_fd fd{
      ::open((dir + "/f" + std::to_string(i)).c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644)};
    if (::write(fd.get(), content.data(), content.size()) != static_cast<ssize_t>(content.size()))
      die("write");
  }
}

struct found_file {
  std::string path;
  struct stat info;
};

/// The bare walk: getdents and stat.
void walk(int at, const std::string& path, std::vector<found_file>& out) {
  int fd = ::openat(at, path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* dir = ::fdopendir(fd);
  std::vector<std::string> below;
  while (auto* item = ::readdir(dir)) {
    if (item->d_name[0] == '.')
      continue;
    found_file x{path.empty() ? item->d_name : path + '/' + item->d_name, {}};
    ::fstatat(fd, item->d_name, &x.info, AT_SYMLINK_NOFOLLOW);
    if (S_ISDIR(x.info.st_mode))
      below.push_back(x.path);
    out.push_back(std::move(x));
  }
  ::closedir(dir);
  for (const auto& name : below)
    walk(at, name, out);
}

size_t bare_walk(const std::string& root) {
  unique_fd fd{::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  std::vector<found_file> all;
  walk(fd.get(), "", all);
  return all.size();
}

/// Read, ustar header, libzstd at level 1 with two workers, written to a file and synced.
void bare_loop(const std::string& root, const std::string& to) {
  unique_fd fd{::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  unique_fd out{::open(to.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
  std::vector<found_file> all;
  walk(fd.get(), "", all);
  static ZSTD_CCtx* zstd = ZSTD_createCCtx();
  ZSTD_CCtx_reset(zstd, ZSTD_reset_session_and_parameters);
  ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, 1);
  ZSTD_CCtx_setParameter(zstd, ZSTD_c_nbWorkers, 2);
  static std::vector<char> packed(1 << 18);
  static std::vector<char> buffer(1 << 20);
  size_t fill = 0;
  auto flush = [&](ZSTD_EndDirective how) {
    ZSTD_inBuffer in{buffer.data(), std::exchange(fill, 0), 0};
    for (size_t left = 1; how == ZSTD_e_end ? left != 0 : in.pos < in.size;) {
      ZSTD_outBuffer x{packed.data(), packed.size(), 0};
      left = ZSTD_compressStream2(zstd, &x, &in, how);
      if (ZSTD_isError(left) || ::write(out.get(), packed.data(), x.pos) < 0)
        die("zstd");
    }
  };
  auto room = [&] {
    if (buffer.size() - fill < 1024)
      flush(ZSTD_e_continue);
  };
  for (const auto& x : all) {
    room();
    char* h = buffer.data() + fill;
    std::memset(h, 0, 512);
    x.path.copy(h, 100);
    std::snprintf(h + 124, 12, "%011llo", static_cast<unsigned long long>(x.info.st_size));
    fill += 512;
    if (!S_ISREG(x.info.st_mode))
      continue;
    unique_fd file{::openat(fd.get(), x.path.c_str(), O_RDONLY | O_CLOEXEC)};
    for (auto left = static_cast<size_t>(x.info.st_size); left > 0;) {
      room();
      auto n = ::read(file.get(), buffer.data() + fill, std::min(left, buffer.size() - fill));
      if (n <= 0)
        break;
      fill += static_cast<size_t>(n);
      left -= static_cast<size_t>(n);
    }
    fill = std::min((fill + 511) / 512 * 512, buffer.size());
  }
  flush(ZSTD_e_end);
  ::fsync(out.get());
}

void change(const std::string& path, int n) {
  std::string text(4096, '\0');
  std::mt19937_64 random{static_cast<uint64_t>(n)};
  for (auto& c : text)
    c = static_cast<char>(random());
  unique_fd fd{::open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC)};
  if (::write(fd.get(), text.data(), text.size()) != 4096)
    die(path);
}

void require(bool ok, const std::string& what) {
  if (!ok) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(1);
  }
}

snapshot::persist_request request_for(const snapshot_ref& ref, int root) {
  return {ref, "session", "tenant", root, {}, "manifest"};
}

snapshot_outcome persist(snapshot::repository& repo, const snapshot::persist_request& request) {
  auto saved = repo.persist(request, {}, {});
  require(saved.has_value(), saved ? "" : saved.error().context);
  return std::move(*saved);
}

} // namespace

int main(int argc, char** argv) {
  size_t files = argc > 1 ? static_cast<size_t>(std::atoll(argv[1])) : 2000;
  double megabytes = argc > 2 ? std::atof(argv[2]) : 100;
  if (files > 10'000)
    rounds = 3;
  auto base = argc > 3 ? std::string{argv[3]} : std::string{"."};
  std::string name = base + "/bench-layers-XXXXXX";
  if (!::mkdtemp(name.data()))
    die("mkdtemp");
  auto dir = fs::canonical(name).string();
  auto root = dir + "/root";
  auto store = dir + "/store";
  generate(root, files, megabytes * 1e6);
  auto repo = snapshot::make_repository(2, {dir + "/cache", uint64_t{1} << 40});
  auto open_root = [](const std::string& path) {
    return unique_fd{::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  };
  auto ref_of = [&](int i) {
    return snapshot_ref{snapshot_kind::local, "s" + std::to_string(i), store, {}};
  };
  std::vector<double> ours;
  std::vector<double> plain;
  uint64_t new_bytes = 0;

  for (int i = -1; i < rounds; ++i) { // the first round warms up
    auto fd = open_root(root);
    auto mine = timed([&] { persist(*repo, request_for(ref_of(i + 1), fd.get())); });
    auto theirs = timed([&] { bare_loop(root, dir + "/bare.tar.zst"); });
    if (i < 0)
      continue;
    ours.push_back(mine);
    plain.push_back(theirs);
  }
  print_pair("first_stop", "stop_ms", ours, "bare_loop_ms", plain);

  ours.clear(), plain.clear();
  auto fd = open_root(root);
  for (int i = 0; i < 3 * rounds; ++i) {
    change(root + "/d1/f21", i);
    ours.push_back(timed([&] {
      new_bytes = std::max(new_bytes, persist(*repo, request_for(ref_of(0), fd.get())).new_bytes);
    }));
    plain.push_back(timed([&] { bare_walk(root); }));
    if (i % 10 == 9)
      require(repo->flatten(ref_of(0), {}).has_value(), "flatten");
  }
  print_pair("stop_4k_changed", "stop_ms", ours, "stat_walk_ms", plain);
  std::printf("{\"bench\":\"stored_4k_changed\",\"bytes\":%llu,\"above_change\":%lld}\n",
              static_cast<unsigned long long>(new_bytes), static_cast<long long>(new_bytes) - 4096);

  ours.clear(), plain.clear();
  for (int i = 0; i < 3 * rounds; ++i) {
    ours.push_back(timed([&] { persist(*repo, request_for(ref_of(0), fd.get())); }));
    plain.push_back(timed([&] { bare_walk(root); }));
  }
  print_pair("stop_unchanged", "stop_ms", ours, "stat_walk_ms", plain);

  ours.clear(), plain.clear();
  for (int i = 0; i < rounds; ++i) {
    ours.push_back(timed([&] {
      auto ok = repo->restore({ref_of(1), dir + "/out"}, {}, {});
      require(ok.has_value(), ok ? "" : ok.error().context);
    }));
    fs::remove_all(dir + "/out");
    if (i == 0)
      run("tar -C " + root + " -cf - . | zstd -1 -q -f -o " + dir + "/plain.tar.zst");
    fs::create_directory(dir + "/out");
    plain.push_back(
      timed([&] { run("zstd -dcq " + dir + "/plain.tar.zst | tar -xf - -C " + dir + "/out"); }));
    fs::remove_all(dir + "/out");
  }
  print_pair("cold_restore", "restore_ms", ours, "zstd_tar_ms", plain);

  // -- overlays, in a mount namespace of our own
  auto overlay = dir + "/overlay";
  for (auto* part : {"", "/merged", "/upper", "/work"})
    fs::create_directory(overlay + part);
  auto cold = timed([&] { require(repo->lease(ref_of(1), {}).has_value(), "no cache here"); });
  auto lease = repo->lease(ref_of(1), {});
  std::string lower;
  for (auto i = (*lease)->folders.size(); i-- > 0;)
    lower += (*lease)->folders[i] + (i == 0 ? "" : ":");
  auto options
    = "lowerdir=" + lower + ",upperdir=" + overlay + "/upper,workdir=" + overlay + "/work";
  if (::unshare(CLONE_NEWNS) != 0
      || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0
      || ::mount("overlay", (overlay + "/merged").c_str(), "overlay", 0, options.c_str()) != 0) {
    std::printf("{\"bench\":\"overlay\",\"skipped\":\"%s\"}\n", std::strerror(errno));
  } else {
    ours.clear(), plain.clear();
    auto merged = open_root(overlay + "/merged");
    auto upper = open_root(overlay + "/upper");
    new_bytes = 0;
    for (int i = 0; i < 2 * rounds; ++i) {
      for (int k = 0; k < (files > 10'000 ? 10 : 1); ++k)
        change(overlay + "/merged/d" + std::to_string(k) + "/f" + std::to_string(20 * k + 1),
               100 * i + k);
      auto request = request_for(ref_of(1), merged.get());
      request.upper_fd = upper.get();
      request.lower_layers = (*lease)->digests;
      ours.push_back(
        timed([&] { new_bytes = std::max(new_bytes, persist(*repo, request).new_bytes); }));
      plain.push_back(timed([&] { bare_walk(root); }));
    }
    print_pair("checkpoint_overlay", "checkpoint_ms", ours, "stat_walk_ms", plain);
    std::printf("{\"bench\":\"checkpoint_overlay_stored\",\"bytes\":%llu}\n",
                static_cast<unsigned long long>(new_bytes));
    ::umount2((overlay + "/merged").c_str(), MNT_DETACH);
    auto forks = timed([&] {
      for (int i = 0; i < 100; ++i)
        require(repo->link(ref_of(1), {snapshot_kind::local, "fork" + std::to_string(i), store, {}})
                  .has_value(),
                "link");
    });
    auto warm = timed([&] { require(repo->lease(ref_of(1), {}).has_value(), "lease"); });
    std::printf("{\"bench\":\"layer_cache\",\"unpack_ms\":%.1f,\"lease_ms\":%.2f,"
                "\"hundred_links_ms\":%.1f}\n",
                cold / 1000, warm / 1000, forks / 1000);
  }
  struct rusage use;
  ::getrusage(RUSAGE_SELF, &use);
  std::printf("{\"bench\":\"memory\",\"peak_rss_mb\":%.1f,\"files\":%zu,\"megabytes\":%.0f}\n",
              static_cast<double>(use.ru_maxrss) / 1024, files, megabytes);
  lease = {};
  fs::remove_all(dir);
}
