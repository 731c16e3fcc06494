#include "backends/terminal.hpp"

#include "backends/pty.hpp"
#include "support.hpp"

#include <fcntl.h>
#include <signal.h>

#include <algorithm>
#include <fstream>

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::backends;
using namespace troupe::backends::test;

// -- output_ring ---------------------------------------------------------------------------------

BOOST_AUTO_TEST_SUITE(ring)

BOOST_AUTO_TEST_CASE(readers_have_places_of_their_own) {
  output_ring ring;
  ring.append("hello ");
  auto first = ring.read_from(0, 100);
  BOOST_TEST(first.bytes == "hello ");
  BOOST_TEST(first.lost == 0u);
  ring.append("world");
  BOOST_TEST(ring.read_from(first.next, 100).bytes == "world");
  BOOST_TEST(ring.read_from(0, 100).bytes == "hello world");
  BOOST_TEST(ring.end() == 11u);
}

BOOST_AUTO_TEST_CASE(a_read_stops_at_its_limit_and_goes_on_from_there) {
  output_ring ring;
  ring.append("abcdef");
  auto piece = ring.read_from(1, 2);
  BOOST_TEST(piece.bytes == "bc");
  BOOST_TEST(piece.next == 3u);
  BOOST_TEST(ring.read_from(piece.next, 100).bytes == "def");
  BOOST_TEST(ring.read_from(0, 0).bytes == "");
  BOOST_TEST(ring.read_from(0, 0).next == 0u);
}

BOOST_AUTO_TEST_CASE(who_comes_too_late_learns_how_much_is_gone) {
  output_ring ring{4};
  ring.append("abc");
  ring.append("def");
  BOOST_TEST(ring.begin() == 2u);
  auto piece = ring.read_from(1, 100);
  BOOST_TEST(piece.lost == 1u);
  BOOST_TEST(piece.bytes == "cdef");
  BOOST_TEST(piece.next == 6u);
  BOOST_TEST(ring.read_from(2, 100).lost == 0u);
}

BOOST_AUTO_TEST_CASE(a_cursor_from_nowhere_is_the_end) {
  output_ring ring;
  ring.append("abc");
  auto piece = ring.read_from(~uint64_t{0}, 100);
  BOOST_TEST(piece.bytes == "");
  BOOST_TEST(piece.lost == 0u);
  BOOST_TEST(piece.next == 3u);
}

BOOST_AUTO_TEST_CASE(whatever_the_pieces_the_last_bytes_are_kept) {
  for (size_t capacity : {1U, 2U, 7U, 16U})
    for (size_t step = 1; step < 40; ++step) {
      output_ring ring{capacity};
      std::string all;
      while (all.size() < 120) {
        std::string piece;
        for (size_t i = 0; i < step; ++i)
          piece += static_cast<char>('a' + (all.size() + i) % 26);
        ring.append(piece);
        all += piece;
        auto kept = std::min(all.size(), capacity);
        auto got = ring.read_from(0, 1000);
        BOOST_REQUIRE(got.bytes == all.substr(all.size() - kept));
        BOOST_REQUIRE(got.lost == all.size() - kept);
        BOOST_REQUIRE(ring.end() == all.size());
      }
    }
}

BOOST_AUTO_TEST_SUITE_END()

// -- input_queue ---------------------------------------------------------------------------------

