#include "attack_fixture.hpp"

#include <sys/inotify.h>

// What programs ask of the kernel itself: every call that is refused is told of, what one sandbox
// takes of what the machine has once is no other's loss, and init outlives what is done to it.

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::backends;
using namespace troupe::backends::test;

namespace {

BOOST_TEST_GLOBAL_FIXTURE(private_mounts);

struct call {
  const char* what;
  const char* name;      ///< as it is told
  const char* arguments; ///< of syscall(2)
};

const call told_calls[] = {
  {"a namespace by clone", "clone", "56,0x10000011,0,0,0,0"},
  {"a sibling by clone", "clone", "56,0x8011,0,0,0,0"},
  {"mount", "mount", "165,b'none',b'/tmp',b'tmpfs',0,0"},
  {"fspick", "fspick", "433,-100,b'/',0"},
  {"open_tree_attr", "467", "467,-100,b'/',1,0,0"},
  {"file_setattr", "469", "469,-100,b'/',0,0,0"},
  {"fanotify_mark", "fanotify_mark", "301,-1,1,1,-100,b'/'"},
  {"modify_ldt", "modify_ldt", "154,0,0,0"},
  {"lookup_dcookie", "lookup_dcookie", "212,0,0,0"},
  {"uselib", "uselib", "134,b'/x'"},
  {"ustat", "ustat", "136,0,0"},
  {"iopl", "iopl", "172,3"},
  {"ioperm", "ioperm", "173,0,1,1"},
  {"adjtimex", "adjtimex", "159,0"},
  {"vhangup", "vhangup", "153"},
  {"memfd_secret", "memfd_secret", "447,0"},
  {"pidfd_getfd", "pidfd_getfd", "438,0,0,0"},
  {"process_madvise", "process_madvise", "440,0,0,0,0,0"},
  {"quotactl_fd", "quotactl_fd", "443,0,0,0,0"},
  {"io_uring_register", "io_uring_register", "427,0,0,0,0"},
  {"a whiteout", "mknod", "133,b'w',0o020000,0"},
  {"a whiteout beside", "mknodat", "259,-100,b'w',0o020000,0"},
  {"a disk", "mknod", "133,b'd',0o060660,0x800"},
  {"a device", "mknodat", "259,-100,b'd',0o020666,0x103"},
  {"a line discipline", "ioctl", "16,0,0x5423,b'xxxx'"},
  {"executable heaps", "personality", "135,0x400000"},
  {"orphans for others", "prctl", "157,36,0,0,0,0"},
  {"orphans for others, with a high half", "prctl", "157,ctypes.c_ulong(0x100000024),0,0,0,0"},
  {"a core of its own", "prctl", "157,62,1,0,0,0"},
  {"init's limits", "prlimit64", "302,1,7,(ctypes.c_ulong*2)(0,0),0"},
  {"init's processors", "sched_setaffinity", "203,1,8,(ctypes.c_ulong*1)(1)"},
  {"init's schedule", "sched_setscheduler", "144,1,5,(ctypes.c_int*1)(0)"},
  {"a signal to init", "kill", "62,1,9"},
  {"a signal to init's thread", "tgkill", "234,1,1,9"},
  {"tracing init", "ptrace", "101,16,1,0,0"},
  {"AF_ALG", "socket", "41,38,5,0"},
  {"AF_AX25", "socket", "41,3,5,0"},
  {"AF_X25", "socket", "41,9,5,0"},
  {"AF_KEY", "socket", "41,15,3,2"},
  {"AF_PACKET", "socket", "41,17,3,0"},
  {"AF_RDS", "socket", "41,21,5,0"},
  {"AF_PPPOX", "socket", "41,24,1,0"},
  {"AF_CAN", "socket", "41,29,3,1"},
  {"AF_TIPC", "socket", "41,30,1,0"},
  {"AF_BLUETOOTH", "socket", "41,31,3,1"},
  {"AF_VSOCK", "socket", "41,40,1,0"},
  {"AF_KCM", "socket", "41,41,5,0"},
  {"AF_SMC", "socket", "41,43,1,0"},
  {"AF_XDP", "socket", "41,44,3,0"},
  {"AF_TIPC, a pair", "socketpair", "53,30,1,0,(ctypes.c_int*2)()"},
  {"AF_BLUETOOTH, a pair", "socketpair", "53,31,3,1,(ctypes.c_int*2)()"},
  {"SCTP", "socket", "41,2,1,132"},
  {"SCTP by type", "socket", "41,2,5,0"},
  {"DCCP", "socket", "41,10,6,33"},
  {"L2TP", "socket", "41,2,2,115"},
};

const call untold_calls[] = {
  {"clone3", "ENOSYS", "435,0,0"},
  {"a queue of asynchronous I/O", "ENOSYS", "206,1,(ctypes.c_ulong*1)(0)"},
  {"a call of a younger kernel", "ENOSYS", "499"},
  {"mbind", "EPERM", "237,0,0,0,0,0,0"},
  {"netlink of packet filters", "EPERM", "41,16,3,12"},
  {"huge pages", "ENOMEM", "9,0,ctypes.c_ulong(2<<20),3,0x40022,-1,0"},
  {"huge pages in a memory file", "ENOSYS", "319,b'x',4"},
};

std::string result_of(const char* arguments) {
  return "import errno\nlibc.syscall.restype=ctypes.c_long\nr=libc.syscall("
         + std::string{arguments}
         + ")\nprint('refused' if r==-1 else r, errno.errorcode.get(ctypes.get_errno()))\n";
}

/// A second sandbox of the same server.
struct two_sandboxes : attack_fixture {
  two_sandboxes() {
    begin_anew();
    auto other_config = config;
    other_config.session_id = "33333333-2222-4333-8444-555555555555";
    other_config.private_dir = dir.path + "/other";
    other_config.workspace_root = other_config.private_dir + "/workspace";
    other = std::move(*host->make_sandbox(backend_kind::isolated, other_config));
    BOOST_REQUIRE(other->open());
  }

