"""Sandboxes that are made before anyone asks for them."""

import glob
import os
import subprocess
import time
import unittest

from troupe_server import Server

FACTS = ("grep -E 'NoNewPrivs|Seccomp:|CapEff|CapBnd' /proc/self/status; id; ls -di /; pwd; "
         "cat /proc/net/dev | wc -l; ulimit -n; mount | cut -d' ' -f3- | sort")


def groups_of(server):
    """Control groups with processes of sandboxes that this server made in advance."""
    found = []
    for path in glob.glob("/sys/fs/cgroup/**/warm-*", recursive=True):
        with open(os.path.join(path, "cgroup.procs"), encoding="utf-8") as pids:
            for pid in pids.read().split():
                try:
                    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as mounts:
                        if server.state_dir in mounts.read():
                            found.append(path)
                except OSError:
                    pass
    return found


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Warm(unittest.TestCase):
    def server(self, size=2, **more):
        server = Server({"default_backend": "isolated", "isolated": {"warm_pool": size, **more}})
        self.addCleanup(server.close)
        return server

    def waiting(self, server):
        return sorted(os.listdir(os.path.join(server.state_dir, "isolated", "warm")))

    def wait_for(self, condition, what):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def wait_for_pool(self, server, size=2):
        def full():
            text = server.raw("GET", "/metrics")[2].decode()
            return f'troupe_warm_sandboxes_ready{{root="/workspace"}} {size}\n' in text
        self.wait_for(full, "the pool does not fill")

    def create(self, server, **body):
        status, session = server.json("POST", "/v1/sessions", body)
        self.assertEqual(status, 201, session)
        return session

    def exec(self, server, session, command, **more):
        status, answer = server.json("POST", f"/v1/sessions/{session['id']}/exec",
                                     {"command": command, **more})
        self.assertEqual(status, 200, answer)
        return answer

    def test_a_session_takes_one_and_has_the_same_walls(self):
        server, cold = self.server(), self.server(size=0)
        self.wait_for_pool(server)
        before = self.waiting(server)
        one = self.create(server, manifest={"entries": {"a": {"type": "file", "content": "x"}}})
        other = self.create(cold)
        self.assertEqual(len(set(before) & set(self.waiting(server))), 1)
        walls = [[(x["name"], x["enforced"], x["note"]) for x in s["walls"]] for s in (one, other)]
        self.assertEqual(*walls)
        hide = "| sed 's/[0-9]\\{5,\\}//g; s/root-[0-9a-f]*//'"
        self.assertEqual(self.exec(server, one, f"({FACTS}) {hide}")["stdout"],
                         self.exec(cold, other, f"({FACTS}) {hide}")["stdout"])
        self.assertEqual(self.exec(server, one, "cat a; stat -c %U a")["stdout"], "xsandbox\n")

    def test_nobody_gets_what_another_got(self):
        server = self.server(size=4)
        self.wait_for_pool(server, 4)
        sessions = [self.create(server) for _ in range(8)]
        for i, x in enumerate(sessions):
            self.exec(server, x, f"echo {i} > mine; echo {i} > /tmp/mine")
        for i, x in enumerate(sessions):
            self.assertEqual(self.exec(server, x, "cat mine /tmp/mine")["stdout"], f"{i}\n{i}\n")
        owners = {os.stat(os.path.join(server.state_dir, "sessions", x["id"], "workspace")).st_uid
                  for x in sessions}
        self.assertEqual(len(owners), 8)
        self.wait_for_pool(server, 4)

    def test_limits_of_the_session_hold(self):
        server = self.server()
        self.wait_for_pool(server)
        before = self.waiting(server)
        session = self.create(server, limits={"memory_bytes": 64 << 20, "pids": 40})
        self.assertNotEqual(before, self.waiting(server))
        eaten = self.exec(server, session, "python3 -c 'x = bytearray(200 << 20)'")
        self.assertNotEqual(eaten["exit_code"], 0)
        forked = self.exec(server, session, "for i in $(seq 60); do sleep 5 & done; echo all")
        self.assertNotIn("all", forked["stdout"])

    def test_a_session_that_needs_another_kind_gets_it(self):
        server = self.server()
        self.wait_for_pool(server)
        before = self.waiting(server)
        session = self.create(server, limits={"open_files": 77})
        self.assertEqual(self.exec(server, session, "ulimit -n")["stdout"], "77\n")
        session = self.create(server, manifest={"root": "/elsewhere", "users": [{"name": "eve"}]})
        self.assertEqual(self.exec(server, session, "pwd; id -un", user="eve")["stdout"],
                         "/elsewhere\neve\n")
        self.assertEqual(before, self.waiting(server))

    def test_a_dead_one_is_nobody_s(self):
        server = self.server()
        self.wait_for_pool(server)
        before = self.waiting(server)
        killed = []
        for path in groups_of(server):
            with open(os.path.join(path, "cgroup.procs"), encoding="utf-8") as pids:
                killed += pids.read().split()
        for pid in killed:
            os.kill(int(pid), 9)

        def lives(pid):
            try:
                with open(f"/proc/{pid}/stat", encoding="utf-8") as text:
                    return text.read().rsplit(")", 1)[1].split()[0] not in "ZX"
            except OSError:
                return False
        # One that is still dying would be taken, and lost right after.
        self.wait_for(lambda: not any(map(lives, killed)), "they do not die")
        session = self.create(server)
        self.assertEqual(self.exec(server, session, "echo fine")["stdout"], "fine\n")
        self.wait_for(lambda: not set(before) & set(self.waiting(server)), "dead ones stay")

    def test_a_clean_stop_leaves_nothing(self):
        server = self.server()
        self.wait_for_pool(server)
        self.create(server)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(groups_of(server), [])
        self.assertEqual(self.waiting(server), [])
        server.start()

    def test_after_a_crash_the_taken_go_on_and_the_rest_is_swept(self):
        server = self.server()
        self.wait_for_pool(server)
        before = set(self.waiting(server))
        session = self.create(server)
        self.assertEqual(len(before & set(self.waiting(server))), 1)
        self.exec(server, session, "sleep 86431 & echo up > up")
        self.wait_for_pool(server)
        before = set(self.waiting(server))
        server.kill()
        server.start()
        self.wait_for(lambda: not before & set(self.waiting(server)), "old ones stay")
        self.wait_for_pool(server)
        self.wait_for(lambda: server.json("POST", f"/v1/sessions/{session['id']}/exec",
                                          {"command": "true"})[0] == 200, "it does not come back")
        self.assertEqual(self.exec(server, session, "cat up; pgrep -c sleep")["stdout"], "up\n1\n")
        server.json("DELETE", "/v1/sessions/" + session["id"])
        left = subprocess.run(["pgrep", "-f", "sleep 86431"], capture_output=True, check=False)
        self.assertEqual(left.stdout, b"")


if __name__ == "__main__":
    unittest.main()