namespace {

/// What became of a write.
struct outcome {
  std::optional<result<void>> value;
  input_queue::callback handler() {
    return [this](result<void> x) { value = std::move(x); };
  }
  bool is_ok() const {
    return value && value->has_value();
  }
};

struct queue_fixture {
  queue_fixture() {
    int fds[2];
    BOOST_REQUIRE(::pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    out.reset(fds[0]);
    in.reset(fds[1]);
  }

  std::string read_all() {
    std::string text(1024 * 1024, '\0');
    auto n = ::read(out.get(), text.data(), text.size());
    text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    return text;
  }

  unique_fd out;
  unique_fd in;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(input, queue_fixture)

BOOST_AUTO_TEST_CASE(writes_are_passed_on_in_order_and_answered_when_taken) {
  input_queue queue;
  outcome a;
  outcome nothing;
  outcome b;
  queue.push("a", a.handler());
  queue.push("", nothing.handler());
  queue.push("b", b.handler());
  BOOST_TEST(!a.value.has_value());
  queue.write_to(in.get());
  BOOST_TEST((a.is_ok() && nothing.is_ok() && b.is_ok()));
  BOOST_TEST(queue.empty());
  BOOST_TEST(read_all() == "ab");
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_waits_until_there_is_room) {
  std::string text;
  while (text.size() < 200'000)
    text += std::to_string(text.size());
  input_queue queue;
  outcome x;
  queue.push(text, x.handler());
  std::string got;
  while (!queue.empty()) {
    BOOST_TEST(!x.value.has_value());
    queue.write_to(in.get());
    got += read_all();
  }
  BOOST_TEST(x.is_ok());
  BOOST_TEST((got == text));
}

BOOST_AUTO_TEST_CASE(more_than_fits_into_the_queue_is_refused_whole) {
  input_queue queue{1000};
  outcome first;
  outcome second;
  outcome third;
  queue.push(std::string(700, 'x'), first.handler());
  queue.push(std::string(700, 'y'), second.handler());
  BOOST_REQUIRE(second.value.has_value());
  BOOST_TEST(to_string(second.value->error().code) == "overloaded");
  queue.write_to(in.get());
  queue.push(std::string(700, 'z'), third.handler());
  queue.write_to(in.get());
  BOOST_TEST(read_all() == std::string(700, 'x') + std::string(700, 'z'));
}

BOOST_AUTO_TEST_CASE(small_writes_are_bounded_too) {
  input_queue queue{1000};
  int refused = 0;
  for (int i = 0; i < 1000; ++i)
    queue.push("x", [&](result<void> x) { refused += x ? 0 : 1; });
  BOOST_TEST(refused > 900);
}

BOOST_AUTO_TEST_CASE(a_reader_that_is_gone_takes_everything) {
  ::signal(SIGPIPE, SIG_IGN);
  input_queue queue;
  outcome a;
  outcome b;
  queue.push("a", a.handler());
  queue.push("b", b.handler());
  out.reset();
  queue.write_to(in.get());
  BOOST_TEST((a.is_ok() && b.is_ok()));
}

BOOST_AUTO_TEST_SUITE_END()

// -- interactive processes -----------------------------------------------------------------------

namespace {

constexpr terminal_options with_tty{true, 24, 80};
constexpr terminal_options without_tty{};

struct session {
  command_id id = 0;
  std::shared_ptr<transcript> output = std::make_shared<transcript>();
  std::future<result<command_exit>> exit;

  bool says(const std::string& text) const {
    return eventually([&] { return output->text().find(text) != std::string::npos; });
  }

  command_exit end() {
    auto x = exit.get();
    BOOST_REQUIRE_MESSAGE(x, (x ? "" : x.error().message));
    return *x;
  }
};

constexpr int64_t ample = int64_t{1} << 40;

struct terminals : sandbox_fixture {
  session open(const command_spec& spec, terminal_options options) {
    auto promise = std::make_shared<std::promise<result<command_exit>>>();
    session out;
    out.exit = promise->get_future();
    terminal_handlers handlers;
    handlers.on_exit = [promise](result<command_exit> x) { promise->set_value(std::move(x)); };
    handlers.on_output = [output = out.output, say = out.output->handler()](
                           std::vector<char> bytes) { say(stream_id::out, std::move(bytes)); };
    out.id = box->open_terminal(spec, options, std::move(handlers));
    return out;
  }

  command_spec spec_of(const std::string& text, int64_t credit = ample) {
    auto spec = prepare(script(text));
    spec.credit = credit;
    return spec;
  }

  session open(const std::string& text, terminal_options options = with_tty) {
    return open(spec_of(text), options);
  }

  std::future<result<void>> type(command_id id, std::string bytes) {
    auto promise = std::make_shared<std::promise<result<void>>>();
    box->write_terminal(id, std::move(bytes),
                        [promise](result<void> x) { promise->set_value(std::move(x)); });
    return promise->get_future();
  }

  pid_t pid_in(const std::string& name) {
    BOOST_REQUIRE(eventually([&] { return exists(name); }));
    std::ifstream in{in_root(name)};
    pid_t pid = 0;
    in >> pid;
    BOOST_REQUIRE(pid > 0);
    return pid;
  }
};

/// Shell text that tells its number to `pid_in`.
std::string leave_pid(const std::string& name, const std::string& pid = "$$") {
  return "echo " + pid + " > " + name + ".new; mv " + name + ".new " + name + "; ";
}

} // namespace

BOOST_FIXTURE_TEST_SUITE(interactive, terminals)

BOOST_AUTO_TEST_CASE(the_terminal_is_all_three_streams_and_controls_the_process) {
  auto s = open("test -t 0 && test -t 1 && test -t 2 && tty && ps -o tty= -p $$ "
                "&& echo direct > /dev/tty");
  BOOST_TEST(s.end().exit_code == 0);
  auto text = s.output->text();
  BOOST_TEST(text.find("/dev/pts/") == 0u);
  BOOST_TEST(text.find("\npts/") != std::string::npos);
  BOOST_TEST(text.find("direct\r\n") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(what_is_typed_is_echoed_and_read) {
  auto s = open("read x; echo got:$x; exit 7");
  BOOST_TEST(type(s.id, "hello\n").get().has_value());
  BOOST_TEST(s.end().exit_code == 7);
  BOOST_TEST(s.output->text() == "hello\r\ngot:hello\r\n");
}

BOOST_AUTO_TEST_CASE(control_c_interrupts) {
  auto s = open("echo ready; exec sleep 1000");
  BOOST_REQUIRE(s.says("ready"));
  BOOST_TEST(type(s.id, "\x03").get().has_value());
  BOOST_TEST(s.end().exit_code == -SIGINT);
}

BOOST_AUTO_TEST_CASE(an_interrupt_is_not_lost_on_a_process_that_is_about_to_start) {
  for (int i = 0; i < 20; ++i) {
    auto s = open("exec sleep 1000");
    type(s.id, "\x03");
    BOOST_TEST(s.end().exit_code == -SIGINT);
  }
}

BOOST_AUTO_TEST_CASE(keys_work_although_the_server_ignores_their_signals) {
  auto before = ::signal(SIGQUIT, SIG_IGN);
  auto s = open("echo ready; exec sleep 1000");
  BOOST_REQUIRE(s.says("ready"));
  type(s.id, "\x1C");
  BOOST_TEST(s.end().exit_code == -SIGQUIT);
  ::signal(SIGQUIT, before);
}

BOOST_AUTO_TEST_CASE(control_d_ends_the_input) {
  auto s = open("cat; echo done");
  type(s.id, "a\n\x04");
  BOOST_TEST(s.end().exit_code == 0);
  BOOST_TEST(s.output->text() == "a\r\na\r\ndone\r\n");
}

BOOST_AUTO_TEST_CASE(the_size_is_as_asked_and_a_resize_is_told) {
  auto s = open(spec_of("trap 'stty size; exit 0' WINCH; stty size; while :; do sleep 0.01; done"),
                {true, 33, 111});
  BOOST_REQUIRE(s.says("33 111\r\n"));
  box->resize_terminal(s.id, 44, 222);
  BOOST_TEST(s.end().exit_code == 0);
  BOOST_TEST(s.output->text() == "33 111\r\n44 222\r\n");
}

BOOST_AUTO_TEST_CASE(a_shell_has_job_control) {
  auto spec = prepare(plain({"bash", "--norc", "-i"}));
  spec.credit = ample;
  spec.env.push_back("PS1==> ");
  auto s = open(spec, with_tty);
  BOOST_REQUIRE(s.says("=> "));
  type(s.id, "sleep 1000\n");
  BOOST_REQUIRE(s.says("sleep 1000\r\n"));
  // Typed until it meets the sleep and not the shell that is about to start it.
  BOOST_TEST(eventually([&] {
    type(s.id, "\x1A").get();
    return s.output->text().find("Stopped") != std::string::npos;
  }));
  BOOST_TEST(s.output->text().find("no job control") == std::string::npos);
  box->cancel(s.id);
  BOOST_TEST(s.end().cancelled);
}

BOOST_AUTO_TEST_CASE(without_a_terminal_both_outputs_come_in_order_and_there_is_no_input) {
  auto s = open("echo a; echo b >&2; echo c; cat; test -t 1 || echo none >&2", without_tty);
  BOOST_TEST(s.end().exit_code == 0);
  BOOST_TEST(s.output->text() == "a\nb\nc\nnone\n");
}

BOOST_AUTO_TEST_CASE(who_has_no_terminal_cannot_be_typed_to) {
  auto s = open("exec sleep 1000", without_tty);
  running command = start(prepare(script("exec sleep 1000")));
  for (auto id : {s.id, command.id}) {
    auto answer = type(id, "x").get();
    BOOST_REQUIRE(!answer);
    BOOST_TEST(to_string(answer.error().code) == "conflict");
    BOOST_TEST(answer.error().message == "stdin is not available for this process");
    box->resize_terminal(id, 10, 10);
  }
  box->cancel(s.id);
  box->cancel(command.id);
  BOOST_TEST(s.end().cancelled);
}

BOOST_AUTO_TEST_CASE(all_output_comes_before_the_end) {
  for (auto options : {with_tty, without_tty}) {
    auto s = open("seq 30000", options);
    BOOST_TEST(s.end().exit_code == 0);
    auto text = s.output->text();
    BOOST_TEST(std::count(text.begin(), text.end(), '\n') == 30'000);
    BOOST_TEST(text.find(options.tty ? "\n30000\r\n" : "\n30000\n") != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(an_unread_process_waits_and_goes_on_with_credit) {
  for (auto options : {with_tty, without_tty}) {
    auto name = std::string{options.tty ? "with" : "without"};
    auto s = open(spec_of(leave_pid(name) + "exec yes", 10'000), options);
    auto pid = pid_in(name);
    BOOST_TEST(eventually([&] { return blocks_in_write(pid) && s.output->size() == 10'000; }));
    box->grant(s.id, 5'000);
    BOOST_TEST(eventually([&] { return s.output->size() == 15'000; }));
    BOOST_TEST(eventually([&] { return blocks_in_write(pid); }));
    BOOST_TEST(s.output->size() == 15'000u);
    box->cancel(s.id);
    BOOST_TEST(s.end().cancelled);
  }
}

BOOST_AUTO_TEST_CASE(output_left_at_the_end_waits_for_credit) {
  auto s = open(spec_of(leave_pid("pid") + "seq 500; exit 3", 100), with_tty);
  auto pid = pid_in("pid");
  BOOST_TEST(eventually([&] { return !read_process(pid); }));
  BOOST_TEST((s.exit.wait_for(0s) == std::future_status::timeout));
  BOOST_TEST(s.output->size() == 100u);
  box->grant(s.id, ample);
  BOOST_TEST(s.end().exit_code == 3);
  auto text = s.output->text();
  BOOST_TEST(std::count(text.begin(), text.end(), '\n') == 500);
}

BOOST_AUTO_TEST_CASE(much_input_arrives_whole) {
  auto s = open("stty raw -echo; echo ready; head -c 600000 | cksum");
  BOOST_REQUIRE(s.says("ready"));
  std::string text;
  while (text.size() < 600'000)
    text += std::to_string(text.size()) + "\n";
  text.resize(600'000);
  auto taken = type(s.id, text);
  {
    std::ofstream copy{in_root("copy"), std::ios::binary};
    copy << text;
  }
  BOOST_TEST(s.end().exit_code == 0);
  BOOST_TEST(taken.get().has_value());
  auto sum = run_script("cksum < copy").stdout_data;
  BOOST_TEST(s.output->text().find(sum.substr(0, sum.size() - 1)) != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_line_without_end_does_not_keep_an_interrupt_from_its_program) {
  auto s = open("echo ready; exec cat > /dev/null");
  BOOST_REQUIRE(s.says("ready"));
  auto taken = type(s.id, std::string(500'000, 'x'));
  type(s.id, "\x03");
  BOOST_TEST(s.end().exit_code == -SIGINT);
  BOOST_TEST(taken.get().has_value());
}

BOOST_AUTO_TEST_CASE(input_that_nobody_reads_is_bounded_and_ends_with_the_process) {
  auto s = open("stty raw -echo; echo ready; exec sleep 1000");
  BOOST_REQUIRE(s.says("ready"));
  std::vector<std::future<result<void>>> taken;
  for (int i = 0; i < 20; ++i)
    taken.push_back(type(s.id, std::string(100'000, 'x')));
  auto refused = taken.back().get();
  taken.pop_back();
  BOOST_REQUIRE(!refused);
  BOOST_TEST(to_string(refused.error().code) == "overloaded");
  box->cancel(s.id);
  BOOST_TEST(s.end().cancelled);
  auto ok = std::count_if(taken.begin(), taken.end(), [](auto& x) { return x.get().has_value(); });
  BOOST_TEST(ok >= 10);
  BOOST_TEST(ok < 15);
}

BOOST_AUTO_TEST_CASE(input_for_a_process_that_has_ended_is_no_error) {
  auto s = open("exit 0");
  s.end();
  BOOST_TEST(type(s.id, "x").get().has_value());
  BOOST_TEST(type(123'456'789, "x").get().has_value());
  box->resize_terminal(s.id, 10, 10);
}

BOOST_AUTO_TEST_CASE(a_program_that_closes_its_streams_keeps_its_terminal) {
  auto s = open("exec < /dev/null > /dev/null 2>&1; sleep 0.2; echo still here > /dev/tty");
  BOOST_TEST(s.end().exit_code == 0);
  BOOST_TEST(s.output->text() == "still here\r\n");
}

BOOST_AUTO_TEST_CASE(a_background_child_with_the_terminal_neither_delays_the_end_nor_dies) {
  auto s = open(":; setsid sh -c '" + leave_pid("pid") + "exec sleep 1000' & "
                + "while ! test -e pid; do sleep 0.01; done; echo bye");
  BOOST_TEST(s.end().exit_code == 0);
  BOOST_TEST(s.output->text() == "bye\r\n");
  auto pid = pid_in("pid");
  BOOST_TEST(is_alive(pid));
  shutdown();
  BOOST_TEST(!is_alive(pid));
}

BOOST_AUTO_TEST_CASE(a_background_child_that_never_stops_talking_does_not_delay_the_end) {
  for (auto options : {with_tty, without_tty}) {
    auto s = open(":; setsid yes & sleep 0.1; exit 4", options);
    BOOST_TEST(s.end().exit_code == 4);
  }
}

BOOST_AUTO_TEST_CASE(cancel_kills_the_whole_tree) {
  auto s
    = open(":; setsid sh -c '" + leave_pid("child") + "exec sleep 1000' & trap '' HUP INT TERM; "
           + leave_pid("parent") + "while :; do sleep 1; done");
  auto child = pid_in("child");
  auto parent = pid_in("parent");
  box->cancel(s.id);
  auto x = s.end();
  BOOST_TEST(x.cancelled);
  BOOST_TEST(x.exit_code == -SIGKILL);
  BOOST_TEST(!is_alive(parent));
  BOOST_TEST(eventually([&] { return !is_alive(child); }));
}

BOOST_AUTO_TEST_CASE(a_timeout_kills_the_whole_tree_and_delivers_what_came_before) {
  for (auto options : {with_tty, without_tty}) {
    auto name = std::string{options.tty ? "with" : "without"};
    auto spec
      = spec_of(":; setsid sh -c '" + leave_pid(name) + "exec sleep 1000' & " + "while ! test -e "
                + name + "; do sleep 0.01; done; " + "echo so far; sleep 1000");
    spec.timeout = 1s;
    auto s = open(spec, options);
    auto child = pid_in(name);
    auto x = s.end();
    BOOST_TEST(x.timed_out);
    BOOST_TEST(x.exit_code == -SIGKILL);
    BOOST_TEST(s.output->text().find("so far") == 0u);
    BOOST_TEST(eventually([&] { return !is_alive(child); }));
  }
}

BOOST_AUTO_TEST_CASE(a_program_that_cannot_be_started_is_an_error) {
  for (auto options : {with_tty, without_tty}) {
    auto spec = prepare(plain({"no-such-program"}));
    auto s = open(spec, options);
    auto taken = type(s.id, "x");
    auto x = s.exit.get();
    BOOST_REQUIRE(!x);
    BOOST_TEST(to_string(x.error().code) == "exec_transport_error");
    taken.wait();
  }
}

BOOST_AUTO_TEST_CASE(a_shutdown_ends_terminals_and_answers_everybody) {
  auto s = open("stty raw -echo; echo ready; exec sleep 1000");
  BOOST_REQUIRE(s.says("ready"));
  auto taken = type(s.id, std::string(500'000, 'x'));
  shutdown();
  BOOST_TEST(s.end().cancelled);
  BOOST_TEST(taken.get().has_value());
  auto refused = open(command_spec{}, with_tty).exit.get();
  BOOST_REQUIRE(!refused);
  BOOST_TEST(to_string(refused.error().code) == "conflict");
  BOOST_TEST(type(s.id, "x").get().has_value());
}

BOOST_AUTO_TEST_CASE(terminals_leave_no_descriptors_open_in_the_server) {
  run_script("true");
  auto before = count_entries("/proc/self/fd");
  std::vector<session> all;
  for (int i = 0; i < 20; ++i) {
    all.push_back(open("read x"));
    all.push_back(open("echo a", without_tty));
    all.push_back(open(prepare(plain({"no-such-program"})), with_tty));
    type(all[all.size() - 3].id, i % 2 == 0 ? "\n" : "\x04");
  }
  for (auto& s : all)
    s.exit.get();
  BOOST_TEST(eventually([&] { return count_entries("/proc/self/fd") == before; }));
}

BOOST_AUTO_TEST_CASE(five_hundred_terminals_at_once_need_no_more_threads) {
  auto before = count_entries("/proc/self/task");
  std::vector<session> all;
  auto spec = prepare(plain({"cat"}));
  spec.credit = ample;
  for (int i = 0; i < 500; ++i)
    all.push_back(open(spec, with_tty));
  for (size_t i = 0; i < all.size(); ++i)
    type(all[i].id, std::to_string(i) + "\n");
  for (size_t i = 0; i < all.size(); ++i) {
    auto line = std::to_string(i) + "\r\n";
    BOOST_TEST(eventually([&] { return all[i].output->text() == line + line; }));
  }
  BOOST_TEST(count_entries("/proc/self/task") == before);
  for (auto& s : all)
    type(s.id, "\x04");
  for (auto& s : all)
    BOOST_TEST(s.end().exit_code == 0);
}

BOOST_AUTO_TEST_SUITE_END()