  ~two_sandboxes() {
    std::promise<void> gone;
    other->shutdown([&] { gone.set_value(); });
    gone.get_future().wait();
  }

  /// `observe` comes before a life begins.
  void begin_anew() {
    shutdown();
    {
      std::lock_guard guard{notices_mutex};
      notices.clear();
    }
    BOOST_REQUIRE(box->open());
  }

  std::string in_other(const std::string& text) {
    auto request = plain({"/usr/bin/python3", "-c", "import ctypes,os,time\n" + text});
    std::promise<result<command_exit>> ended;
    other->exec(other->prepare(request, {}).value(),
                {[&](result<command_exit> x) { ended.set_value(std::move(x)); }, nullptr});
    return ended.get_future().get().value().stdout_data;
  }

  std::unique_ptr<sandbox> other;
};

/// As a server without ids to give: commands are the machine's own root, without its rights.
struct waived_range : sandbox_fixture {
  waived_range()
    : sandbox_fixture(true, {}, backend_kind::isolated, [](runtime::options& o, sandbox_config&) {
        o.isolated.waive = {"user_range"};
      }) {}
};

} // namespace

// -- refused, and told ---------------------------------------------------------------------------

BOOST_FIXTURE_TEST_SUITE(refused_calls, two_sandboxes, *boost::unit_test::precondition(is_root))

BOOST_AUTO_TEST_CASE(every_refused_call_is_told) {
  for (const auto& x : told_calls) {
    begin_anew();
    auto out = python("libc.syscall.restype=ctypes.c_long\nprint(libc.syscall("
                      + std::string{x.arguments} + "))");
    BOOST_TEST(out.stdout_data == "-1\n", x.what);
    BOOST_TEST(told("\"call\":\"" + std::string{x.name} + "\""), x.what);
  }
}

