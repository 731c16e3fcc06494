#include "backends/granted_ids.hpp"

#include "backends/proc.hpp"
#include "messages/ids.hpp"
#include "messages/unique_fd.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/nsfs.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <string_view>
#include <utility>

namespace troupe::backends {

namespace {

constexpr uint32_t ids_of_one = 65'536;
/// Nobody needs more, and numbers stay far from those that mean something else.
constexpr uint32_t most_ids = 1U << 30;
constexpr const char* namespace_note = "/id-namespace";

std::optional<id_range> granted;
std::string why_not; // NOLINT(cert-err58-cpp)

// -- rights --------------------------------------------------------------------------------------

constexpr uint32_t bit(int capability) {
  return 1U << static_cast<unsigned>(capability);
}

constexpr uint32_t file_rights
  = bit(CAP_CHOWN) | bit(CAP_DAC_OVERRIDE) | bit(CAP_FOWNER) | bit(CAP_FSETID);
constexpr uint32_t kept_rights = file_rights | bit(CAP_SETUID) | bit(CAP_SETGID);

/// Of this thread. Nothing is inheritable: what is executed has nothing.
bool set_rights(uint32_t effective) {
  __user_cap_header_struct head{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {{effective, kept_rights, 0}, {0, 0, 0}};
  return ::syscall(SYS_capset, &head, data) == 0;
}

/// Right after this process came into the namespace, with all rights over it.
bool settle() {
  if (::setgroups(0, nullptr) != 0)
    return false;
  for (int i = 0; i < 64; ++i)
    if ((i >= 32 || (kept_rights & bit(i)) == 0) && ::prctl(PR_CAPBSET_DROP, i, 0, 0, 0) != 0
        && errno != EINVAL)
      return false;
  return set_rights(kept_rights);
}

// -- what is granted -----------------------------------------------------------------------------

/// A line of a map: numbers inside, outside, and how many.
using extent = std::array<uint32_t, 3>;

struct id_maps {
  std::vector<extent> users;
  std::vector<extent> groups;
};

std::string user_name() {
  std::array<char, 4096> buffer;
  passwd entry{};
  passwd* found = nullptr;
  return ::getpwuid_r(::getuid(), &entry, buffer.data(), buffer.size(), &found) == 0 && found
           ? std::string{entry.pw_name}
           : std::string{};
}

bool overlap(const extent& a, const extent& b, size_t side) {
  return a[side] < b[side] + b[2] && b[side] < a[side] + a[2];
}

std::vector<extent> read_map(const char* path) {
  std::istringstream in{read_kernel_file(AT_FDCWD, path)};
  std::vector<extent> out;
  for (extent x; in >> x[0] >> x[1] >> x[2];)
    out.push_back(x);
  return out;
}

// -- the namespace -------------------------------------------------------------------------------

/// What tells a namespace from all others, while it lives.
std::string name_of(int ns) {
  static const auto boot = [] {
    auto text = read_kernel_file(AT_FDCWD, "/proc/sys/kernel/random/boot_id");
    return text.substr(0, text.find('\n'));
  }();
  struct stat info {};
  if (::fstat(ns, &info) != 0)
    return {};
  return boot + ":" + std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino);
}

/// The one that an earlier server on the state directory was in, if anybody still lives in it or
/// below.
unique_fd find_earlier(const std::string& state_dir) {
  std::array<char, 256> text;
  auto n = ::readlink((state_dir + namespace_note).c_str(), text.data(), text.size());
  if (n <= 0)
    return {};
  std::string wanted{text.data(), static_cast<size_t>(n)};
  std::error_code gone;
  for (std::filesystem::directory_iterator i{"/proc", gone}, end; !gone && i != end;
       i.increment(gone)) {
    auto name = i->path().filename().string();
    if (name.find_first_not_of("0123456789") != name.npos)
      continue;
    unique_fd ns{::open((i->path().string() + "/ns/user").c_str(), O_RDONLY | O_CLOEXEC)};
    if (!ns)
      continue;
    if (name_of(ns.get()) == wanted)
      return ns;
    unique_fd parent{::ioctl(ns.get(), NS_GET_PARENT)};
    if (parent && name_of(parent.get()) == wanted)
      return parent;
  }
  return {};
}

void note(const std::string& state_dir, int ns) {
  auto path = state_dir + namespace_note;
  auto beside = path + "." + random_hex(4);
  if (::symlink(name_of(ns).c_str(), beside.c_str()) != 0
      || ::rename(beside.c_str(), path.c_str()) != 0)
    ::unlink(beside.c_str());
}

enum class step : int { space, maps, rights, files, done };

struct progress {
  step at;
  int code;
};

/// A child that goes where this process is about to go, and tries there what will be needed: for
/// this process there is no way back.
class scout {
public:
  scout(const scout&) = delete;
  scout& operator=(const scout&) = delete;

