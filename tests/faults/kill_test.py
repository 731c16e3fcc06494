"""The server killed at random moments of its sessions' lives: what it had acknowledged holds, and when
the sessions are deleted nothing is left. The moments come from a fixed seed."""

import os
import random
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
from killed_client import KilledClient  # noqa: E402
from troupe_server import Server  # noqa: E402

ROUNDS = 10
CLIENTS = 3
MARKER = "86421357"


class Trail:
    """What one client was told of one session."""

    def __init__(self, session):
        self.id = session["id"]
        self.asked = self.told = 0  # the number in the file
        self.deleting = self.deleted = False


class Client(KilledClient):
    """Leads sessions through their lives until the server is gone."""

    def __init__(self, server):
        super().__init__(server)
        self.trails = []

    def live(self):
        entries = {f"d{i % 5}/f{i}": {"type": "file", "content": str(i)} for i in range(200)}
        session = self.ask(
            "POST",
            "/v1/sessions",
            {"manifest": {"entries": entries}, "snapshot": {"type": "local"}},
        )
        trail = Trail(session)
        self.trails.append(trail)
        at = "/v1/sessions/" + trail.id
        self.ask("POST", at + "/exec", {"command": f"setsid sleep {MARKER} >/dev/null 2>&1 &"})
        for _ in range(3):
            trail.asked += 1
            self.ask("POST", at + "/exec", {"command": f"echo {trail.asked} > m; mv m n; rm -f d1/f1"})
            trail.told = trail.asked
            for step in ("/stop", "/shutdown", "/start"):
                self.ask("POST", at + step)
        trail.deleting = True
        self.ask("DELETE", at)
        trail.deleted = True


class Killed(unittest.TestCase):
    def check(self, server, trail):
        at = "/v1/sessions/" + trail.id
        status, answer = server.json("GET", at)
        if trail.deleted:
            self.assertEqual(status, 404, answer)
            return
        if trail.deleting and status == 404:
            return
        self.assertEqual(status, 200, answer)
        before = answer
        status, answer = server.json("POST", at + "/start")
        self.assertEqual(status, 200, answer)
        status, answer = server.json("POST", at + "/exec", {"command": "cat n; ls d* | wc -l"})
        self.assertEqual(status, 200, answer)
        lines = answer["stdout"].split()
        number = int(lines[0]) if len(lines) > 1 else 0
        self.assertIn(number, (trail.told, trail.asked), (before, answer))
        # Five folders, each with a title, blank lines between them.
        self.assertIn(int(lines[-1]) - 9, (199, 200), answer)

    def test_at_random_moments(self):
        chance = random.Random(20261123)
        server = Server()
        self.addCleanup(server.close)
        for _ in range(ROUNDS):
            clients = [Client(server) for _ in range(CLIENTS)]
            for x in clients:
                x.start()
            time.sleep(chance.uniform(0.02, 0.8))  # the moment is what is tested
            server.kill()
            for x in clients:
                x.join(60)
                self.assertIsNone(x.wrong)
            server.start()
            for x in clients:
                for trail in x.trails:
                    self.check(server, trail)
            while items := server.json("GET", "/v1/sessions?limit=100")[1]["items"]:
                for x in items:
                    status, answer = server.json("DELETE", "/v1/sessions/" + x["id"])
                    self.assertEqual(status, 204, answer)
            self.assertEqual(os.listdir(server.state_dir + "/sessions"), [])
            found = subprocess.run(["pgrep", "-f", f"sleep {MARKER}"], check=False)
            self.assertEqual(found.returncode, 1, "a process lives on")
            for folder, _, files in os.walk(server.state_dir + "/snapshots"):
                self.assertIn(files, ([], ["oci-layout"]), folder)


if __name__ == "__main__":
    unittest.main()