BOOST_AUTO_TEST_CASE(what_ordinary_programs_try_is_refused_without_a_word) {
  for (const auto& x : untold_calls)
    BOOST_TEST(python(result_of(x.arguments)).stdout_data
                 == "refused " + std::string{x.name} + "\n",
               x.what);
  std::lock_guard guard{notices_mutex};
  BOOST_TEST(notices.empty());
}

BOOST_AUTO_TEST_CASE(ordinary_programs_are_not_told_of) {
  auto out = run_script("git init -q r && cd r && git -c user.name=x -c user.email=x commit -q "
                        "--allow-empty -m x && seq 9 | sort -R | tar cf t.tar -T /dev/null && "
                        "mkfifo f && ps -e >/dev/null && df >/dev/null && "
                        "python3 -c 'import socket,subprocess,threading;socket.socketpair();"
                        "threading.Thread(target=print).start();subprocess.run([\"true\"]);"
                        "socket.getaddrinfo(\"localhost\",1)' && echo done");
  BOOST_TEST(out.stdout_data == "\ndone\n");
  std::lock_guard guard{notices_mutex};
  BOOST_TEST(notices.empty());
}

BOOST_AUTO_TEST_CASE(sockets_that_programs_use_can_be_had) {
  for (auto arguments : {"41,1,1,0", "41,1,5,0", "41,2,0x80801,6", "41,2,2,17", "41,10,1,0",
                         "41,10,2,17", "41,16,3,0", "53,1,0x80001,0,(ctypes.c_int*2)()"})
    BOOST_TEST(python("print(libc.syscall(" + std::string{arguments} + ")>=0)").stdout_data
                 == "True\n",
               arguments);
}

BOOST_AUTO_TEST_CASE(no_core_dump_can_be_asked_for) {
  auto out = python("import resource\n"
                    "resource.setrlimit(resource.RLIMIT_CORE,(0,0))\n"
                    "print(libc.syscall(302,0,4,(ctypes.c_ulong*2)(0,0),0))\n"
                    "print(libc.syscall(160,4,(ctypes.c_ulong*2)(0,0)))\n"
                    "print(resource.getrlimit(resource.RLIMIT_CORE))");
  BOOST_TEST(out.stdout_data == "0\n0\n(1, 1)\n");
}

BOOST_AUTO_TEST_CASE(addresses_that_no_route_leads_to_are_told) {
  for (auto attempt :
       {"socket.socket().connect(('169.254.169.254',80))",
        "socket.socket(socket.AF_INET,socket.SOCK_DGRAM).sendto(b'x',('8.8.8.8',53))",
        "socket.socket(socket.AF_INET6).connect(('2606:4700::1111',443))"}) {
    begin_anew();
    auto out = python("try: " + std::string{attempt} + "\nexcept OSError as e: print(e.errno)");
    BOOST_TEST(out.stdout_data == "101\n", attempt);
    BOOST_TEST(told(R"("verdict":"denied","reason":"no_route")"), attempt);
  }
}

BOOST_AUTO_TEST_CASE(a_full_tmp_is_told) {
  (void) run_script("head -c 16M /dev/zero > /tmp/big");
  BOOST_TEST(told(R"("limit":"tmp_bytes")"));
  (void) run_script("rm /tmp/big; for i in $(seq 2000); do : > /dev/shm/$i || exit 1; done");
  BOOST_TEST(told(R"("limit":"shm_inodes")"));
}

BOOST_AUTO_TEST_SUITE_END()

// -- settings ------------------------------------------------------------------------------------

BOOST_AUTO_TEST_SUITE(settings_of_the_machine, *boost::unit_test::precondition(is_root))

