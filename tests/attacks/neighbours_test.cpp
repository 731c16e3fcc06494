#include "attack_fixture.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <fstream>

// What a program does to the sandbox beside its own, to the server that serves both, and to what is
// made of its files later.

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::backends;
using namespace troupe::backends::test;

namespace {

BOOST_TEST_GLOBAL_FIXTURE(private_mounts);

/// A second sandbox of the same server. After every attack it still does what it is told, at once.
struct neighbours : attack_fixture {
  neighbours() {
    // `observe` comes before a life begins.
    shutdown();
    BOOST_REQUIRE(box->open());
    other_config = config;
    other_config.session_id = "22222222-2222-4333-8444-555555555555";
    other_config.private_dir = dir.path + "/neighbour";
    other_config.workspace_root = other_config.private_dir + "/workspace";
    other = std::move(*host->make_sandbox(backend_kind::isolated, other_config));
    BOOST_REQUIRE(other->open());
    BOOST_TEST(in_other("echo secret > mine; chmod 666 mine; echo secret > /tmp/shared; "
                        "chmod 777 /tmp/shared; echo ok")
               == "ok\n");
  }

  ~neighbours() {
    BOOST_TEST(in_other("cat mine /tmp/shared") == "secret\nsecret\n");
    std::promise<void> gone;
    other->shutdown([&] { gone.set_value(); });
    gone.get_future().wait();
  }

  running start_in_other(const exec_request& request) {
    auto spec = other->prepare(request, {}).value();
    auto promise = std::make_shared<std::promise<result<command_exit>>>();
    running out;
    out.exit = promise->get_future();
    out.id = other->exec(
      std::move(spec),
      {[promise](result<command_exit> x) { promise->set_value(std::move(x)); }, nullptr});
    return out;
  }

  std::string in_other(const std::string& text) {
    auto x = start_in_other(script(text)).exit.get();
    BOOST_REQUIRE_MESSAGE(x, (x ? "" : x.error().message));
    return x->stdout_data;
  }

  int64_t resident_kib() {
    rusage x{};
    ::getrusage(RUSAGE_SELF, &x);
    return x.ru_maxrss;
  }

