#include "actors/manifest_supervisor.hpp"
#include "fixture.hpp"
#include "shared_services.hpp"

#include <map>

using namespace troupe;
using namespace troupe::actors;

namespace {

/// What the fake entries do, and what they saw.
struct script {
  size_t running = 0;
  size_t most = 0;
  std::map<std::string, int> tries;
  std::map<std::string, int> kill_first; ///< name -> how many of its entry actors die at work
  std::map<std::string, errc> fail_with;
  std::vector<std::string> finished;
};

/// Holds a job for a turn, then does what the script says: no pool, no disk.
struct fake_entry_state {
  using handle_type = entry_actor;
  static constexpr const char* name = "fake_entry";

  fake_entry_state(self_ptr<entry_actor> ptr, script* s) : self(ptr), what(s) {
    what->most = std::max(what->most, ++what->running);
  }
  ~fake_entry_state() {
    --what->running;
  }

  entry_actor::behavior_type make_behavior() {
    return {
      [this](entry_job_ptr& job) -> caf::result<materialized_files> {
        reply_to<materialized_files> reply{self};
        self->send(entry_actor{self}, action{[this, job, reply] { work(*job, reply); }});
        return reply;
      },
      [](action& f) { f(); },
    };
  }

  void work(const entry_job& job, const reply_to<materialized_files>& reply) {
    ++what->tries[job.name];
    if (what->kill_first[job.name]-- > 0) {
      self->quit(caf::exit_reason::kill);
      return;
    }
    if (auto i = what->fail_with.find(job.name); i != what->fail_with.end()) {
      reply.finish(unexpected(make_error(i->second, op::materialize, "as the script says")));
    } else {
      what->finished.push_back(job.name);
      reply.finish(materialized_files{{{"/ws/" + job.name, "sum"}}});
    }
    self->quit();
  }

  self_ptr<entry_actor> self;
  script* what;
};

struct fixture {
  explicit fixture(unsigned seed = 1) : world(seed) {}

  named_entry local(const std::string& path) {
    named_entry x;
    x.path = path;
    x.entry.kind = entry_kind::local_file;
    x.entry.src = "x";
    return x;
  }

  std::optional<result<materialized_files>> apply(manifest m, std::optional<int32_t> parallel = 4) {
    application work;
    work.manifest = std::make_shared<const manifest>(std::move(m));
    work.limits.manifest_entries = parallel;
    work.spawn_entry = [this]() -> entry_actor {
      return world.system.spawn<state_actor<fake_entry_state>>(&what);
    };
    auto x = world.system.spawn<state_actor<manifest_supervisor_state>>(std::ref(shared.value),
                                                                        std::move(work));
    return world.call<materialized_files>(x, run_application{});
  }

  tests::deterministic_system world;
  tests::shared_services shared;
  script what;
};

} // namespace

BOOST_AUTO_TEST_SUITE(manifest_supervisor)

BOOST_AUTO_TEST_CASE(never_more_than_the_limit_and_results_in_manifest_order) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    fixture f{seed};
    manifest m;
    for (int i = 0; i < 20; ++i)
      m.entries.push_back(f.local("e" + std::to_string(i)));
    auto done = f.apply(m, 3);
    BOOST_REQUIRE(done && *done);
    BOOST_TEST(f.what.most == 3u, "seed " << seed);
    BOOST_REQUIRE((*done)->items.size() == 20u);
    for (size_t i = 0; i < 20; ++i)
      BOOST_TEST((*done)->items[i].path == "/ws/e" + std::to_string(i), "seed " << seed);
  }
}

BOOST_AUTO_TEST_CASE(no_limit_runs_all_at_once) {
  fixture f;
  manifest m;
  for (int i = 0; i < 12; ++i)
    m.entries.push_back(f.local("e" + std::to_string(i)));
  BOOST_REQUIRE(f.apply(m, std::nullopt)->has_value());
  BOOST_TEST(f.what.most == 12u);
}

BOOST_AUTO_TEST_CASE(an_entry_that_overlaps_waits_for_the_one_it_overlaps) {
  fixture f;
  manifest m;
  m.entries = {f.local("d/x"), f.local("other"), f.local("d")};
  BOOST_REQUIRE(f.apply(m)->has_value());
  BOOST_TEST(f.what.finished.back() == "d");
}

BOOST_AUTO_TEST_CASE(children_come_after_their_directory) {
  fixture f;
  named_entry dir;
  dir.path = "d";
  dir.entry.kind = entry_kind::dir;
  dir.entry.children = {f.local("a"), f.local("b")};
  manifest m;
  m.entries = {dir};
  BOOST_REQUIRE(f.apply(m)->has_value());
  BOOST_REQUIRE(f.what.finished.size() == 3u);
  BOOST_TEST(f.what.finished[0] == "d");
}

BOOST_AUTO_TEST_CASE(an_entry_whose_actor_dies_is_done_by_another) {
  fixture f;
  manifest m;
  m.entries = {f.local("a"), f.local("b")};
  f.what.kill_first["a"] = 2;
  auto done = f.apply(m);
  BOOST_REQUIRE(done && *done);
  BOOST_TEST(f.what.tries["a"] == 3);
  BOOST_TEST((*done)->items.size() == 2u);
}

BOOST_AUTO_TEST_CASE(an_entry_whose_actors_keep_dying_fails_the_application) {
  fixture f;
  manifest m;
  m.entries = {f.local("a")};
  f.what.kill_first["a"] = 100;
  auto done = f.apply(m);
  BOOST_REQUIRE(done.has_value());
  BOOST_REQUIRE(!done->has_value());
  BOOST_TEST((done->error().code == errc::interrupted));
  BOOST_TEST(f.what.tries["a"] == 3);
}

BOOST_AUTO_TEST_CASE(a_permanent_error_is_not_tried_again_and_cancels_the_rest) {
  fixture f;
  manifest m;
  for (int i = 0; i < 10; ++i)
    m.entries.push_back(f.local("e" + std::to_string(i)));
  f.what.fail_with["e0"] = errc::local_file_read_error;
  auto done = f.apply(m, 1);
  BOOST_REQUIRE(done.has_value());
  BOOST_REQUIRE(!done->has_value());
  BOOST_TEST((done->error().code == errc::local_file_read_error));
  BOOST_TEST(f.what.tries["e0"] == 1);
  BOOST_TEST(f.what.finished.empty());
}

BOOST_AUTO_TEST_SUITE_END()