namespace {

/// Writes nothing but what is there already.
const char* const try_settings
  = "for f in kernel/core_pattern net/ipv4/ip_default_ttl net/ipv4/ip_forward kernel/shmmax "
    "kernel/shm_rmid_forced user/max_user_namespaces; do test -w /proc/sys/$f && echo $f; "
    "(cat /proc/sys/$f > /proc/sys/$f) 2>/dev/null && echo wrote $f; done; "
    "for f in /proc/irq/default_smp_affinity /proc/mtrr; do test -w $f && echo $f; done; "
    "for f in /dev/null /dev/tty; do chmod 0666 $f 2>/dev/null && echo $f; done; "
    "chown 0 /dev/zero 2>/dev/null && echo zero; echo x > /dev/null; echo done";

} // namespace

BOOST_FIXTURE_TEST_CASE(neither_proc_nor_devices_can_be_changed_by_root, attack_fixture) {
  auto request = script(try_settings);
  request.user = "root";
  BOOST_TEST(run(request).value().stdout_data == "done\n");
}

BOOST_FIXTURE_TEST_CASE(nor_where_commands_are_the_machine_s_own_root, waived_range) {
  BOOST_TEST(run_script(try_settings).stdout_data == "done\n");
}

BOOST_AUTO_TEST_SUITE_END()

// -- what the machine has once -------------------------------------------------------------------

BOOST_FIXTURE_TEST_SUITE(shared_counts, two_sandboxes, *boost::unit_test::precondition(is_root))

BOOST_AUTO_TEST_CASE(watches_of_files_that_are_used_up_are_its_own) {
  auto hog = start(prepare(plain({"/usr/bin/python3", "-c",
                                  "import ctypes,time\nl=ctypes.CDLL(None)\n"
                                  "while l.inotify_init1(0)>=0: pass\n"
                                  "open('full','w').close();time.sleep(60)"})));
  BOOST_REQUIRE(eventually([&] { return exists("full"); }));
  BOOST_TEST(in_other("print(ctypes.CDLL(None).inotify_init1(0)>=0)") == "True\n");
  unique_fd own{::inotify_init1(IN_CLOEXEC)};
  BOOST_TEST(static_cast<bool>(own));
  box->cancel(hog.id);
  hog.exit.wait();
}

BOOST_AUTO_TEST_CASE(signals_that_wait_are_its_own) {
  auto hog = start(prepare(plain({"/usr/bin/python3", "-c",
                                  "import ctypes,os,signal,time\nl=ctypes.CDLL(None)\n"
                                  "signal.pthread_sigmask(signal.SIG_BLOCK,[40])\n"
                                  "n=0\n"
                                  "while n<200000 and l.sigqueue(os.getpid(),40,0)==0: n+=1\n"
                                  "open('full','w').close();time.sleep(60)"})));
  BOOST_REQUIRE(eventually([&] { return exists("full"); }));
  BOOST_TEST(in_other("print(ctypes.CDLL(None).timer_create(0,None,(ctypes.c_long*1)()))")
             == "0\n");
  timer_t own{};
  BOOST_TEST(::timer_create(CLOCK_MONOTONIC, nullptr, &own) == 0);
  ::timer_delete(own);
  box->cancel(hog.id);
  hog.exit.wait();
}

BOOST_AUTO_TEST_SUITE_END()

// -- processes -----------------------------------------------------------------------------------

BOOST_FIXTURE_TEST_SUITE(hostile_processes, two_sandboxes, *boost::unit_test::precondition(is_root))

