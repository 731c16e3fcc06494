#include "attack_fixture.hpp"

#include "backends/ownership.hpp"
#include "workspace/file_ops.hpp"

#include <arpa/inet.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fstream>

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::backends;
using namespace troupe::backends::test;

namespace {

BOOST_TEST_GLOBAL_FIXTURE(private_mounts);

struct forbidden_call {
  const char* name;
  const char* arguments; ///< of syscall(2)
  int error;
};

const forbidden_call forbidden[] = {
  {"mount", "165,b'none',b'/tmp',b'tmpfs',0,0", EPERM},
  {"umount2", "166,b'/tmp',2", EPERM},
  {"pivot_root", "155,b'.',b'.'", EPERM},
  {"chroot", "161,b'/tmp'", EPERM},
  {"unshare", "272,0x10000000", EPERM},
  {"setns", "308,0,0", EPERM},
  {"clone with a namespace", "56,0x10000011,0,0,0,0", EPERM},
  {"clone3", "435,0,0", ENOSYS},
  {"open_tree", "428,-100,b'/',1", EPERM},
  {"move_mount", "429,-1,b'',-100,b'/',4", EPERM},
  {"fsopen", "430,b'tmpfs',0", EPERM},
  {"fsconfig", "431,-1,6,0,0,0", EPERM},
  {"fsmount", "432,-1,0,0", EPERM},
  {"mount_setattr", "442,-100,b'/',0,0,0", EPERM},
  {"bpf", "321,0,0,0", EPERM},
  {"io_uring_setup", "425,1,0", EPERM},
  {"userfaultfd", "323,0", EPERM},
  {"keyctl", "250,0,0,0,0,0", EPERM},
  {"add_key", "248,b'user',b'x',b'y',1,-3", EPERM},
  {"request_key", "249,b'user',b'x',0,-3", EPERM},
  {"perf_event_open", "298,0,0,-1,-1,0", EPERM},
  {"kexec_load", "246,0,0,0,0", EPERM},
  {"kexec_file_load", "320,-1,-1,0,0,0", EPERM},
  {"init_module", "175,0,0,b''", EPERM},
  {"finit_module", "313,-1,b'',0", EPERM},
  {"delete_module", "176,b'x',0", EPERM},
  {"open_by_handle_at", "304,-100,0,0", EPERM},
  {"name_to_handle_at", "303,-100,b'/',0,0,0", EPERM},
  {"process_vm_readv", "310,1,0,0,0,0,0", EPERM},
  {"process_vm_writev", "311,1,0,0,0,0,0", EPERM},
  {"TIOCSTI", "16,0,0x5412,b'x'", EPERM},
  {"TIOCSTI with a high half", "16,0,ctypes.c_ulong(0x100005412),b'x'", EPERM},
  {"TIOCLINUX", "16,0,0x541c,b'x'", EPERM},
  {"swapon", "167,b'/x',0", EPERM},
  {"reboot", "169,0,0,0,0", EPERM},
  {"settimeofday", "164,0,0", EPERM},
  {"clock_settime", "227,0,0", EPERM},
  {"sethostname", "170,b'x',1", EPERM},
  {"quotactl", "179,0,0,0,0", EPERM},
  {"acct", "163,b'/x'", EPERM},
  {"syslog", "103,3,0,0", EPERM},
  {"fanotify_init", "300,0,0", EPERM},
  {"vsock", "41,40,1,0", EPERM},
  {"packet socket", "41,17,3,0", EPERM},
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(attacks, attack_fixture, *boost::unit_test::precondition(is_root))

// -- kernel surface ------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(every_forbidden_call_is_refused) {
  for (const auto& x : forbidden) {
    auto out = python("libc.syscall.restype=ctypes.c_long\nr=libc.syscall("
                      + std::string{x.arguments} + ")\nprint(r,ctypes.get_errno())");
    BOOST_TEST(out.stdout_data == "-1 " + std::to_string(x.error) + "\n", x.name);
  }
}

BOOST_AUTO_TEST_CASE(another_abi_kills) {
  // int 0x80 with the number of a harmless call
  auto out = python("import mmap\n"
                    "m=mmap.mmap(-1,4096,prot=7)\n"
                    "m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"
                    "f=ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)"
                    "))\nf()\nprint('survived')");
  // SIGSYS; SIGSEGV from a kernel that has no such ABI at all.
  BOOST_TEST((out.exit_code == -31 || out.exit_code == -11));
  BOOST_TEST(out.stdout_data == "");
  // x32: the numbers of this one with a bit more
  out = python("libc.syscall(0x40000000+39)\nprint('survived')");
  BOOST_TEST(out.exit_code == -31);
  BOOST_TEST(out.stdout_data == "");
}

BOOST_AUTO_TEST_CASE(commands_have_no_capability_and_can_gain_none) {
  auto out = run_script("grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status");
  for (auto name : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
    BOOST_TEST(out.stdout_data.find(std::string{name} + ":\t0000000000000000")
               != std::string::npos);
  BOOST_TEST(out.stdout_data.find("NoNewPrivs:\t1") != std::string::npos);
  BOOST_TEST(out.stdout_data.find("Seccomp:\t2") != std::string::npos);
  auto request = script("grep CapEff /proc/self/status; id -u");
  request.user = "root";
  BOOST_TEST(run(request).value().stdout_data == "CapEff:\t0000000000000000\n0\n");
}

// -- file system ---------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(nothing_but_the_workspace_and_tmp_can_be_written) {
  for (auto path : {"/", "/usr", "/usr/bin", "/etc", "/dev", "/root", "/home", "/var", "/proc/sys"})
    BOOST_TEST(run_script("touch " + std::string{path} + "/x").exit_code != 0, path);
  BOOST_TEST(run_script("touch /workspace/x /tmp/x /dev/shm/x").exit_code == 0);
  BOOST_TEST(run_script("mount -o remount,rw / || echo no >> /etc/passwd").exit_code != 0);
}

BOOST_AUTO_TEST_CASE(the_host_is_not_to_be_seen) {
  BOOST_TEST(run_script("ls -d /sys/kernel " + dir.path + " /work /var/lib /boot").stdout_data
             == "");
  BOOST_TEST(run_script("cat /proc/1/environ /proc/1/maps; ls /proc/1/root/ /proc/1/fd").exit_code
             != 0);
  BOOST_TEST(run_script("ls /proc/1/cwd/").stdout_data == "");
  BOOST_TEST(
    run_script("cat /proc/kcore /proc/keys /proc/kallsyms /proc/modules | head -c 100").stdout_data
    == "");
  BOOST_TEST(run_script("for i in 3 4 5 6 7 8 9; do ls /proc/self/fd/$i/ 2>/dev/null; done; "
                        "readlink /proc/self/fd/9 /proc/self/fd/10 || true")
               .stdout_data
             == "");
}

BOOST_AUTO_TEST_CASE(devices_and_setuid_programs_do_nothing) {
  BOOST_TEST(run_script("mknod dev b 8 0").exit_code != 0);
  BOOST_TEST(run_script("mknod dev c 1 3").exit_code != 0);
  BOOST_TEST(run_script("cp /usr/bin/id . && chmod 6755 id && ./id -u").stdout_data == "1000\n");
  auto request = script("cp /usr/bin/id /tmp/rid && chmod 6755 /tmp/rid");
  request.user = "root";
  BOOST_REQUIRE(run(request));
  BOOST_TEST(run_script("/tmp/rid -u").stdout_data == "1000\n");
  BOOST_TEST(run_script("su -c id").exit_code != 0);
}

BOOST_AUTO_TEST_CASE(no_link_leads_the_file_interface_out) {
  auto secret = dir.path + "/secret";
  std::ofstream{secret} << "secret";
  BOOST_TEST(
    run_script("ln -s / out; ln -s " + secret + " s; ln -s /proc/self/root p; mkfifo f").exit_code
    == 0);
  auto root = box->root()->get();
  for (auto path : {"out/etc/passwd", "s", "p/etc/passwd", "../session/uid-range"})
    BOOST_TEST(workspace::open_beneath(root, path, O_RDONLY | O_NONBLOCK) < 0, path);
}

BOOST_AUTO_TEST_CASE(a_race_of_links_and_renames_never_leads_out) {
  auto victim = dir.path + "/victim";
  std::filesystem::create_directories(victim);
  std::ofstream{victim + "/file"} << "untouched";
  std::filesystem::permissions(victim, std::filesystem::perms::all);
  auto spec
    = prepare(plain({"/usr/bin/python3", "-c",
                     "import os\nos.makedirs('d',exist_ok=True)\n"
                     "open('d/file','w').write('mine')\n"
                     "os.symlink('"
                       + victim
                       + "','l')\nopen('up','w')\n"
                         "while True:\n os.rename('d','x');os.rename('l','d');os.rename('d',"
                         "'l');os.rename('x','d')\n"}));
  auto racer = start(std::move(spec));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  auto root = box->root();
  auto who = box->file_identity(std::nullopt).value();
  int inside = 0;
  for (int i = 0; i < 100'000; ++i) {
    acting_as_if identity{who};
    unique_fd fd{workspace::open_beneath(root->get(), "d/file", O_RDWR | O_NONBLOCK)};
    if (!fd)
      continue; // between two renames, or the link: refused
    char text[5] = {};
    BOOST_REQUIRE(::pread(fd.get(), text, 4, 0) == 4);
    BOOST_REQUIRE(std::string{text} == "mine");
    ++inside;
  }
  BOOST_TEST(inside > 0);
  box->cancel(racer.id);
  racer.exit.wait();
}

BOOST_AUTO_TEST_CASE(a_race_of_links_and_renames_never_has_anything_changed_outside) {
  auto victim = dir.path + "/victim";
  std::filesystem::create_directories(victim + "/sub");
  std::ofstream{victim + "/file"} << "untouched";
  std::ofstream{victim + "/sub/kept"} << "untouched";
  for (auto path : {victim, victim + "/sub", victim + "/file", victim + "/sub/kept"})
    std::filesystem::permissions(path, std::filesystem::perms::all);
  auto racer = start(prepare(plain({"/usr/bin/python3", "-c",
                                    "import os\nos.makedirs('d/sub',exist_ok=True)\n"
                                    "os.symlink('"
                                      + victim + "','l')\nos.symlink('../../../../..' + '" + victim
                                      + "','r')\nopen('up','w')\n"
                                        "while True:\n"
                                        " for x in 'lr':\n"
                                        "  os.rename('d','x');os.rename(x,'d');os.rename('d',x);"
                                        "os.rename('x','d')\n"})));
  BOOST_REQUIRE(eventually([&] { return exists("up"); }));
  auto root = box->root();
  auto who = box->file_identity(std::nullopt).value();
  int done = 0;
  for (int i = 0; i < 25'000; ++i) {
    acting_as_if identity{who};
    if (auto file = workspace::staged_file::create(root->get(), "d/file", "d/file"))
      done += file->append("mine", 4) && file->commit(std::nullopt, false) ? 1 : 0;
    done += workspace::make_directory(root->get(), "d/sub/made", false, "d/sub/made") ? 1 : 0;
    done += workspace::remove_path(root->get(), "d/sub", true, "d/sub") ? 1 : 0;
    if (auto listed = workspace::list_directory(root->get(), "d", "d"))
      for (const auto& x : *listed)
        BOOST_REQUIRE(x.path != "d/kept");
    done += workspace::make_directory(root->get(), "d/sub", false, "d/sub") ? 1 : 0;
  }
  BOOST_TEST(done > 0);
  box->cancel(racer.id);
  racer.exit.wait();
  std::vector<std::string> left;
  for (const auto& x : std::filesystem::recursive_directory_iterator{victim})
    left.push_back(x.path().string().substr(victim.size()));
  std::sort(left.begin(), left.end());
  BOOST_TEST(left == (std::vector<std::string>{"/file", "/sub", "/sub/kept"}),
             boost::test_tools::per_element());
  std::string text;
  std::getline(std::ifstream{victim + "/file"}, text);
  BOOST_TEST(text == "untouched");
}

BOOST_AUTO_TEST_CASE(what_is_no_file_never_holds_up_the_file_interface) {
  BOOST_TEST(run_script("mkfifo f; ln -s f l; mkdir d; python3 -c 'import socket;"
                        "socket.socket(socket.AF_UNIX).bind(\"s\")'; ln /workspace/f h; "
                        "truncate -s 8E big 2>/dev/null || truncate -s 1T big")
               .exit_code
             == 0);
  auto root = box->root()->get();
  for (auto name : {"f", "l", "s", "h", "d"}) {
    BOOST_TEST(!workspace::open_for_read(root, name, name), name);
    if (auto file = workspace::staged_file::create(root, name, name); file)
      BOOST_TEST(!file->commit(std::nullopt, false), name);
  }
  BOOST_TEST(static_cast<bool>(workspace::open_for_read(root, "big", "big")));
}

BOOST_AUTO_TEST_CASE(the_file_interface_acts_as_the_user_it_is_asked_to_be) {
  auto request = script("umask 077; mkdir /workspace/.r 2>/dev/null; mkdir /tmp/private");
  request.user = "root";
  (void) run(request);
  BOOST_TEST(run_script("mkdir own && chmod 500 own").exit_code == 0);
  auto who = box->file_identity(std::nullopt).value();
  acting_as_if identity{who};
  BOOST_TEST(workspace::open_beneath(box->root()->get(), "own/new", O_WRONLY | O_CREAT, 0600)
             == -EACCES);
  unique_fd made{workspace::open_beneath(box->root()->get(), "made", O_WRONLY | O_CREAT, 0600)};
  struct stat info {};
  BOOST_REQUIRE(::fstat(made.get(), &info) == 0);
  BOOST_TEST(info.st_uid == who->uid);
}

// -- processes -----------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(a_fork_bomb_ends_with_its_command) {
  auto bomb = start(prepare(script("b() { b | b & }; b; sleep 1000")));
  BOOST_TEST(eventually([&] { return box->usage().pids >= 60; }));
  BOOST_TEST(box->usage().pids <= 66);
  std::promise<void> gone;
  box->shutdown([&] { gone.set_value(); });
  gone.get_future().wait();
  BOOST_TEST(bomb.exit.get().value().cancelled);
  BOOST_REQUIRE(box->open());
}

