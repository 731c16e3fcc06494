"""The server killed while it holds a sandbox frozen for a snapshot: its commands go on all the same."""

import glob
import os
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
from killed_client import KilledClient  # noqa: E402
from troupe_server import Server  # noqa: E402


class Checkpoint(KilledClient):
    """Asks for one until the server is gone."""

    def __init__(self, server, at):
        super().__init__(server)
        self.at = at

    def live(self):
        for number in range(100):
            self.ask("POST", self.at + "/checkpoint", {"name": str(number)})
            self.ask("POST", self.at + "/exec", {"command": "touch d/*"})


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Frozen(unittest.TestCase):
    def group_of(self, session):
        found = glob.glob(f"/sys/fs/cgroup/**/troupe-*/{session}-*/cgroup.events", recursive=True)
        if not found:
            self.skipTest("no cgroups of version 2")
        return os.path.dirname(found[0])

    def read(self, path):
        with open(path, encoding="utf-8") as file:
            return file.read()

    def wait_for(self, condition, what):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)

    def test_commands_of_a_server_that_dies_in_a_frozen_moment_go_on(self):
        server = Server({"default_backend": "isolated"})
        self.addCleanup(server.close)
        status, session = server.json("POST", "/v1/sessions", {"snapshot": {"type": "local"}})
        self.assertEqual(status, 201, session)
        at = "/v1/sessions/" + session["id"]
        # Once it lies on layers, whatever is saved of it is saved while it stands still.
        status, point = server.json("POST", at + "/checkpoint", {"name": "empty"})
        self.assertEqual(status, 201, point)
        status, answer = server.json("POST", at + "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(status, 200, answer)
        ticks = f"{server.state_dir}/sessions/{session['id']}/overlay/upper/ticks"
        status, answer = server.json("POST", at + "/exec", {"command":
            "mkdir d; for i in $(seq 20); do head -c 2000000 /dev/urandom > d/$i; done; "
            "setsid sh -c 'echo $$ > pid; while :; do echo tick >> ticks; sleep 0.02; done' >/dev/null 2>&1 &"})
        self.assertEqual(status, 200, answer)
        self.wait_for(lambda: os.path.exists(ticks), "it does not tick")
        group = self.group_of(session["id"])
        client = Checkpoint(server, at)
        client.start()
        self.wait_for(lambda: "frozen 1" in self.read(group + "/cgroup.events"), "never frozen")
        server.kill()
        self.wait_for(lambda: "frozen 0" in self.read(group + "/cgroup.events"), "still frozen")
        before = os.path.getsize(ticks)
        self.wait_for(lambda: os.path.getsize(ticks) > before + 20, "no tick more")
        client.join(60)
        self.assertIsNone(client.wrong)
        server.start()
        status, answer = server.json("POST", at + "/exec", {"command": "kill -0 $(cat pid)"})
        self.assertEqual((status, answer["exit_code"]), (200, 0), answer)
        self.assertEqual(server.json("POST", at + "/checkpoint", {"name": "after"})[0], 201)
        self.assertEqual(server.json("DELETE", at)[0], 204)
        self.wait_for(lambda: not os.path.exists(group), "the group stays")
        left = subprocess.run(["pgrep", "-x", "troupe-thaw"], capture_output=True, check=False)
        self.assertEqual(left.stdout, b"")


if __name__ == "__main__":
    unittest.main()