BOOST_AUTO_TEST_CASE(who_stops_commands_before_they_began_does_not_stop_init) {
  auto storm = start(prepare(plain({"/usr/bin/python3", "-c",
                                    "import os\nopen('up','w').close()\nme=os.getpid()\n"
                                    "while True:\n"
                                    " for p in range(2,400):\n"
                                    "  if p!=me:\n"
                                    "   try: os.kill(p,19)\n"
                                    "   except OSError: pass\n"})));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  std::vector<running> victims;
  auto victim = plain({"true"});
  std::string long_way; // to its exec
  for (int i = 0; i < 40'000; ++i)
    long_way += "/x:";
  victim.env["PATH"] = long_way + "/bin";
  auto request = script("echo alive");
  request.user = "root"; // whom the storm may not signal
  for (int i = 0; i < 3; ++i) {
    victims.push_back(start(prepare(victim)));
    BOOST_TEST(run(request).value().stdout_data == "alive\n");
  }
  box->cancel(storm.id);
  storm.exit.wait();
  for (auto& x : victims) {
    box->cancel(x.id);
    x.exit.wait();
  }
}

BOOST_AUTO_TEST_CASE(who_ends_commands_before_they_began_ends_nothing_else) {
  auto storm = start(prepare(plain({"/usr/bin/python3", "-c",
                                    "import os\nopen('up','w').close()\n"
                                    "while True:\n"
                                    " try: os.kill(-1,9)\n"
                                    " except OSError: pass\n"})));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  for (int i = 0; i < 40; ++i) {
    auto x = run(plain({"/bin/true"}));
    BOOST_TEST((x && (x->exit_code == 0 || x->exit_code == -9)));
  }
  box->cancel(storm.id);
  storm.exit.wait();
}

BOOST_AUTO_TEST_CASE(a_chain_of_forks_ends_with_its_command) {
  // Each lives for an instant only, in a session of its own.
  auto x = start(prepare(plain({"/usr/bin/python3", "-c",
                                "import os,time\n"
                                "if os.fork()==0:\n"
                                " open('up','w').close()\n"
                                " while True:\n"
                                "  os.setsid() if os.getsid(0)!=os.getpid() else None\n"
                                "  if os.fork(): os._exit(0)\n"
                                "time.sleep(1000)"})));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  box->cancel(x.id);
  BOOST_TEST(x.exit.get().value().cancelled);
  BOOST_TEST(eventually([&] { return run_script("pgrep -xc python3").stdout_data == "0\n"; }));
}

BOOST_AUTO_TEST_CASE(root_cannot_take_from_init_what_it_needs) {
  auto request = plain({"/usr/bin/python3", "-c",
                        "import ctypes,resource,os\n"
                        "for r in (7,6,9,2):\n"
                        " try: resource.prlimit(1,r,(0,0)); print('set',r)\n"
                        " except OSError: pass\n"
                        "for n in range(1,65):\n"
                        " try: os.kill(1,n)\n"
                        " except OSError: pass\n"
                        "for p in ('mem','environ','maps','auxv','syscall','stack'):\n"
                        " try: open('/proc/1/'+p).read(1); print('read',p)\n"
                        " except OSError: pass\n"});
  request.user = "root";
  BOOST_TEST(run(request).value().stdout_data == "");
  request = script("echo alive");
  request.user = "root";
  BOOST_TEST(run(request).value().stdout_data == "alive\n");
}

BOOST_AUTO_TEST_CASE(commands_have_no_descriptor_but_their_streams) {
  BOOST_TEST(run(plain({"/bin/ls", "/proc/self/fd"})).value().stdout_data == "0\n1\n2\n3\n");
  auto request = plain({"/bin/ls", "/proc/self/fd"});
  request.user = "root";
  BOOST_TEST(run(request).value().stdout_data == "0\n1\n2\n3\n");
}

BOOST_AUTO_TEST_CASE(shared_memory_without_an_owner_costs_the_sandbox_only) {
  // It outlives who made it, and the limit of memory is used up for all that comes.
  (void) run(plain({"/usr/bin/python3", "-c",
                    "import ctypes\nl=ctypes.CDLL(None)\nl.shmat.restype=ctypes.c_void_p\n"
                    "for i in range(64):\n"
                    " s=l.shmget(0,8<<20,0o1600)\n"
                    " a=l.shmat(s,None,0)\n"
                    " ctypes.memset(a,1,8<<20)\n"}));
  BOOST_TEST(told(R"("limit":"memory")"));
  shutdown();
  BOOST_REQUIRE(box->open());
}

BOOST_AUTO_TEST_SUITE_END()
