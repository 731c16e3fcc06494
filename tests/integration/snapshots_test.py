"""Restore points, differences, forks and retention as a client sees them."""

import gzip
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import unittest

from oci_layout import layer, write_layout
from troupe_server import TROUPE, Server, ServerTest


class Snapshots(ServerTest):
    def checkpoint(self, session, name):
        status, point = self.call("POST", session, "/checkpoint", {"name": name})
        self.assertEqual(status, 201, point)
        self.assertEqual(point["name"], name)
        return point

    def changes(self, session, query=""):
        status, found = self.call("GET", session, "/diff" + query)
        self.assertEqual(status, 200, found)
        return [(x["change"], x["path"]) for x in found["items"]], found

    def test_a_session_goes_back_to_a_restore_point(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "echo one > a; mkdir d; echo x > d/x")
        first = self.checkpoint(session, "first")
        self.exec(session, "echo two > a; rm -r d; echo new > b")
        found, answer = self.changes(session, "?text=true")
        self.assertEqual(found, [("M", "a"), ("A", "b"), ("D", "d"), ("D", "d/x")])
        self.assertEqual(answer["items"][0]["patch"], "@@ -1 +1 @@\n-one\n+two\n")
        second = self.checkpoint(session, "second")
        self.assertEqual(second["parent"], first["id"])
        self.assertEqual(self.changes(session)[0], [])
        between = self.changes(session, f"?from={first['id']}&to={second['id']}")[0]
        self.assertEqual(between, found)
        status, back = self.call("POST", session, "/rewind", {"snapshot_id": first["id"]})
        self.assertEqual((status, back["status"]), (200, "running"))
        self.assertEqual(self.exec(session, "cat a d/x; ls")["stdout"], "one\nx\na\nd\n")
        status, _ = self.call("POST", session, "/rewind", {"snapshot_id": second["id"]})
        self.assertEqual(status, 200)
        self.assertEqual(self.exec(session, "cat a b; ls")["stdout"], "two\nnew\na\nb\n")
        self.assertEqual(self.call("POST", session, "/stop")[1]["status"], "stopped")
        self.server.json("DELETE", "/v1/sessions/" + session["id"])
        for point in (first, second):
            self.assertEqual(self.server.json("GET", "/v1/snapshots/" + point["id"])[0], 404)

    def test_a_resume_that_fails_leaves_the_session_and_its_files(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "echo saved > a")
        self.assertEqual(self.call("POST", session, "/stop")[0], 200)
        self.exec(session, "echo later > a")
        _, shown = self.call("POST", session, "/shutdown")
        state = shown["state"]
        with open(os.path.join(state["snapshot"]["base_path"], session["id"] + ".tar"), "w") as x:
            x.write("no snapshot")
        failed = self.server.json("POST", "/v1/sessions/resume", {"state": state})
        self.assertError(failed, 500, "snapshot_restore_error")
        with open(os.path.join(state["manifest"]["root"], "a")) as x:
            self.assertEqual(x.read(), "later\n")
        self.assertEqual(self.call("GET", session, "")[1]["status"], "failed")
        started = self.call("POST", session, "/start", {"on_conflict": "live_wins"})
        self.assertEqual(started[1]["status"], "running")
        self.assertEqual(self.exec(session, "cat a")["stdout"], "later\n")

    def test_names_that_layers_use_come_back(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "mkdir .wh.d; echo 1 > .wh.d/.wh.f; ln .wh.d/.wh.f .wh.h; echo 2 > k")
        self.assertEqual(self.call("POST", session, "/stop")[1].get("warnings", []), [])
        self.exec(session, "rm .wh.h; rm k; mkdir new")
        point = self.checkpoint(session, "changed")
        self.exec(session, "rm -r .wh.d")
        status, _ = self.call("POST", session, "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(status, 200)
        self.assertEqual(self.exec(session, "ls -A; cat .wh.d/.wh.f")["stdout"], ".wh.d\nnew\n1\n")

    def test_forks_are_running_copies_that_part_ways(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "echo shared > a; ln -s a l; sleep 300 >/dev/null 2>&1 &")
        status, forks = self.call("POST", session, "/fork", {"count": 3, "labels": {"x": "y"}})
        self.assertEqual(status, 201, forks)
        self.assertEqual(len(forks["items"]), 3)
        self.assertIn("processes do not come along", forks["warnings"])
        for i, fork in enumerate(forks["items"]):
            self.assertEqual((fork["status"], fork["labels"]), ("running", {"x": "y"}))
            self.assertEqual(self.exec(fork, f"cat l; echo {i} > a")["stdout"], "shared\n")
        for i, fork in enumerate(forks["items"]):
            self.assertEqual(self.exec(fork, "cat a")["stdout"], f"{i}\n")
            self.assertEqual(self.call("POST", fork, "/stop")[1]["status"], "stopped")
            self.assertEqual(self.server.json("DELETE", "/v1/sessions/" + fork["id"])[0], 204)
        self.assertEqual(self.exec(session, "cat a")["stdout"], "shared\n")

    def test_the_command_line_prunes_a_servers_folder_only_knowingly(self):
        server = Server()
        self.addCleanup(server.close)
        session = server.json("POST", "/v1/sessions", {"snapshot": {"type": "local"}})[1]["id"]
        points = []
        for i in range(3):
            server.json("POST", f"/v1/sessions/{session}/exec", {"command": f"echo {i} > a"})
            answer = server.json("POST", f"/v1/sessions/{session}/checkpoint", {"name": "p"})
            points.append(answer[1]["id"])
        prune = [TROUPE, "snapshots", "prune", "--store", server.state_dir + "/snapshots/default",
                 "--max-count", "0"]
        refused = subprocess.run(prune, capture_output=True, text=True, check=False)
        self.assertEqual((refused.returncode, refused.stdout), (1, ""))
        self.assertIn("ask the server to prune, or --force", refused.stderr)
        self.assertEqual(len(server.json("GET", "/v1/snapshots")[1]["items"]), 3)
        server.kill()
        done = subprocess.run(prune, capture_output=True, text=True, check=True)
        self.assertEqual(set(done.stdout.split()), set(points[:2]))
        server.start()
        left = server.json("GET", "/v1/snapshots")[1]["items"]
        self.assertEqual([x["id"] for x in left], points[2:])
        status, answer = server.json("POST", f"/v1/sessions/{session}/rewind",
                                     {"snapshot_id": points[2]})
        self.assertEqual(status, 200, answer)
        server.kill()
        done = subprocess.run([*prune, "--force"], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout.split(), points[2:])
        server.start()

    def test_what_is_beyond_a_tenant_s_bounds_goes_by_itself(self):
        server = Server({
            "api_keys": [{"key": "ka", "tenant": "a"}, {"key": "kb", "tenant": "b"}],
            "retention": {"max_count": 1, "interval_s": 0.2, "tenants": {"b": {"max_count": 9}}},
        })
        self.addCleanup(server.close)

        def ask(key, method, path, body=None):
            headers = {"Authorization": "Bearer " + key}
            status, answer = server.json(method, "/v1/" + path, body, headers)
            self.assertLess(status, 300, answer)
            return answer

        def points(key, session):
            for i in range(3):
                ask(key, "POST", f"sessions/{session}/exec", {"command": f"echo {i} >> a"})
                last = ask(key, "POST", f"sessions/{session}/checkpoint", {"name": "p"})
            return last["id"]

        def stored(key):
            return [x["id"] for x in ask(key, "GET", "snapshots")["items"]]

        one, other = (ask(k, "POST", "sessions", {"snapshot": {"type": "local"}})["id"]
                      for k in ("ka", "kb"))
        points("kb", other)
        for _ in range(2):
            last = points("ka", one)
            deadline = time.monotonic() + 30
            while stored("ka") != [last]:
                self.assertLess(time.monotonic(), deadline, stored("ka"))
        self.assertEqual(len(stored("kb")), 3)
        ask("ka", "POST", f"sessions/{one}/rewind", {"snapshot_id": last})

    def test_the_command_line_imports_an_image_of_another_tool(self):
        folder = tempfile.mkdtemp(prefix="troupe-import-test-")
        self.addCleanup(shutil.rmtree, folder)
        layout, store = folder + "/image", folder + "/store"
        layers = write_layout(
            layout,
            gzip.compress(layer([("a", "file", b"old"), ("b", "file", b"b"), ("d", "dir", None)])),
            layer([("a", "file", b"new"), (".wh.b", "file", b""), ("l", "link", "../out")]),
        )

        def snapshots(*words):
            command = [TROUPE, "snapshots", *words]
            return subprocess.run(command, capture_output=True, text=True, check=False)

        taken = snapshots("import", "--store", store, "mine", layout)
        self.assertEqual(taken.returncode, 0, taken.stderr)
        self.assertEqual(snapshots("export", "--store", store, "mine", folder + "/tar").stderr, "")
        with tarfile.open(folder + "/tar") as tar:
            names = [x for x in tar.getnames() if x != "."]
            self.assertEqual(sorted(x.removeprefix("./") for x in names), ["a", "d", "l"])
            (name,) = [x for x in names if x.endswith("a")]
            self.assertEqual(tar.extractfile(name).read(), b"new")
        again = snapshots("export", "--store", store, "--format", "oci", "mine", folder + "/own")
        self.assertEqual(again.stderr, "")
        self.assertEqual(snapshots("import", "--store", store, "copy", folder + "/own").stderr, "")
        (blob,) = [x["digest"].split(":")[1] for x in layers[1:]]
        with open(f"{layout}/blobs/sha256/{blob}", "r+b") as file:
            file.write(b"x")
        refused = snapshots("import", "--store", store, "third", layout)
        self.assertEqual(refused.returncode, 1)
        self.assertIn(blob, refused.stderr)
        listed = snapshots("list", "--store", store).stdout.split("\n")
        self.assertEqual(sorted(x.split()[0] for x in listed if x), ["copy", "mine"])

    def test_what_another_client_prunes_meanwhile_is_not_found(self):
        session = self.create(snapshot={"type": "local"})
        over = threading.Event()
        failed = []

        def prune():
            while not over.is_set():
                status, answer = self.server.json("POST", "/v1/snapshots/prune", {"max_count": 0})
                if status != 200:
                    failed.append(answer)

        other = threading.Thread(target=prune)
        other.start()
        try:
            for i in range(40):
                self.exec(session, f"echo {i} > a")
                old = self.checkpoint(session, "old")["id"]
                self.checkpoint(session, "needed")
                status, forks = self.call("POST", session, "/fork", {"count": 2})
                self.assertEqual(status, 201, forks)
                for fork in forks["items"]:
                    self.assertEqual(self.exec(fork, "cat a")["stdout"], f"{i}\n")
                    self.server.json("DELETE", "/v1/sessions/" + fork["id"])
                status, answer = self.call("GET", session, "/diff?from=" + old)
                self.assertIn(status, (200, 404), answer)
                status, answer = self.call("POST", session, "/rewind", {"snapshot_id": old})
                self.assertIn(status, (200, 404), answer)
        finally:
            over.set()
            other.join()
        self.assertEqual(failed, [])

    def test_a_session_without_snapshots_has_restore_points_and_forks(self):
        session = self.create()
        self.exec(session, "echo 1 > a")
        point = self.checkpoint(session, "p")
        self.exec(session, "echo 2 > a")
        self.call("POST", session, "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(self.exec(session, "cat a")["stdout"], "1\n")
        status, forks = self.call("POST", session, "/fork")
        self.assertEqual(status, 201, forks)
        self.assertEqual(self.exec(forks["items"][0], "cat a")["stdout"], "1\n")

    def test_a_chain_that_was_made_one_layer_is_listed_as_one(self):
        session = self.create(snapshot={"type": "local"})
        for i in range(16):
            self.exec(session, f"echo {i} > f{i}")
            point = self.checkpoint(session, f"p{i}")
        self.assertEqual(point["layers"], 16)

        def listed():
            return self.server.json("GET", "/v1/snapshots/" + point["id"])[1]

        self.wait_for(lambda: listed()["layers"] == 1, "the chain stays, or is listed so")
        self.assertLess(listed()["stored_bytes"], point["stored_bytes"])
        _, found = self.call("GET", session, "/diff?from=" + point["id"])
        self.assertEqual(found["items"], [])

    def test_what_is_not_there_is_said(self):
        session = self.create()
        unknown = "00000000-0000-4000-8000-000000000000"
        self.assertError(
            self.call("POST", session, "/rewind", {"snapshot_id": unknown}), 404, "not_found"
        )
        self.assertError(self.call("GET", session, "/diff"), 409, "snapshot_not_restorable")
        self.assertError(self.call("POST", session, "/fork", {"count": 0}), 400, "invalid_request")
        self.assertError(self.call("POST", session, "/rewind", {}), 400, "invalid_request")

    def test_snapshots_are_verified_compared_and_pruned(self):
        session = self.create(snapshot={"type": "local"})
        points = []
        for i in range(3):
            self.exec(session, f"echo {i} > f{i}")
            points.append(self.checkpoint(session, f"p{i}")["id"])
        path = "/v1/snapshots/" + points[0]
        self.assertEqual(self.server.json("POST", path + "/verify")[1]["sound"], True)
        _, found = self.server.json("GET", f"{path}/diff?to={points[2]}")
        self.assertEqual([x["path"] for x in found["items"]], ["f1", "f2"])
        bounds = {"max_count": 1, "dry_run": True}
        _, live = self.server.json("POST", "/v1/snapshots/prune", bounds)
        # What the session needs to go on stays; older restore points go, the oldest first.
        self.assertEqual(live["removed"][:2], points[:2])
        self.assertNotIn(points[2], live["removed"])
        self.server.json("DELETE", f"/v1/sessions/{session['id']}?keep_snapshot=true")
        _, would = self.server.json("POST", "/v1/snapshots/prune", bounds)
        self.assertIn(points[0], would["removed"])
        _, pruned = self.server.json("POST", "/v1/snapshots/prune", {"max_count": 0})
        self.assertTrue(set(points) <= set(pruned["removed"]))
        self.assertEqual(self.server.json("GET", path)[0], 404)


if __name__ == "__main__":
    unittest.main()