  /// `earlier`: the namespace to be tried; -1: a new one.
  scout(int earlier, const id_maps& maps, const std::string& state_dir) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
      return;
    channel_.reset(ends[0]);
    unique_fd theirs{ends[1]};
    pid_ = ::fork();
    if (pid_ != 0)
      return;
    channel_.reset();
    auto said = explore(theirs.get(), earlier, maps, state_dir);
    char end;
    if (::send(theirs.get(), &said, sizeof said, MSG_NOSIGNAL) == sizeof said)
      (void) !::read(theirs.get(), &end, 1);
    ::_exit(0);
  }

  ~scout() {
    channel_.reset();
    int status;
    if (pid_ > 0)
      while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
      }
  }

  pid_t pid() const {
    return pid_;
  }

  progress hear() {
    progress x{step::space, ECHILD};
    if (pid_ > 0 && ::recv(channel_.get(), &x, sizeof x, 0) != sizeof x)
      x = {step::space, ECHILD};
    return x;
  }

  void go_on() {
    char go = 1;
    ::send(channel_.get(), &go, 1, MSG_NOSIGNAL);
  }

private:
  static progress explore(int channel, int earlier, const id_maps& maps,
                          const std::string& state_dir) {
    if (earlier < 0) {
      progress made{step::space, ::unshare(CLONE_NEWUSER) == 0 ? 0 : errno};
      char go;
      if (made.code != 0)
        return made;
      if (::send(channel, &made, sizeof made, MSG_NOSIGNAL) != sizeof made
          || ::read(channel, &go, 1) != 1)
        ::_exit(1);
    } else if (::setns(earlier, CLONE_NEWUSER) != 0) {
      return {step::space, errno};
    }
    if (read_map("/proc/self/uid_map") != maps.users
        || read_map("/proc/self/gid_map") != maps.groups)
      return {step::maps, EPERM};
    if (!settle())
      return {step::rights, errno};
    return {try_file(state_dir, maps) ? step::done : step::files, errno};
  }

  /// Whether files there can be another user's at all.
  static bool try_file(const std::string& state_dir, const id_maps& maps) {
    auto path = state_dir + "/.ids-" + random_hex(8);
    auto who = maps.users.back()[0] + 1;
    unique_fd fd{::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    if (!fd)
      return false;
    struct stat info {};
    bool given = ::fchown(fd.get(), who, who) == 0 && ::fstat(fd.get(), &info) == 0
                 && ((info.st_uid == who && info.st_gid == who) || (errno = EPERM, false));
    auto code = errno;
    given = ::unlink(path.c_str()) == 0 && given;
    errno = code;
    return given;
  }

  unique_fd channel_;
  pid_t pid_ = -1;
};

// -- the helpers with the rights of root ---------------------------------------------------------

/// Runs newuidmap or newgidmap; what it complains of, empty when it is content.
std::string write_map(const char* program, pid_t pid, const std::vector<extent>& map) {
  std::vector<std::string> text{program, std::to_string(pid)};
  for (const auto& x : map)
    for (auto number : x)
      text.push_back(std::to_string(number));
  std::vector<char*> argv;
  argv.reserve(text.size() + 1);
  for (auto& x : text)
    argv.push_back(x.data());
  argv.push_back(nullptr);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0)
    return std::strerror(errno);
  unique_fd out{ends[0]};
  unique_fd in{ends[1]};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, in.get(), STDERR_FILENO);
  pid_t child = -1;
  auto code = ::posix_spawnp(&child, program, &actions, nullptr, argv.data(), ::environ);
  ::posix_spawn_file_actions_destroy(&actions);
  in.reset();
  if (code == ENOENT)
    return std::string{program} + " is missing (Debian: package uidmap)";
  if (code != 0)
    return std::string{program} + ": " + std::strerror(code);
  std::string said;
  std::array<char, 512> buffer;
  for (ssize_t n; (n = ::read(out.get(), buffer.data(), buffer.size())) > 0;)
    said.append(buffer.data(), static_cast<size_t>(n));
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status == 0)
    return {};
  said = said.substr(0, said.find('\n'));
  return said.empty() ? std::string{program} + " failed" : said;
}

error no_range(const std::string& cause) {
  return make_error(errc::sandbox_config_invalid, op::start,
                    "the wall `user_range` cannot be had: " + cause)
    .with("wall", "user_range")
    .with("cause", cause);
}

std::string explain(const progress& x) {
  std::string what;
  switch (x.at) {
    case step::space: what = "making a user namespace"; break;
    case step::maps: what = "ids are not mapped as asked"; break;
    case step::rights: what = "taking the ids"; break;
    case step::files: what = "files of the state directory cannot be another user's"; break;
    case step::done: break;
  }
  return what + ": " + std::strerror(x.code);
}