BOOST_AUTO_TEST_CASE(init_cannot_be_signalled_or_traced) {
  BOOST_TEST(run_script("kill -9 1; kill -STOP 1; kill -TERM 1; kill -SEGV 1").exit_code != 0);
  auto request = script("kill -9 1; kill -STOP 1; kill -SEGV 1; kill -USR1 1; true");
  request.user = "root";
  BOOST_TEST(run(request).value().exit_code == 0);
  BOOST_TEST(python("print(libc.ptrace(16,1,0,0))").stdout_data == "-1\n");
  request
    = plain({"/usr/bin/python3", "-c", "import ctypes\nprint(ctypes.CDLL(None).ptrace(16,1,0,0))"});
  request.user = "root";
  BOOST_TEST(run(request).value().stdout_data == "-1\n");
}

BOOST_AUTO_TEST_CASE(a_flood_of_zombies_is_reaped) {
  auto out = run_script("for i in $(seq 400); do (setsid true &) ; done; sleep 0.3; "
                        "ps -e -o stat= | grep -c Z");
  BOOST_TEST(out.stdout_data == "0\n");
}

BOOST_AUTO_TEST_CASE(output_that_nobody_reads_holds_up_only_its_own_command) {
  auto spec = prepare(plain({"/usr/bin/yes"}));
  spec.streamed = true;
  spec.credit = 1;
  auto stuck = start(std::move(spec), [](stream_id, std::vector<char>) {});
  BOOST_TEST(run_script("echo alive").stdout_data == "alive\n");
  box->cancel(stuck.id);
  BOOST_TEST(stuck.exit.get().value().cancelled);
}

