#include "../unit/snapshot/hostile_tree.hpp"

#include <boost/test/unit_test.hpp>

#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <random>
#include <thread>

// A process that stops, forks, flattens, prunes and restores is killed at any instant. What it had
// acknowledged must be there, whole, and nothing must be left that nobody refers to.

using namespace troupe;
using namespace troupe::snapshot;
using namespace troupe::snapshot::test;

namespace {

int crashes() {
  const char* text = std::getenv("TROUPE_CRASHES");
  return text ? std::atoi(text) : 40;
}

/// What the child tells before it dies: which snapshot now has which fingerprint.
struct acknowledgement {
  char id[16];
  char fingerprint[65]; ///< empty: removed; "?": about to be written; "-": about to be removed
};

/// Works until it is killed.
[[noreturn]] void work(const std::string& dir, uint32_t seed, int report) {
  auto repo = make_repository(1);
  auto root = dir + "/root/ws";
  auto store = dir + "/store";
  std::mt19937 random{seed};
  hostile_tree tree{root, seed};
  auto tell = [&](const std::string& id, const std::string& fingerprint) {
    acknowledgement x{};
    id.copy(x.id, sizeof x.id - 1);
    fingerprint.copy(x.fingerprint, sizeof x.fingerprint - 1);
    if (::write(report, &x, sizeof x) != sizeof x)
      ::_exit(3);
  };
  auto fail = [](const error& x) {
    std::fprintf(stderr, "%s %s\n", x.message.c_str(), x.context.c_str());
    ::_exit(2);
  };
  for (;;) {
    auto id = "s" + std::to_string(random() % 4);
    auto ref = local_ref(store, id);
    switch (random() % 8) {
      case 0: {
        auto to = "s" + std::to_string(random() % 4);
        if (to == id || !*repo->restorable(ref))
          break;
        tell(to, "?");
        if (auto ok = repo->link(ref, local_ref(store, to)); !ok)
          fail(ok.error());
        tell(to, "=" + id);
        break;
      }
      case 1:
        if (auto ok = repo->flatten(ref, {}); !ok && *repo->restorable(ref))
          fail(ok.error());
        break;
      case 2:
        if (random() % 4 != 0)
          break;
        tell(id, "-");
        if (auto ok = repo->remove(ref); !ok)
          fail(ok.error());
        tell(id, "");
        break;
      case 3:
        if (!*repo->restorable(ref))
          break;
        if (auto ok = repo->restore({ref, root}, {}, {}); !ok)
          fail(ok.error());
        break;
      case 4: repo->sweep(store); break;
      default: {
        tree.change(5);
        auto fd = open_dir(root);
        persist_request request{ref, "session", "tenant", fd.get(), {}, "manifest"};
        request.base = "s" + std::to_string(random() % 4);
        tell(id, "?");
        auto saved = repo->persist(request, {}, {});
        if (!saved)
          fail(saved.error());
        tell(id, saved->fingerprint);
      }
    }
  }
}

} // namespace

BOOST_AUTO_TEST_CASE(a_killed_process_loses_nothing_that_it_acknowledged) {
  temp_dir dir;
  auto store = dir / "store";
  fs::create_directories(store); // the first crash may come before anything is stored
  auto in_layers = [&](const std::string& folder) {
    auto path = store + "/.layers/" + folder;
    return fs::exists(path) ? names(path) : std::set<std::string>{};
  };
  std::mt19937 random{20240501};
  std::map<std::string, std::string> known; ///< fingerprints; "?": either old or new
  std::map<std::string, std::string> before;
  for (int n = 0; n < crashes(); ++n) {
    int pipes[2];
    BOOST_REQUIRE(::pipe2(pipes, O_CLOEXEC) == 0);
    std::error_code gone;
    fs::remove_all(dir / "root", gone);
    pid_t child = ::fork();
    BOOST_REQUIRE(child >= 0);
    if (child == 0) {
      ::close(pipes[0]);
      work(dir.path, static_cast<uint32_t>(random()), pipes[1]);
    }
    ::close(pipes[1]);
    // Not awaited but chosen: the instant of the crash.
    std::this_thread::sleep_for(std::chrono::microseconds{20'000 + random() % 120'000});
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    BOOST_REQUIRE_MESSAGE(WIFSIGNALED(status), "the work itself failed " << status);
    acknowledgement x;
    while (::read(pipes[0], &x, sizeof x) == static_cast<ssize_t>(sizeof x)) {
      std::string text = x.fingerprint;
      if (text == "?" || text == "-") {
        before[x.id] = text == "-" ? "" : known[x.id];
        known[x.id] = "?";
      } else {
        known[x.id] = text.starts_with('=') ? known[text.substr(1)] : text;
      }
    }
    ::close(pipes[0]);
    auto repo = make_repository(1);
    repo->sweep(store);
    std::set<std::string> there;
    for (auto& [id, fingerprint] : known) {
      auto ref = local_ref(store, id);
      if (!*repo->restorable(ref)) {
        BOOST_REQUIRE_MESSAGE((fingerprint == "?" ? before[id] : fingerprint).empty(),
                              id << " is lost");
        fingerprint.clear();
        continue;
      }
      there.insert(id + ".tar");
      auto verified = repo->verify(ref, {});
      BOOST_REQUIRE_MESSAGE(verified, id << (verified ? "" : verified.error().context));
      auto out = dir / "check";
      BOOST_REQUIRE(repo->restore({ref, out}, {}, {}).has_value());
      auto found = fingerprint_at(out);
      BOOST_REQUIRE_MESSAGE(fingerprint == "?" || fingerprint == found, id << " is another");
      fingerprint = found;
      fs::remove_all(out);
    }
    for (const auto& name : names(store))
      BOOST_REQUIRE_MESSAGE(name == ".layers" || there.contains(name), name << " was left");
    for (const auto& folder : in_layers("new"))
      for (const auto& name : in_layers("new/" + folder))
        BOOST_REQUIRE_MESSAGE(false, name << " was left");
  }
  auto repo = make_repository(1);
  for (const auto& [id, fingerprint] : known)
    BOOST_TEST(repo->remove(local_ref(store, id)).has_value());
  BOOST_TEST(in_layers("blobs/sha256").empty());
}