/// A scout's namespace that has all that is needed, or why there is none.
result<unique_fd> try_namespace(int earlier, const id_maps& maps, const std::string& state_dir) {
  scout one{earlier, maps, state_dir};
  if (earlier < 0) {
    if (auto made = one.hear(); made.code != 0)
      return unexpected{no_range(explain(made))};
    for (auto [program, map] :
         {std::pair{"newuidmap", &maps.users}, std::pair{"newgidmap", &maps.groups}})
      if (auto why = write_map(program, one.pid(), *map); !why.empty())
        return unexpected{no_range(why)};
    one.go_on();
  }
  if (auto said = one.hear(); said.at != step::done)
    return unexpected{no_range(explain(said))};
  auto path = "/proc/" + std::to_string(one.pid()) + "/ns/user";
  unique_fd ns{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (!ns)
    return unexpected{no_range("opening the user namespace: " + std::string{std::strerror(errno)})};
  return ns;
}

/// What newuidmap and newgidmap shall write: our own ids stay what they are, and so do the granted
/// users'; the granted groups get the numbers of the users.
result<id_maps> plan_maps(id_range& out) {
  if (::getuid() != ::geteuid() || ::getgid() != ::getegid())
    return unexpected{no_range("the server runs with ids that are not its own")};
  auto name = user_name();
  auto find = [&](const char* file) {
    return find_id_range(read_kernel_file(AT_FDCWD, file), name, ::getuid(), ids_of_one);
  };
  auto users = find("/etc/subuid");
  auto groups = find("/etc/subgid");
  auto who = name.empty() ? "user " + std::to_string(::getuid()) : name;
  for (auto [file, range] : {std::pair{"/etc/subuid", &users}, std::pair{"/etc/subgid", &groups}})
    if (!*range)
      return unexpected{no_range(who + " has no range of 65536 ids in " + file)};
  auto count = std::min({users->count, groups->count, most_ids}) / ids_of_one * ids_of_one;
  out = {users->first, count};
  id_maps maps{{{::getuid(), ::getuid(), 1}, {users->first, users->first, count}},
               {{::getgid(), ::getgid(), 1}, {users->first, groups->first, count}}};
  if (overlap(maps.users[0], maps.users[1], 0) || overlap(maps.groups[0], maps.groups[1], 0)
      || overlap(maps.groups[0], maps.groups[1], 1))
    return unexpected{no_range("the range of " + who + " has its own ids in it")};
  return maps;
}

result<void> enter(const std::string& state_dir) {
  id_range range;
  auto maps = plan_maps(range);
  if (!maps)
    return unexpected{std::move(maps.error())};
  if (auto made = workspace::open_or_make_directory(state_dir, 0700); !made)
    return unexpected{std::move(made.error())};
  ::signal(SIGCHLD, SIG_DFL); // ignored by whoever started us, it would take the exit codes away
  // First the one that an earlier server was in: only there may its sandboxes be signalled.
  result<unique_fd> ns = unexpected{no_range("there is no earlier namespace")};
  if (auto earlier = find_earlier(state_dir))
    ns = try_namespace(earlier.get(), *maps, state_dir);
  if (!ns)
    ns = try_namespace(-1, *maps, state_dir);
  if (!ns)
    return unexpected{std::move(ns.error())};
  if (::setns(ns->get(), CLONE_NEWUSER) != 0)
    return unexpected{
      no_range("entering the user namespace: " + std::string{std::strerror(errno)})};
  if (!settle())
    std::abort(); // the scout could; with other rights than planned, nothing may be done
  note(state_dir, ns->get());
  granted = range;
  return {};
}

} // namespace

const std::optional<id_range>& granted_ids() {
  return granted;
}

const std::string& why_no_granted_ids() {
  return why_not;
}

result<void> enter_granted_ids(const std::string& state_dir) {
  if (granted)
    return {};
  auto entered = enter(state_dir);
  if (!entered) {
    auto text = entered.error().message;
    auto colon = text.find("cannot be had: ");
    why_not = colon == text.npos ? text : text.substr(colon + std::strlen("cannot be had: "));
  }
  return entered;
}

std::optional<id_range> find_id_range(const std::string& text, const std::string& user,
                                      uint32_t uid, uint32_t least) {
  std::istringstream lines{text};
  for (std::string line; std::getline(lines, line);) {
    auto first = line.find(':');
    auto second = first == line.npos ? first : line.find(':', first + 1);
    if (second == line.npos)
      continue;
    auto who = line.substr(0, first);
    if (who.empty() || (who != user && who != std::to_string(uid)))
      continue;
    id_range x;
    auto number = [&](size_t from, size_t to, uint32_t& out) {
      auto* begin = line.data() + from;
      auto* end = line.data() + to;
      auto [at, fault] = std::from_chars(begin, end, out);
      return fault == std::errc{} && at == end;
    };
    // The highest numbers mean "none" and "nobody".
    if (number(first + 1, second, x.first) && number(second + 1, line.size(), x.count)
        && x.first != 0 && x.count >= least && x.first < UINT32_MAX - x.count)
      return x;
  }
  return std::nullopt;
}

void use_file_rights(bool yes) {
  if (granted && !set_rights(yes ? kept_rights : kept_rights & ~file_rights))
    std::abort(); // with the rights of somebody else, nothing may be done
}

} // namespace troupe::backends
