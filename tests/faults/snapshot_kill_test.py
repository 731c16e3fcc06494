"""The server killed at random instants of stops, restore points, rewinds, forks, flattening, prunes
and restores: every snapshot it had acknowledged is there and whole, and what nothing refers to is
gone once it has started again. The instants come from a fixed seed; TROUPE_CRASHES says how many."""

import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
from killed_client import KilledClient  # noqa: E402
from troupe_server import TROUPE, Server  # noqa: E402

CRASHES = int(os.environ.get("TROUPE_CRASHES", "15"))
CLIENTS = 2
SEED = 20261124


class Client(KilledClient):
    """Works with snapshots until the server is gone; keeps what it was told of them."""

    def __init__(self, server, options, seed, kept, pruned):
        super().__init__(server)
        self.options = options
        self.chance = random.Random(seed)
        self.kept = kept  # snapshot id -> the numbers that may be in its file `m`
        self.pruned = pruned  # ids; another client may learn of its snapshot after this one's prune
        self.number = seed * 10000
        self.pruning = False

    def gone(self, snapshot):
        status, answer = self.server.json("GET", "/v1/snapshots/" + snapshot)
        if status != 404:
            raise AssertionError(f"{snapshot} was not found, but is there: {status} {answer}")

    def live(self):
        session = self.ask("POST", "/v1/sessions", {"snapshot": {"type": "local"},
                                                 "options": self.options})["id"]
        at = "/v1/sessions/" + session
        now = 0  # the number in the file
        points = []
        for _ in range(30):
            step = self.chance.choice(
                ["write"] * 4 + ["stop"] * 4 + ["checkpoint"] * 3
                + ["rewind", "diff", "fork", "prune", "prune"])
            if step == "write":
                self.number += 1
                # What these leave dead soon makes a chain worth flattening.
                size = self.chance.choice([10, 5000, 600000, 600000])
                self.ask("POST", at + "/exec", {"command":
                         f"head -c {size} /dev/urandom > f{self.number % 3}; echo {self.number} > m"})
                now = self.number
            elif step == "stop":
                self.kept[session] = self.kept.get(session, {0}) | {now}
                self.ask("POST", at + "/stop")
                self.kept[session] = {now}
                self.ask("POST", at + "/start")
            elif step == "checkpoint":
                point = self.ask("POST", at + "/checkpoint", {"name": "p"})["id"]
                self.kept[point] = {now}
                points.append((point, now))
            elif step == "rewind" and points:
                point, then = self.chance.choice(points)
                status, answer = self.server.json("POST", at + "/rewind", {"snapshot_id": point})
                if status == 200:
                    now = then
                elif status != 404:  # pruned, perhaps in this instant
                    raise AssertionError(f"rewind: {status} {answer}")
                else:
                    points.remove((point, then))
                    self.gone(point)
            elif step == "diff" and points:
                point, then = self.chance.choice(points)
                query = self.chance.choice(["", "&to=" + points[0][0]])
                status, answer = self.server.json("GET", f"{at}/diff?from={point}{query}")
                if status not in (200, 404):
                    raise AssertionError(f"diff: {status} {answer}")
            elif step == "fork":
                for fork in self.ask("POST", at + "/fork", {"count": 2})["items"]:
                    self.kept[fork["id"]] = {now}
            elif step == "prune":
                self.pruning = True
                answer = self.ask("POST", "/v1/snapshots/prune", {"max_count": 6})
                self.pruned.update(answer["removed"])
                self.pruning = False