  sandbox_config other_config;
  std::unique_ptr<sandbox> other;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(attacks_on_neighbours, neighbours,
                         *boost::unit_test::precondition(is_root))

// -- the other sandbox ---------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(its_processes_are_neither_seen_nor_signalled) {
  auto victim = start_in_other(plain({"/bin/sleep", "54321"}));
  BOOST_REQUIRE(eventually([&] { return in_other("pgrep -c sleep") == "1\n"; }));
  auto request = script("pgrep -c sleep; for p in $(seq 2 3000); do kill -9 $p 2>/dev/null; done; "
                        "kill -9 -1; true");
  (void) run(request);
  request.user = "root";
  (void) run(request);
  BOOST_TEST(in_other("pgrep -c sleep") == "1\n");
  other->cancel(victim.id);
  victim.exit.wait();
}

BOOST_AUTO_TEST_CASE(its_files_and_its_tmp_have_no_path_from_here) {
  auto root = config;
  for (const auto& path : {other_config.workspace_root, other_config.private_dir, dir.path,
                           std::string{"/workspace/../neighbour/workspace/mine"},
                           std::string{"/proc/1/root/workspace/mine"}}) {
    auto request = script("ls -A " + path + " /workspace/.. 2>/dev/null | grep -c neighbour; cat "
                          + path + "/mine 2>/dev/null | grep -c secret");
    BOOST_TEST(run(request).value().stdout_data == "0\n0\n", path);
    request.user = "root";
    BOOST_TEST(run(request).value().stdout_data == "0\n0\n", path);
  }
  BOOST_TEST(run_script("cat /tmp/shared").exit_code != 0);
  // Had a path led there, its owner would be nobody who exists here.
  struct stat here {};
  struct stat there {};
  BOOST_REQUIRE(::stat(config.workspace_root.c_str(), &here) == 0);
  BOOST_REQUIRE(::stat(other_config.workspace_root.c_str(), &there) == 0);
  BOOST_TEST((here.st_uid > there.st_uid ? here.st_uid - there.st_uid : there.st_uid - here.st_uid)
             >= 65'536U);
}

BOOST_AUTO_TEST_CASE(its_abstract_sockets_ports_and_ipc_are_its_own) {
  auto request = plain({"/usr/bin/python3", "-c",
                        "import socket,time\n"
                        "a=socket.socket(socket.AF_UNIX);a.bind(b'\\0guess');a.listen()\n"
                        "b=socket.socket();b.bind(('127.0.0.1',7777));b.listen()\n"
                        "open('up','w').close();time.sleep(60)"});
  auto server = start_in_other(request);
  BOOST_REQUIRE(eventually([&] { return in_other("ls up") == "up\n"; }));
  BOOST_TEST(python("s=socket.socket(socket.AF_UNIX)\nprint(s.connect_ex(b'\\0guess')!=0)\n"
                    "s=socket.socket();s.settimeout(2)\nprint(s.connect_ex(('127.0.0.1',7777))!=0)")
               .stdout_data
             == "True\nTrue\n");
  BOOST_TEST(in_other("ipcmk -M 4096 >/dev/null; ipcs -m | grep -c 4096") == "1\n");
  BOOST_TEST(run_script("ipcs -m | grep -c 4096").stdout_data == "0\n");
  other->cancel(server.id);
  server.exit.wait();
}

BOOST_AUTO_TEST_CASE(neither_ipv6_nor_a_link_address_leads_anywhere) {
  unique_fd listener{::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_addr = in6addr_loopback;
  if (!listener
      || ::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0)
    return; // this machine has no IPv6 to be reached by
  BOOST_REQUIRE(::listen(listener.get(), 1) == 0);
  socklen_t size = sizeof address;
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  auto port = std::to_string(ntohs(address.sin6_port));
  for (auto target :
       {"::1", "::ffff:127.0.0.1", "fd00:ec2::254", "fe80::1%lo", "2606:4700::1111", "ff02::1"})
    BOOST_TEST(python("s=socket.socket(socket.AF_INET6);s.settimeout(2)\n"
                      "print(s.connect_ex(('"
                      + std::string{target} + "'," + port + "))!=0)")
                   .stdout_data
                 == "True\n",
               target);
}

// -- what they share: the machine ----------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_thread_bomb_ends_at_its_limit_and_is_told) {
  auto out
    = python("import threading,time\n"
             "n=0\n"
             "try:\n"
             " while True: threading.Thread(target=time.sleep,args=(5,),daemon=True).start();n+=1\n"
             "except RuntimeError: pass\n"
             "print(0<n<64); sys.stdout.flush(); os._exit(1)");
  BOOST_TEST(out.stdout_data == "True\n");
  BOOST_TEST(told(R"("limit":"pids")"));
  BOOST_TEST(in_other("echo alive") == "alive\n");
}

BOOST_AUTO_TEST_CASE(memory_beyond_the_limit_is_told) {
  BOOST_TEST(python("x=bytearray(400<<20)").exit_code != 0);
  BOOST_TEST(told(R"("limit":"memory")"));
}

BOOST_AUTO_TEST_CASE(output_without_end_costs_the_server_no_memory_and_the_neighbour_no_time) {
  auto before = resident_kib();
  auto flood = prepare(plain({"/usr/bin/head", "-c", "1G", "/dev/zero"}));
  flood.output_limit = 1 << 20;
  auto collected = start(std::move(flood));
  // Beside it, streams that nobody reads.
  std::vector<running> unread;
  for (int i = 0; i < 4; ++i) {
    auto spec = prepare(plain({"/usr/bin/yes"}));
    spec.streamed = true;
    spec.credit = 1;
    unread.push_back(start(std::move(spec), [](stream_id, std::vector<char>) {}));
  }
  for (int i = 0; i < 50; ++i)
    BOOST_TEST(in_other("echo alive") == "alive\n");
  auto done = collected.exit.get().value();
  BOOST_TEST(done.stdout_truncated);
  BOOST_TEST(done.stdout_data.size() == size_t{1} << 20);
  for (auto& x : unread) {
    box->cancel(x.id);
    BOOST_TEST(x.exit.get().value().cancelled);
  }
  BOOST_TEST(resident_kib() - before < 64 * 1024);
}

BOOST_AUTO_TEST_CASE(terminals_that_are_used_up_are_its_own) {
  auto hog = start(prepare(plain({"/usr/bin/python3", "-c",
                                  "import os,pty,resource,time\n"
                                  "for i in range(8):\n"
                                  " if os.fork()==0:\n"
                                  "  l=[]\n"
                                  "  try:\n"
                                  "   while True: l.append(pty.openpty())\n"
                                  "  except OSError: pass\n"
                                  "  open('full%d'%i,'w').close();time.sleep(60)\n"
                                  "time.sleep(60)"})));
  BOOST_REQUIRE(eventually([&] { return exists("full0") && exists("full7"); }));
  BOOST_TEST(python("import pty\ntry: pty.openpty();print('open')\nexcept OSError: print('none')")
               .stdout_data
             == "none\n");
  std::promise<result<command_exit>> ended;
  (void) other->open_terminal(
    other->prepare(script("tty"), {}).value(), {true, 24, 80},
    {[&](result<command_exit> x) { ended.set_value(std::move(x)); }, [](std::vector<char>) {}});
  BOOST_TEST(ended.get_future().get().value().exit_code == 0);
  box->cancel(hog.id);
  hog.exit.wait();
}

// -- after the end -------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_double_fork_with_a_session_of_its_own_ends_with_its_command) {
  auto x = start(prepare(script("(setsid sh -c '(setsid sleep 65432 >/dev/null 2>&1 &) ; "
                                "setsid sleep 65432 >/dev/null 2>&1 &' &); sleep 1000")));
  BOOST_REQUIRE(eventually([&] { return run_script("pgrep -xc sleep").stdout_data == "3\n"; }));
  box->cancel(x.id);
  BOOST_TEST(x.exit.get().value().cancelled);
  BOOST_TEST(eventually([&] { return run_script("pgrep -xc sleep").stdout_data == "0\n"; }));
}

BOOST_AUTO_TEST_CASE(orphans_that_fork_on_and_on_end_with_the_sandbox) {
  auto x = start(prepare(script("f() { (setsid sh -c 'sleep 0.01' &) ; }; while :; do f; done")));
  BOOST_TEST(run_script("sleep 0.2; echo alive").stdout_data == "alive\n");
  shutdown();
  BOOST_TEST(x.exit.get().value().cancelled);
  BOOST_TEST(box->usage().pids == 0);
  BOOST_REQUIRE(box->open());
}

// -- what becomes of its files -------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(no_whiteout_can_be_forged) {
  auto request
    = script("mknod w c 0 0 2>/dev/null; mknod .wh.x c 0 0 2>/dev/null; ls -A w 2>/dev/null");
  BOOST_TEST(run(request).value().stdout_data == "");
  request.user = "root";
  BOOST_TEST(run(request).value().stdout_data == "");
  BOOST_TEST(run_script("echo kept > d; mkdir e; echo kept > e/f").exit_code == 0);
  // Names that an overlay reads in a layer below: the kernel's own are refused. Whatever may be
  // set, the files stay what they are, for programs and for the file interface.
  auto out = python("for n in ('trusted.overlay.opaque','trusted.overlay.whiteout',"
                    "'security.capability','trusted.x'):\n"
                    " try: os.setxattr('e',n,b'y'); print('set',n)\n"
                    " except OSError: pass\n"
                    "for n in ('user.overlay.opaque','user.overlay.whiteout',"
                    "'user.overlay.redirect','user.overlay.metacopy'):\n"
                    " for f in ('d','e','e/f'):\n"
                    "  try: os.setxattr(f,n,b'y')\n"
                    "  except OSError: pass\n"
                    "print(open('d').read(),open('e/f').read(),os.listdir('e'))");
  BOOST_TEST(out.stdout_data == "kept\n kept\n ['f']\n");
  unique_fd file{workspace::open_beneath(box->root()->get(), "e/f", O_RDONLY | O_NONBLOCK)};
  BOOST_TEST(file.get() >= 0);
}

BOOST_AUTO_TEST_SUITE_END()
