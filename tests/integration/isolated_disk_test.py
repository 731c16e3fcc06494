"""Limits of disk space of isolated sessions."""

import glob
import os
import unittest

from troupe_server import Server, ServerTest


def loops_of(text):
    """Loop devices whose file has this text in its path."""
    found = []
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        try:
            with open(path, encoding="utf-8") as f:
                name = f.read()
        except OSError:
            continue
        if text in name:
            found.append(name)
    return found


CONFIG = {"default_backend": "isolated", "isolated": {"disk": "image"}}


@unittest.skipUnless(os.geteuid() == 0 and os.path.exists("/dev/loop-control"), "not root, no loops")
class Disk(ServerTest):
    config = CONFIG

    def limited(self, **more):
        return self.create(limits={"disk_bytes": 32 << 20, "disk_inodes": 500}, **more)

    def test_a_session_ends_at_its_bytes_and_inodes_and_harms_nobody(self):
        session, other = self.limited(), self.limited()
        wall = [x for x in session["walls"] if x["name"] == "disk"][0]
        self.assertTrue(wall["enforced"], wall)
        full = self.exec(session, "head -c 40M /dev/zero > big; echo $?; stat -c %s big")
        self.assertEqual(full["stdout"].split()[0], "1", full)
        self.assertLess(int(full["stdout"].split()[1]), 32 << 20)
        status, _, answer = self.server.raw("PUT", self.file(session, "more"), b"x" * (1 << 20))
        self.assertEqual(status, 507, answer)
        self.assertGreater(self.call("GET", session, "")[1]["usage"]["disk_bytes"], 20 << 20)
        many = self.exec(session, "rm big; (i=0; while : > f$i; do i=$((i+1)); done) 2>/dev/null; "
                         "ls | wc -l")
        self.assertLess(int(many["stdout"]), 520)
        self.assertEqual(self.exec(other, "echo fine > f; cat f")["stdout"], "fine\n")
        self.assertEqual(self.exec(session, "rm f*; echo fine > f; cat f")["stdout"], "fine\n")

    def test_work_comes_back_from_a_snapshot_onto_the_limited_disk(self):
        session = self.limited(snapshot={"type": "local"},
                               manifest={"entries": {"m": {"type": "file", "content": "m"}}})
        self.exec(session, "echo 1 > f")
        point = self.call("POST", session, "/checkpoint", {"name": "p"})[1]
        self.exec(session, "echo 2 > f")
        self.assertEqual(self.call("POST", session, "/rewind", {"snapshot_id": point["id"]})[0], 200)
        self.assertEqual(self.exec(session, "cat f m; head -c 40M /dev/zero > big; echo $?")["stdout"],
                         "1\nm1\n")
        for step in ("/stop", "/shutdown", "/start"):
            self.assertEqual(self.call("POST", session, step)[0], 200)
        self.assertEqual(self.exec(session, "cat f")["stdout"], "1\n")

    def test_nothing_is_left_of_a_deleted_session(self):
        session = self.limited()
        self.assertEqual(len(loops_of(session["id"])), 1)
        with open("/proc/self/mountinfo", encoding="utf-8") as mounts:
            self.assertNotIn(session["id"], mounts.read())  # not even while it runs
        self.assertEqual(self.server.json("DELETE", "/v1/sessions/" + session["id"])[0], 204)
        self.wait_for(lambda: not loops_of(session["id"]), "the loop device stays")
        self.assertNotIn(session["id"], os.listdir(self.server.state_dir + "/sessions"))

    def test_it_outlives_a_killed_server_with_its_processes(self):
        server = Server({"default_backend": "isolated", "isolated": {"disk": "image"}})
        self.addCleanup(server.close)
        status, session = server.json("POST", "/v1/sessions", {"limits": {"disk_bytes": 32 << 20}})
        self.assertEqual(status, 201, session)
        at = "/v1/sessions/" + session["id"]
        run = lambda command: server.json("POST", at + "/exec", {"command": command})
        run("echo kept > f; setsid sh -c 'while :; do date +%N > t; sleep 0.05; done' >/dev/null 2>&1 &")
        server.kill()
        self.assertEqual(len(loops_of(session["id"])), 1)
        server.start()
        self.wait_for(lambda: run("true")[0] == 200, "it does not come back")
        self.assertEqual(len(loops_of(session["id"])), 1)
        seen = run("cat f; a=$(cat t); while [ \"$a\" = \"$(cat t)\" ]; do sleep 0.01; done; echo goes on; "
                   "head -c 40M /dev/zero > big; echo $?")
        self.assertEqual(seen[1]["stdout"], "kept\ngoes on\n1\n", seen)
        self.assertEqual(server.raw("GET", at + "/file?path=f")[2], b"kept\n")
        self.assertEqual(server.json("DELETE", at)[0], 204)
        self.wait_for(lambda: not loops_of(session["id"]), "the loop device stays")

    def test_a_limit_that_cannot_be_held_is_refused(self):
        for limits in ({"disk_inodes": 100}, {"disk_bytes": 4096}):
            status, answer = self.server.json("POST", "/v1/sessions", {"limits": limits})
            self.assertGreaterEqual(status, 400, answer)
            self.assertEqual(answer["error"]["context"]["wall"], "disk", answer)


if __name__ == "__main__":
    unittest.main()
