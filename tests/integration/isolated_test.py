"""Isolated sessions as a client sees them."""

import os
import subprocess
import time
import unittest

from troupe_server import Server, ServerTest


def processes_with(text):
    """Processes on the host whose command line has this text."""
    found = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True, check=False)
    return found.stdout.split()


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Isolated(ServerTest):
    config = {"default_backend": "isolated"}

    def test_a_session_sees_itself_and_nothing_of_the_host(self):
        session = self.create(manifest={"entries": {"a.txt": {"type": "file", "content": "hi"}}})
        self.assertEqual(session["backend"], "isolated")
        missing = [x["name"] for x in session["walls"] if not x["enforced"]]
        self.assertEqual(missing, ["landlock_tcp", "memory", "cpu", "disk"])  # no such limits were asked for
        shown = self.exec(session, "pwd; cat a.txt; echo; ls /; test -e /work; echo $?")["stdout"]
        self.assertTrue(shown.startswith("/workspace\nhi\n"), shown)
        self.assertNotIn("sys\n", shown)
        self.assertTrue(shown.endswith("1\n"), shown)
        pids = self.exec(session, "ls /proc | grep -c '^[0-9]'")["stdout"]
        self.assertLess(int(pids), 10)
        self.assertNotIn(os.path.basename(self.server.folder), self.exec(session, "ls /tmp")["stdout"])
        network = self.exec(session, "cat /proc/net/dev | tail -n +3 | cut -d: -f1")["stdout"]
        self.assertEqual(network.split(), ["lo"])

    def test_files_belong_to_the_session_s_user_whoever_wrote_them(self):
        session = self.create(manifest={"entries": {"d/m": {"type": "file", "content": "m"}}})
        self.server.raw("PUT", self.file(session, "w"), b"w")
        self.call("POST", session, "/apply_patch", {"patch": (
            "*** Begin Patch\n*** Add File: p\n+p\n*** End Patch\n")})
        self.exec(session, "echo e > e; mkdir -p own; chmod 700 own; echo s > own/s")
        owners = self.exec(session, "stat -c %U d d/m w p e own | sort -u")["stdout"]
        self.assertEqual(owners, "sandbox\n")
        self.assertEqual(self.server.raw("GET", self.file(session, "own/s"))[2], b"s\n")

    def test_users_of_the_manifest_exist_and_are_kept_apart(self):
        session = self.create(manifest={"users": [{"name": "alice"}]})
        self.assertEqual(self.exec(session, "id -un", user="alice")["stdout"], "alice\n")
        self.exec(session, "umask 077; echo secret > mine")
        path = self.file(session, "mine")
        self.assertEqual(self.server.raw("GET", path)[0], 200)
        self.assertNotEqual(self.server.raw("GET", path + "&user=alice")[0], 200)
        status, answer = self.call("POST", session, "/exec", {"command": "id", "user": "bob"})
        self.assertEqual(answer["error"]["code"], "sandbox_config_invalid", (status, answer))

    def test_limits_and_network_come_back_with_the_state(self):
        limits = {"memory_bytes": 64 << 20, "pids": 40, "cpus": 0.5, "exec_timeout_s": 20.5}
        session = self.create(limits=limits, network={"allow": ["example.com:443"]})
        self.assertEqual(session["limits"], limits)
        state = session["state"]
        self.server.json("DELETE", "/v1/sessions/" + session["id"])
        status, again = self.server.json("POST", "/v1/sessions/resume", {"state": state})
        self.assertEqual(status, 201, again)
        self.assertEqual(again["limits"], limits)
        self.assertEqual(again["network"], {"allow": ["example.com:443"]})
        self.assertEqual(again["state"]["limits"], state["limits"])
        eaten = self.exec(again, "python3 -c 'x = bytearray(200 << 20)'")
        self.assertNotEqual(eaten["exit_code"], 0)
        self.server.json("DELETE", "/v1/sessions/" + again["id"])
        state["limits"]["pids"] = -1
        status, answer = self.server.json("POST", "/v1/sessions/resume", {"state": state})
        self.assertEqual(answer["error"]["code"], "invalid_state", (status, answer))

    def test_an_operator_s_caps_hold_for_whatever_state(self):
        state = self.create(limits={"memory_bytes": 64 << 20}, network="none")["state"]
        other = Server({"default_backend": "isolated", "isolated": {
            "max_limits": {"memory_bytes": 32 << 20, "pids": 50}}})
        self.addCleanup(other.close)
        status, answer = other.json("POST", "/v1/sessions/resume", {"state": state})
        self.assertEqual(answer["error"]["code"], "sandbox_config_invalid", (status, answer))
        self.assertEqual(answer["error"]["context"]["field"], "limits.memory_bytes")
        state["limits"]["memory_bytes"] = 16 << 20
        status, session = other.json("POST", "/v1/sessions/resume", {"state": state})
        self.assertEqual(session["limits"], {"memory_bytes": 16 << 20, "pids": 50}, status)
        state["session_id"], state["network"] = "0f8fad5b-d9cb-469f-a165-70867728950e", "host"
        status, answer = other.json("POST", "/v1/sessions/resume", {"state": state})
        self.assertEqual(answer["error"]["code"], "sandbox_config_invalid", (status, answer))
        self.assertEqual(answer["error"]["context"]["wall"], "network")

    def test_limits_hold_and_are_reported(self):
        session = self.create(limits={"memory_bytes": 64 << 20, "pids": 40})
        eaten = self.exec(session, "python3 -c 'x = bytearray(200 << 20)'")
        self.assertNotEqual(eaten["exit_code"], 0)
        self.assertEqual(self.exec(session, "echo alive")["stdout"], "alive\n")
        many = self.exec(session, "for i in $(seq 100); do sleep 5 & done; wait", timeout_s=20)
        self.assertNotEqual(many["exit_code"], 0, many)
        usage = self.call("GET", session, "")[1]["usage"]
        self.assertGreater(usage["cpu_s"], 0)
        status, answer = self.server.json("POST", "/v1/sessions", {"limits": {"disk_bytes": 1 << 20}})
        self.assertGreaterEqual(status, 400, answer)
        self.assertIn("disk", answer["error"]["message"])

    def test_a_terminal_and_a_port_are_inside(self):
        session = self.create(exposed_ports=[8123])
        status, update = self.call("POST", session, "/pty", {
            "command": "tty; id -un", "tty": True, "yield_time_ms": 3000})
        self.assertEqual(status, 200, update)
        self.assertEqual(update["output"].split(), ["/dev/pts/0", "sandbox"])
        self.exec(session, "echo page > index.html; python3 -m http.server 8123 >/dev/null 2>&1 &")
        at = f"/v1/sessions/{session['id']}/proxy/8123/index.html"
        self.wait_for(lambda: self.server.raw("GET", at)[0] == 200, "nobody listens")
        self.assertEqual(self.server.raw("GET", at)[2], b"page\n")

    def test_work_comes_back_from_a_snapshot_and_parts_ways_in_a_fork(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "mkdir -p d; echo 1 > d/f; chmod 640 d/f; ln -s d/f l")
        stopped = self.call("POST", session, "/stop")[1]
        self.server.json("DELETE", f"/v1/sessions/{session['id']}?keep_snapshot=true")
        status, back = self.server.json("POST", "/v1/sessions/resume", {"state": stopped["state"]})
        self.assertEqual(status, 201, back)
        seen = self.exec(session, "cat l; stat -c '%U %a' d/f; echo 2 >> d/f")["stdout"]
        self.assertEqual(seen, "1\nsandbox 640\n")
        point = self.call("POST", session, "/checkpoint", {"name": "p"})[1]
        self.exec(session, "rm -r d")
        status, answer = self.call("POST", session, "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(status, 200, answer)
        self.assertEqual(self.exec(session, "cat d/f; echo 3 >> d/f; id -un")["stdout"],
                         "1\n2\nsandbox\n")
        status, forks = self.call("POST", session, "/fork", {"count": 2})
        self.assertEqual(status, 201, forks)
        for fork in forks["items"]:
            self.assertEqual(fork["backend"], "isolated")
            self.assertEqual(self.exec(fork, "cat d/f; echo 4 >> d/f")["stdout"], "1\n2\n3\n")
            self.assertEqual(self.server.json("DELETE", "/v1/sessions/" + fork["id"])[0], 204)
        self.assertEqual(self.exec(session, "cat d/f")["stdout"], "1\n2\n3\n")

    def test_a_deleted_session_leaves_nothing(self):
        session = self.create()
        self.exec(session, "setsid sleep 97531 >/dev/null 2>&1 & ")
        self.assertEqual(self.server.json("DELETE", "/v1/sessions/" + session["id"])[0], 204)
        self.assertEqual(processes_with("sleep 97531"), [])
        self.assertNotIn(session["id"], os.listdir(self.server.state_dir + "/sessions"))
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            self.assertNotIn(session["id"], mounts.read())


if __name__ == "__main__":
    unittest.main()