class Killed(unittest.TestCase):
    def number_in(self, folder, snapshot):
        """The number in a snapshot, all of which is verified on the way; None: it has none."""
        verify = [TROUPE, "snapshots", "verify", "--store", folder, snapshot]
        subprocess.run(verify, check=True)
        export = [TROUPE, "snapshots", "export", "--store", folder, snapshot, "-"]
        data = subprocess.run(export, check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.name.removeprefix("./") == "m":
                    return int(tar.extractfile(member).read())
        return 0

    def blobs(self, folder):
        """What references reach, and what is there, while workspaces let go of what they lie on."""
        for _ in range(50):
            try:
                return self.blobs_now(folder)
            except FileNotFoundError:
                time.sleep(0.02)
        return self.blobs_now(folder)

    def blobs_now(self, folder):
        there = os.path.join(folder, ".layers/blobs/sha256")
        reached = set()
        for name in os.listdir(folder):
            held = name.startswith(".held-")  # what a workspace lies on
            if not name.endswith(".tar") or name.startswith(".") and not held:
                continue
            with open(os.path.join(folder, name), encoding="utf-8") as text:
                manifest = json.load(text)["manifests"][0]["digest"][7:]
            reached.add(manifest)
            with open(os.path.join(there, manifest), encoding="utf-8") as text:
                value = json.load(text)
            reached |= {x["digest"][7:] for x in [value["config"], *value["layers"]]}
        unfinished = os.path.join(folder, ".layers/new")
        stored = set(os.listdir(there))
        for name in os.listdir(unfinished):
            stored |= set(os.listdir(os.path.join(unfinished, name)))
        return reached, stored

    def test_at_random_instants(self):
        self.crash({"type": "unix_local"}, CRASHES - CRASHES // 2)

    @unittest.skipIf(os.geteuid() != 0, "layers are mounted by root")
    def test_with_workspaces_on_layers(self):
        self.crash({"type": "isolated"}, CRASHES // 2)

    def crash(self, options, crashes):
        chance = random.Random(SEED)
        server = Server()
        self.addCleanup(server.close)
        folder = server.state_dir + "/snapshots/default"
        for crash in range(crashes):
            kept = {}
            pruned = set()
            clients = [
                Client(server, options, crash * CLIENTS + i + 1, kept, pruned)
                for i in range(CLIENTS)
            ]
            for x in clients:
                x.start()
            time.sleep(chance.uniform(0.05, 2.5))  # the instant is what is tested
            server.kill()
            for x in clients:
                x.join(60)
                self.assertFalse(x.is_alive())
                self.assertIsNone(x.wrong)
            pruning = any(x.pruning for x in clients)
            for snapshot, numbers in kept.items():
                if snapshot in pruned:
                    continue
                path = f"{folder}/{snapshot}.tar"
                # One that a prune was removing may be gone, as may one that was being written first.
                if not os.path.exists(path) and (pruning or len(numbers) > 1 or 0 in numbers):
                    continue
                # While it was being written anew it is what it was, or what it was to become.
                self.assertIn(self.number_in(folder, snapshot), numbers)
            server.start()
            if os.path.isdir(folder):
                reached, there = self.blobs(folder)
                self.assertEqual(reached - there, set(), "missing blobs")
                if options["type"] != "isolated":  # they let go after the sweep
                    self.assertEqual(there, reached, "blobs that nothing refers to")
            while items := server.json("GET", "/v1/sessions?limit=100")[1]["items"]:
                for x in items:
                    status, answer = server.json("DELETE", "/v1/sessions/" + x["id"])
                    self.assertEqual(status, 204, answer)
            # Also what was written and not yet acknowledged is known, and goes.
            status, answer = server.json("POST", "/v1/snapshots/prune", {"max_count": 0})
            self.assertEqual(status, 200, answer)
            self.assertEqual(os.listdir(server.state_dir + "/sessions"), [])
            # Blobs that a job held when their last reference went are collected after it.
            for _ in range(100):
                left = [(where, files) for where, _, files in os.walk(folder)
                        if files not in ([], ["oci-layout"])]
                if not left:
                    break
                time.sleep(0.1)
            known = server.json("GET", "/v1/snapshots?limit=100")[1]["items"]
            self.assertEqual((left, known), ([], []), f"after crash {crash}")


if __name__ == "__main__":
    unittest.main()
