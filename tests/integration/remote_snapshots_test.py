"""Snapshots in object storage: a session saved by one server goes on at another, also when the
store fails now and then; what is damaged there is named."""

import collections
import glob
import itertools
import json
import os
import unittest

from s3_proxy import BUCKET, Objects, Proxy
from troupe_server import Server, ServerTest

SECRET = "S3RVER"  # what s3rver knows
os.environ["TEST_S3_ACCESS"] = "S3RVER"
os.environ["TEST_S3_SECRET"] = SECRET
os.environ["TEST_S3_WRONG"] = "not-the-secret"


def store(port, **more):
    return {
        "endpoint": f"http://127.0.0.1:{port}",
        "bucket": BUCKET,
        "prefix": "some/where",
        "access_key_env": "TEST_S3_ACCESS",
        "secret_key_env": "TEST_S3_SECRET",
        "part_bytes": 5 * 1024 * 1024,
        "attempts": 5,
        **more,
    }


class RemoteSnapshots(ServerTest):
    @classmethod
    def setUpClass(cls):
        cls.s3 = Objects()
        cls.proxy = Proxy(cls.s3.port)
        cls.config = {
            "snapshot_stores": {
                "objects": store(cls.proxy.port),
                "stranger": store(cls.proxy.port, secret_key_env="TEST_S3_WRONG"),
                "quick": store(cls.s3.port, prefix="quick", deadline_s=0.5, grace_s=2),
            },
            "retention": {"interval_s": 0.5},
            "api_keys": [{"key": "k1", "tenant": "one"}, {"key": "k2", "tenant": "two"}],
        }
        cls.server = Server(cls.config)
        cls.other = Server(cls.config)
        cls.small = Server({**cls.config, "remote_cache_bytes": 1_000_000})

    @classmethod
    def tearDownClass(cls):
        cls.server.close()
        cls.other.close()
        cls.small.close()
        cls.proxy.close()
        cls.s3.close()

    def setUp(self):
        self.proxy.spoil = lambda method, path: None
        self.proxy.seen.clear()

    def ask(self, server, method, path, body=None, key="k1"):
        return server.json(method, path, body, {"Authorization": "Bearer " + key})

    def made(self, name="objects", command=None):
        status, session = self.ask(self.server, "POST", "/v1/sessions", {
            "snapshot": {"type": "remote", "client_dependency_key": name}})
        self.assertEqual(status, 201, session)
        self.addCleanup(self.ask, self.server, "DELETE", "/v1/sessions/" + session["id"])
        if command:
            self.run_in(self.server, session, command)
        return session

    def run_in(self, server, session, command):
        status, done = self.ask(server, "POST", f"/v1/sessions/{session['id']}/exec",
                                {"command": command, "timeout_s": 60})
        self.assertEqual((status, done["exit_code"]), (200, 0), done)
        return done["stdout"]

    def stop(self, session):
        return self.ask(self.server, "POST", f"/v1/sessions/{session['id']}/stop")

    def stopped(self, session):
        status, view = self.stop(session)
        self.assertEqual((status, view["status"]), (200, "stopped"), view)
        return view["state"]

    def resume(self, state, key="k1"):
        status, session = self.ask(self.other, "POST", "/v1/sessions/resume", {"state": state}, key)
        self.addCleanup(self.ask, self.other, "DELETE",
                        f"/v1/sessions/{state['session_id']}?keep_snapshot=true", None, key)
        return status, session

    def layers(self, part="some/where/one/blobs"):
        found = self.s3.objects(part)
        return sorted(found, key=lambda key: os.path.getsize(found[key]))

    def test_a_session_goes_on_at_another_server(self):
        session = self.made(command="mkdir d; echo one > d/a; ln -s a d/l; seq 200000 > big")
        state = self.stopped(session)
        self.assertEqual(state["snapshot"], {"type": "remote", "id": session["id"],
                                             "client_dependency_key": "objects"})
        status, again = self.resume(state)
        self.assertEqual(status, 201, again)
        self.assertEqual(self.run_in(self.other, again, "cat d/l; seq 200000 | cmp - big; ls"),
                         "one\nbig\nd\n")
        # What it adds there comes back here.
        self.run_in(self.other, again, "echo two > d/b")
        status, view = self.ask(self.other, "POST", f"/v1/sessions/{again['id']}/stop")
        self.assertEqual(status, 200, view)
        self.ask(self.server, "DELETE", f"/v1/sessions/{session['id']}?keep_snapshot=true")
        status, back = self.ask(self.server, "POST", "/v1/sessions/resume",
                                {"state": view["state"]})
        self.assertEqual(status, 201, back)
        self.assertEqual(self.run_in(self.server, back, "cat d/a d/b"), "one\ntwo\n")

    def test_what_is_there_is_not_sent_again(self):
        session = self.made(command="head -c 300000 /dev/urandom > a")
        self.stopped(session)
        self.proxy.seen.clear()
        self.ask(self.server, "POST", f"/v1/sessions/{session['id']}/start")
        self.stopped(session)
        self.assertEqual(self.proxy.count("PUT", ""), 0)  # nothing changed
        self.ask(self.server, "POST", f"/v1/sessions/{session['id']}/start")
        self.run_in(self.server, session, "echo more > b")
        self.proxy.seen.clear()
        self.stopped(session)
        # A layer, its configuration, a manifest, the reference.
        self.assertEqual(self.proxy.count("PUT", ""), 4)
        self.assertIn("/refs/", [path for method, path in self.proxy.seen if method == "PUT"][-1])

    def test_large_blobs_go_in_parts(self):
        session = self.made(command="head -c 12000000 /dev/urandom > a; sha256sum a > sum")
        state = self.stopped(session)
        self.assertEqual(self.proxy.count("PUT", "partNumber="), 3)
        status, again = self.resume(state)
        self.assertEqual(status, 201, again)
        self.assertEqual(self.run_in(self.other, again, "sha256sum -c sum"), "a: OK\n")

    def test_a_store_that_fails_now_and_then_is_asked_again(self):
        # By request: several are under way at once, and none may meet more than it is tried again.
        kinds = itertools.cycle([[503, "close"], [500, 429], ["close", 503, 429]])
        faults = collections.defaultdict(lambda: iter(next(kinds)))
        session = self.made(command="head -c 6000000 /dev/urandom > a; echo x > b")
        self.proxy.spoil = lambda method, path: next(faults[method, path], None)
        state = self.stopped(session)
        spoiled = iter(["cut", "slow", 503, "cut", "slow", "close"])
        self.proxy.spoil = (
            lambda method, path: next(spoiled, None) if method == "GET" else None)
        status, again = self.resume(state)
        self.assertEqual(status, 201, again)
        self.assertEqual(self.run_in(self.other, again, "stat -c %s a; cat b"), "6000000\nx\n")

    def test_a_failed_save_is_an_error_and_the_next_one_goes_on_where_it_ended(self):
        session = self.made(command="echo old > a")
        state = self.stopped(session)
        self.ask(self.server, "POST", f"/v1/sessions/{session['id']}/start")
        self.run_in(self.server, session, "echo new > a; head -c 100000 /dev/urandom > b")
        self.proxy.spoil = (
            lambda method, path: 503 if method == "PUT" and "/refs/" in path else None)
        self.proxy.seen.clear()
        status, answer = self.stop(session)
        self.assertEqual(status, 500, answer)
        text = json.dumps(answer)
        self.assertIn("<remote:objects>", text)
        self.assertNotIn(SECRET + '"', text)
        sent = self.proxy.count("PUT", "/blobs/")
        self.assertGreater(sent, 0)
        # The store still has the old one.
        _, before = self.resume(state)
        self.assertEqual(self.run_in(self.other, before, "cat a"), "old\n")
        self.proxy.spoil = lambda method, path: None
        self.proxy.seen.clear()
        self.stopped(session)
        self.assertEqual(self.proxy.count("PUT", "/blobs/"), 0)
        self.assertEqual(self.proxy.count("PUT", "/refs/"), 1)

    def test_damaged_cut_and_missing_blobs_are_named(self):
        for harm in ("damage", "cut", "remove"):
            with self.subTest(harm):
                before = set(self.layers())
                session = self.made(command="head -c 400000 /dev/urandom > a")
                state = self.stopped(session)
                key = max(set(self.layers()) - before,
                          key=lambda k: os.path.getsize(self.s3.objects()[k]))
                path = self.s3.objects()[key]
                if harm == "remove":
                    os.remove(path)
                else:
                    with open(path, "r+b") as out:
                        out.seek(1000)
                        out.write(b"damage")
                        if harm == "cut":
                            out.truncate(200000)
                status, answer = self.resume(state)
                self.assertEqual(status, 500, answer)
                text = json.dumps(answer)
                self.assertIn("snapshot_restore_error", text)
                self.assertIn("sha256:" + key.rsplit("/", 1)[1], text)

    def test_requests_are_signed_with_the_secret(self):
        status, answer = self.ask(self.server, "POST", "/v1/sessions", {
            "snapshot": {"type": "remote", "client_dependency_key": "stranger"}})
        self.assertEqual((status, answer["error"]["context"]["status"]), (500, 403), answer)
        self.assertNotIn(os.environ["TEST_S3_WRONG"], json.dumps(answer))

    def test_a_store_that_the_operator_did_not_name_is_refused(self):
        answer = self.ask(self.server, "POST", "/v1/sessions", {
            "snapshot": {"type": "remote", "client_dependency_key": "elsewhere"}})
        self.assertError(answer, 400, "sandbox_config_invalid")

    def test_a_tenant_does_not_reach_the_snapshots_of_another(self):
        session = self.made(command="echo secret > a")
        state = self.stopped(session)
        status, theirs = self.resume(state, key="k2")
        self.assertEqual(status, 201, theirs)
        status, done = self.ask(self.other, "POST", f"/v1/sessions/{theirs['id']}/exec",
                                {"command": "ls"}, key="k2")
        self.assertEqual((status, done["stdout"]), (200, ""), done)

    def test_restore_points_and_forks_are_in_the_store_too(self):
        session = self.made(command="echo one > a")
        path = f"/v1/sessions/{session['id']}"
        status, point = self.ask(self.server, "POST", path + "/checkpoint", {"name": "p"})
        self.assertEqual(status, 201, point)
        self.assertTrue(self.s3.objects("one/refs/" + point["id"]))
        self.run_in(self.server, session, "echo two > a")
        status, forks = self.ask(self.server, "POST", path + "/fork", {"count": 2})
        self.assertEqual(status, 201, forks)
        for fork in forks["items"]:
            self.assertTrue(self.s3.objects("one/refs/" + fork["id"]))
            self.assertEqual(self.run_in(self.server, fork, "cat a"), "two\n")
            self.ask(self.server, "DELETE", "/v1/sessions/" + fork["id"])
            self.assertFalse(self.s3.objects("one/refs/" + fork["id"]))
        status, back = self.ask(self.server, "POST", path + "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(status, 200, back)
        self.assertEqual(self.run_in(self.server, session, "cat a"), "one\n")

    def test_what_nothing_refers_to_goes_after_its_grace(self):
        kept = self.made("quick", "echo kept > a")
        state = self.stopped(kept)
        gone = self.made("quick", "head -c 100000 /dev/urandom > a")
        self.stopped(gone)
        before = len(self.s3.objects("quick/one/blobs"))
        self.ask(self.server, "DELETE", "/v1/sessions/" + gone["id"])
        self.wait_for(lambda: len(self.s3.objects("quick/one/blobs")) == before - 3,
                      "the blobs of a snapshot that was deleted stay")
        status, again = self.resume(state)
        self.assertEqual(status, 201, again)
        self.assertEqual(self.run_in(self.other, again, "cat a"), "kept\n")

    def test_copies_of_what_the_store_has_are_bounded(self):
        def size_of(blob):
            try:
                return os.path.getsize(blob)
            except FileNotFoundError:  # it went since it was listed
                return 0

        def copies():
            blobs = glob.glob(self.small.state_dir + "/cache/remote/*/*/.layers/blobs/sha256/*")
            return sum(size_of(x) for x in blobs)

        def stop(path):
            status, view = self.ask(self.small, "POST", path + "/stop")
            self.assertEqual((status, view["status"]), (200, "stopped"), view)
            return view["state"]

        sessions = []
        for i in range(5):
            status, session = self.ask(self.small, "POST", "/v1/sessions", {
                "snapshot": {"type": "remote", "client_dependency_key": "objects"}})
            self.assertEqual(status, 201, session)
            path = "/v1/sessions/" + session["id"]
            self.addCleanup(self.ask, self.small, "DELETE", path)
            self.run_in(self.small, session, f"head -c 400000 /dev/urandom > a; echo {i} > b")
            status, point = self.ask(self.small, "POST", path + "/checkpoint", {"name": "p"})
            self.assertEqual(status, 201, point)
            self.run_in(self.small, session, "echo more >> b")
            sessions.append((session, path, point["id"], stop(path)))
        self.wait_for(lambda: copies() <= 1_000_000, "copies of remote snapshots stay")
        # None is missed: what changed is still told, and all that a save writes.
        for i, (session, path, point, _) in enumerate(sessions):
            self.ask(self.small, "POST", path + "/start")
            status, found = self.ask(self.small, "GET", path + "/diff?from=" + point)
            self.assertEqual((status, [x["path"] for x in found["items"]]), (200, ["b"]), found)
            self.run_in(self.small, session, "echo and more >> b")
            state = stop(path)
            status, info = self.ask(self.small, "GET", "/v1/snapshots/" + session["id"])
            self.assertEqual((status, info["layers"]), (200, 3), info)
            status, again = self.resume(state)
            self.assertEqual(status, 201, again)
            self.assertEqual(self.run_in(self.other, again, "cat b; stat -c %s a"),
                             f"{i}\nmore\nand more\n400000\n")
            self.wait_for(lambda: copies() <= 1_000_000, "copies of remote snapshots stay")


if __name__ == "__main__":
    unittest.main()
