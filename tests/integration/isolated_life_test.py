"""Isolated sandboxes that lose their init, or their server."""

import json
import os
import signal
import subprocess
import threading
import time
import unittest

from troupe_server import Server


def processes_with(text):
    found = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True, check=False)
    return found.stdout.split()


def children_of(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(x) for x in found.stdout.split()]


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Life(unittest.TestCase):
    def server(self, **isolated):
        server = Server({"default_backend": "isolated", "isolated": isolated})
        self.events = os.path.join(server.folder, "events.jsonl")
        server.kill()
        with open(os.path.join(server.folder, "config.json"), "w", encoding="utf-8") as out:
            json.dump({"default_backend": "isolated", "isolated": isolated,
                       "event_sinks": [{"type": "jsonl", "path": self.events}]}, out)
        server.start()
        self.addCleanup(server.close)
        return server

    def session(self, server, **body):
        status, session = server.json("POST", "/v1/sessions", body)
        self.assertEqual(status, 201, session)
        at = "/v1/sessions/" + session["id"]
        self.addCleanup(lambda: server.process.poll() is None and server.json("DELETE", at))
        return at

    def wait_for(self, condition, what):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def exec(self, server, at, command, **more):
        """Once the session answers."""
        answers = []

        def works():
            answers.append(server.json("POST", at + "/exec", {"command": command, **more}))
            return answers[-1][0] == 200
        self.wait_for(works, lambda: answers[-1])
        return answers[-1][1]

    def happened(self, what):
        """Events of the sandbox of this kind."""
        try:
            with open(self.events, encoding="utf-8") as lines:
                events = [json.loads(line) for line in lines if line.endswith("\n")]
        except FileNotFoundError:
            return []
        return [x for x in events if x["op"] == "sandbox" and x["data"].get("what") == what]

    # -- what is refused ---

    def test_a_refused_system_call_is_told_and_a_flood_of_them_bounded(self):
        server = self.server()
        at = self.session(server)
        tried = self.exec(server, at, "python3 -c '\n"
                          "import ctypes\n"
                          "c = ctypes.CDLL(None, use_errno=True)\n"
                          "for i in range(1000):\n"
                          "  assert c.mount(b\"x\", b\"/tmp\", b\"tmpfs\", 0, 0) == -1\n"
                          "assert c.unshare(0x10000000) == -1\n"
                          "print(ctypes.get_errno())'")
        self.assertEqual(tried["stdout"], "1\n", tried)
        self.wait_for(lambda: {"mount", "unshare"} <= {
            x["data"]["call"] for x in self.happened("denied")}, "no event")
        told = [x for x in self.happened("denied") if x["data"]["call"] == "mount"]
        self.assertEqual([x["data"]["count"] for x in told], [2 ** i for i in range(10)])
        self.assertEqual(told[0]["error_code"], "call_denied")
        self.assertFalse(told[0]["ok"])
        self.assertEqual(self.exec(server, at, "echo fine")["stdout"], "fine\n")

    # -- limits ---

    def test_a_limit_that_a_process_in_the_background_meets_is_told_at_once_and_a_flood_bounded(self):
        server = self.server()
        at = self.session(server, limits={"memory_bytes": 64 << 20, "pids": 20})
        self.exec(server, at, "setsid sh -c 'sleep 0.3; python3 -c \"x = bytearray(200 << 20)\"; "
                  "sleep 100' >/dev/null 2>&1 &")

        def met(limit):
            return [x for x in self.happened("limit") if x["data"]["limit"] == limit]
        self.wait_for(lambda: met("memory"), "the memory's limit is not told")
        self.assertEqual(met("memory")[0]["error_code"], "quota_exceeded")
        self.assertEqual(met("pids"), [])
        self.exec(server, at, "setsid python3 -c '\nimport os, time\nos.close(1); os.close(2)\n"
                  "for i in range(5000):\n"
                  "  try:\n    os.fork() or time.sleep(100)\n  except OSError: pass\n"
                  "open(\"done\", \"w\")\ntime.sleep(100)' >/dev/null 2>&1 &")
        done = f"{server.state_dir}/sessions/{at.rsplit('/', 1)[1]}/workspace/done"
        self.wait_for(lambda: os.path.exists(done), "it does not end")
        self.wait_for(lambda: sum(x["data"]["count"] for x in met("pids")) >= 4900, "no count of forks")
        self.assertLess(len(met("pids")), 30)

    # -- init dies ---

    def test_a_session_whose_init_is_killed_says_so_and_goes_on_over_its_files(self):
        server = self.server()
        before = set(children_of(server.process.pid))
        at = self.session(server)
        self.exec(server, at, "echo kept > f")
        init = (set(children_of(server.process.pid)) - before).pop()
        answers = []
        running = threading.Thread(target=lambda: answers.append(
            server.json("POST", at + "/exec", {"command": "touch up; sleep 86421"})))
        running.start()
        self.wait_for(lambda: processes_with("sleep 86421"), "it did not start")
        os.kill(init, signal.SIGKILL)
        running.join(20)
        self.assertFalse(running.is_alive(), "the command hangs")
        status, answer = answers[0]
        self.assertGreaterEqual(status, 400, answer)
        self.assertEqual(answer["error"]["code"], "backend_lost")
        self.assertTrue(answer["error"]["retryable"])
        self.assertEqual(self.exec(server, at, "cat f")["stdout"], "kept\n")
        self.assertEqual(processes_with("sleep 86421"), [])
        self.wait_for(lambda: self.happened("lost"), "no event")
        lost = self.happened("lost")[0]
        self.assertEqual((lost["ok"], lost["data"]["signal"]), (False, 9))
        session = server.json("GET", at)[1]
        self.assertEqual((session["status"], session["restarts"]), ("running", 1))

    def test_a_session_whose_init_dies_again_and_again_is_failed_and_keeps_its_files(self):
        server = self.server()
        at = self.session(server)
        self.exec(server, at, "echo kept > f")
        for _ in range(5):
            for init in children_of(server.process.pid):
                os.kill(init, signal.SIGKILL)
            self.wait_for(lambda: children_of(server.process.pid)
                          or server.json("GET", at)[1]["status"] == "failed", "neither")
            if server.json("GET", at)[1]["status"] == "failed":
                break
        self.wait_for(lambda: server.json("GET", at)[1]["status"] == "failed", "not failed")
        status, answer = server.json("POST", at + "/exec", {"command": "true"})
        self.assertEqual(answer["error"]["code"], "session_failed", (status, answer))
        session_id = at.rsplit("/", 1)[1]
        with open(f"{server.state_dir}/sessions/{session_id}/workspace/f", encoding="utf-8") as f:
            self.assertEqual(f.read(), "kept\n")
        self.assertEqual(server.json("DELETE", at)[0], 204)

    # -- the server dies ---

    def test_processes_outlive_a_killed_server_and_the_next_one_takes_them_over(self):
        server = self.server()
        at = self.session(server, snapshot={"type": "local"})
        self.exec(server, at, "setsid sh -c 'echo $$ > pid; while :; do echo tick >> ticks; "
                  "echo to a pipe; sleep 0.05; done' 86422 &")
        pid = self.exec(server, at, "while [ ! -s pid ]; do sleep 0.01; done; cat pid")["stdout"]
        host = processes_with(" 86422$")
        self.assertEqual(len(host), 1)
        server.kill()
        server.start()
        alive = self.exec(server, at, "cat pid; kill -0 $(cat pid) && echo alive; pgrep -fc 8642[2]$")
        self.assertEqual(alive["stdout"], pid + "alive\n1\n")
        self.assertEqual(processes_with(" 86422$"), host)
        before = int(self.exec(server, at, "wc -l < ticks")["stdout"])
        self.exec(server, at, f"while [ $(wc -l < ticks) -le {before} ]; do sleep 0.01; done")
        self.wait_for(lambda: self.happened("adopted"), "no event")
        # Not only once.
        server.kill()
        server.start()
        self.assertEqual(self.exec(server, at, "kill -0 $(cat pid) && echo alive")["stdout"], "alive\n")
        self.assertEqual(server.json("POST", at + "/stop")[0], 200)
        self.assertEqual(server.json("DELETE", at)[0], 204)
        self.assertEqual(processes_with(" 86422$"), [])

    def test_a_command_that_ran_goes_on_and_its_end_and_output_are_told(self):
        server = self.server()
        at = self.session(server)

        def ask(command):
            try:
                server.json("POST", at + "/exec", {"command": command})
            except (OSError, ValueError):
                pass
        threads = [threading.Thread(target=ask, args=(x,)) for x in (
            "touch up1; while [ ! -e go ]; do sleep 0.01; done; echo early; echo bad >&2; "
            "touch wrote; while [ ! -e end ]; do sleep 0.01; done; exit 7",
            "touch up2; while [ ! -e go ]; do sleep 0.01; done; head -c 3000000 /dev/zero; "
            "echo last; touch much; sleep 86423")]
        for x in threads:
            x.start()
        root = f"{server.state_dir}/sessions/{at.rsplit('/', 1)[1]}/workspace/"
        self.wait_for(lambda: os.path.exists(root + "up1") and os.path.exists(root + "up2"), "start")
        server.kill()
        for x in threads:
            x.join()
        for name in ("go",):
            with open(root + name, "w", encoding="utf-8"):
                pass
        # Nobody reads their pipes but init, and neither of them waits or dies.
        self.wait_for(lambda: os.path.exists(root + "wrote") and os.path.exists(root + "much"), "write")
        server.start()
        self.exec(server, at, "touch end")
        self.wait_for(lambda: self.happened("command_ended"), "no end")
        ended = self.happened("command_ended")[0]["data"]
        self.assertEqual((ended["exit_code"], ended["stdout"], ended["stderr"]), (7, "early\n", "bad\n"))
        self.assertEqual(len(self.happened("command_runs")), 2)
        self.assertEqual(len(processes_with("sleep 86423")), 2)  # the shell's line has it too
        self.exec(server, at, "pkill -f 8642[3]")
        self.wait_for(lambda: len(self.happened("command_ended")) == 2, "no second end")
        much = self.happened("command_ended")[1]["data"]
        self.assertGreater(much["dropped_bytes"], 1_000_000)

    def test_a_terminal_s_process_outlives_the_server(self):
        server = self.server()
        at = self.session(server)
        status, update = server.json("POST", at + "/pty", {
            "command": "echo $$ > pid; exec sleep 86424", "tty": True, "yield_time_ms": 500})
        self.assertEqual(status, 200, update)
        self.exec(server, at, "while [ ! -s pid ]; do sleep 0.01; done")
        server.kill()
        server.start()
        got = self.exec(server, at, "kill -0 $(cat pid) && readlink /proc/$(cat pid)/fd/0")
        self.assertEqual(got["stdout"], "/dev/pts/0\n")

    def test_an_allow_list_s_proxy_is_there_again(self):
        server = self.server()
        at = self.session(server, network={"allow": ["a.test:80"]})
        server.kill()
        server.start()
        got = self.exec(server, at, "curl -s -o /dev/null -w '%{http_code}' http://b.test/")
        self.assertEqual(got["stdout"], "403")

    def test_without_a_server_all_ends_after_the_grace(self):
        server = self.server(grace_s=1)
        at = self.session(server)
        self.exec(server, at, "echo kept > f; setsid sleep 86425 >/dev/null 2>&1 &")
        server.kill()
        self.wait_for(lambda: not processes_with("sleep 86425"), "it lives on")
        server.start()
        self.assertEqual(self.exec(server, at, "cat f")["stdout"], "kept\n")
        self.assertEqual(server.json("DELETE", at)[0], 204)

    def test_a_session_deleted_by_the_next_server_leaves_no_process(self):
        server = self.server()
        at = self.session(server)
        self.exec(server, at, "setsid sleep 86426 >/dev/null 2>&1 &")
        self.assertEqual(server.json("POST", at + "/stop")[0], 200)
        server.kill()
        self.assertEqual(len(processes_with("sleep 86426")), 1)
        server.start()
        self.assertEqual(server.json("DELETE", at)[0], 204)
        self.assertEqual(processes_with("sleep 86426"), [])


if __name__ == "__main__":
    unittest.main()