// -- limits --------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(memory_beyond_the_limit_kills_its_user_only) {
  auto out = python("x=bytearray(400<<20)\nprint('survived')");
  BOOST_TEST(out.exit_code != 0);
  BOOST_TEST(out.stdout_data == "");
}

BOOST_AUTO_TEST_CASE(tmp_is_bounded_in_bytes_and_inodes) {
  BOOST_TEST(run_script("head -c 16M /dev/zero > /tmp/big").exit_code != 0);
  BOOST_TEST(
    run_script("rm /tmp/big; for i in $(seq 2000); do : > /tmp/$i || exit 1; done").exit_code != 0);
}

BOOST_AUTO_TEST_CASE(descriptors_and_terminals_are_bounded) {
  BOOST_TEST(python("l=[]\ntry:\n while True: l.append(os.open('/dev/null',0))\n"
                    "except OSError: print(len(l)<256)")
               .stdout_data
             == "True\n");
  BOOST_TEST(python("import pty\nl=[]\ntry:\n while len(l)<1000: l.append(pty.openpty())\n"
                    "except OSError: print(len(l)<300)")
               .stdout_data
             == "True\n");
}

// -- network -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(no_network_is_reached) {
  unique_fd listener{::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  BOOST_REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  BOOST_REQUIRE(::listen(listener.get(), 1) == 0);
  socklen_t size = sizeof address;
  ::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  auto host_port = std::to_string(ntohs(address.sin_port));
  for (auto target : {"('127.0.0.1'," + host_port + ")", std::string{"('169.254.169.254',80)"},
                      std::string{"('10.0.0.1',80)"}, std::string{"('1.1.1.1',443)"}})
    BOOST_TEST(python("s=socket.socket();s.settimeout(2)\nprint(s.connect_ex(" + target + ")!=0)")
                 .stdout_data
               == "True\n");
  BOOST_TEST(python("s=socket.socket(socket.AF_INET6);s.settimeout(2)\n"
                    "print(s.connect_ex(('fe80::1',80))!=0)")
               .stdout_data
             == "True\n");
}

BOOST_AUTO_TEST_CASE(abstract_sockets_of_the_host_are_not_reached) {
  unique_fd listener{::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::string name = "troupe-attack-" + std::to_string(::getpid());
  name.copy(address.sun_path + 1, name.size());
  auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  BOOST_REQUIRE(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), size) == 0);
  BOOST_REQUIRE(::listen(listener.get(), 1) == 0);
  BOOST_TEST(python("s=socket.socket(socket.AF_UNIX)\nprint(s.connect_ex(b'\\0" + name + "')!=0)")
               .stdout_data
             == "True\n");
}

BOOST_AUTO_TEST_SUITE_END()
