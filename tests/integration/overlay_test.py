"""Isolated workspaces that lie on layers: resume, restore points, forks, restarts."""

import glob
import os
import subprocess
import time
import unittest

from troupe_server import Server, ServerTest

# Content, kinds, modes, link targets and names of everything in a tree; not times.
LISTING = """
import hashlib, os, stat
links = {}
for folder, dirs, files in sorted(os.walk(".")):
    for name in sorted(dirs + files):
        path = os.path.join(folder, name)
        st = os.lstat(path)
        what = stat.S_IFMT(st.st_mode)
        text = ""
        if what == stat.S_IFREG:
            text = hashlib.sha256(open(path, "rb").read()).hexdigest()
        elif what == stat.S_IFLNK:
            text = os.readlink(path)
        print(path, oct(st.st_mode), st.st_uid, st.st_gid, text)
"""


def overlays():
    with open("/proc/self/mountinfo", encoding="utf-8") as lines:
        return [x for x in lines if " - overlay " in x and "troupe" in x]


def groups_of(session_id):
    return glob.glob(f"/sys/fs/cgroup/**/*{session_id}*", recursive=True)


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Overlay(ServerTest):
    config = {"default_backend": "isolated"}

    def session(self, **body):
        return self.create(snapshot={"type": "local"}, **body)

    def wall(self, session):
        status, view = self.server.json("GET", "/v1/sessions/" + session["id"])
        self.assertEqual(status, 200, view)
        return {x["name"]: x for x in view["walls"]}.get("layers")

    def listing(self, session):
        done = self.exec(session, ["python3", "-c", LISTING])
        self.assertEqual(done["exit_code"], 0, done)
        return done["stdout"]

    def checkpoint(self, session, name="point"):
        status, point = self.call("POST", session, "/checkpoint", {"name": name})
        self.assertEqual(status, 201, point)
        return point

    def rewind(self, session, point):
        status, back = self.call("POST", session, "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(status, 200, back)

    def folder(self, session):
        return os.path.join(self.server.state_dir, "sessions", session["id"])

    def stop_and_start(self, session):
        status, view = self.call("POST", session, "/stop")
        self.assertEqual(status, 200, view)
        status, view = self.call("POST", session, "/shutdown")
        self.assertEqual(status, 200, view)
        status, view = self.call("POST", session, "/start")
        self.assertEqual(status, 200, view)

    def restored(self):
        """A session whose workspace lies on a layer."""
        session = self.session()
        self.exec(session, "mkdir -p d/e q; echo one > a; echo two > d/b; echo three > d/e/c;"
                           "ln -s a l; ln a hard; ln d/b d/hard; chmod 640 d/b; echo x > q/x")
        point = self.checkpoint(session)
        self.assertIsNone(self.wall(session))
        self.rewind(session, point)
        self.assertTrue(self.wall(session)["enforced"], self.wall(session))
        return session, point

    def test_a_workspace_that_was_restored_lies_on_layers_and_is_its_users(self):
        session, _ = self.restored()
        done = self.exec(session, "cat a l hard d/hard d/e/c; stat -c '%U %a' a d d/b")
        self.assertEqual(done["stdout"], "one\none\none\ntwo\nthree\n"
                                         "sandbox 644\nsandbox 755\nsandbox 640\n")
        self.assertTrue(os.path.isdir(os.path.join(self.folder(session), "overlay/upper")))
        self.assertFalse(os.path.exists(os.path.join(self.folder(session), "workspace")))
        self.assertEqual(overlays(), [])

    def test_all_that_can_be_done_to_lower_files_is_in_the_next_restore_point(self):
        session, first = self.restored()
        before = self.listing(session)
        done = self.exec(session, """
            set -e
            rm a; mkdir a; echo inside > a/new         # a file becomes a folder
            rm -r q; echo file > q                     # a folder becomes a file
            rm -r d/e; mkdir d/e; echo again > d/e/z   # made anew: nothing shines through
            mv d moved                                 # copied by mv, as rename is refused
            chmod 4711 moved/b; chmod 700 moved/e
            echo more >> hard; ln l l2; ln hard hard2; touch -d @1 hard
            rm l; ln -s /etc/passwd l
            mkfifo pipe
            """)
        self.assertEqual(done["exit_code"], 0, done)
        after = self.listing(session)
        second = self.checkpoint(session)
        fork = self.call("POST", session, "/fork", {"count": 1})[1]["items"][0]
        self.addCleanup(self.server.json, "DELETE", "/v1/sessions/" + fork["id"])
        kept = "".join(x + "\n" for x in after.splitlines() if not x.startswith("./pipe"))
        kept = kept.replace("0o104711", "0o100711")
        self.assertEqual(self.listing(fork), kept)
        self.rewind(session, second)
        self.assertEqual(self.listing(session), kept)
        self.rewind(session, first)
        self.assertEqual(self.listing(session), before)

    def test_restore_points_of_one_mount_build_on_each_other(self):
        session, _ = self.restored()
        states = []
        for i in range(5):
            self.exec(session, f"echo {i} > n{i}; echo {i} >> a; rm -f n{i - 2}; rm -rf g{i - 1};"
                               f"mkdir g{i}; echo {i} > g{i}/x; chmod 60{i % 8} hard")
            states.append((self.checkpoint(session, str(i)), self.listing(session)))
        status, found = self.call("GET", session, "/diff")
        self.assertEqual((status, found["items"]), (200, []))
        for point, state in reversed(states):
            self.rewind(session, point)
            self.assertEqual(self.listing(session), state)

    def test_stop_and_start_keep_the_tree_and_a_client_may_start_from_the_state(self):
        session, _ = self.restored()
        self.exec(session, "echo changed > a; rm d/b; echo up > fresh")
        state = self.listing(session)
        self.stop_and_start(session)
        self.assertEqual(self.listing(session), state)
        self.exec(session, "echo again > a")
        state = self.listing(session)
        self.stop_and_start(session)
        self.assertEqual(self.listing(session), state)

    def test_forged_marks_neither_hide_nor_show_anything(self):
        session, first = self.restored()
        done = self.exec(session, ["python3", "-c", """
import errno, os
for name in ("user.overlay.opaque", "user.overlay.whiteout", "user.overlay.metacopy",
             "user.overlay.redirect", "user.overlay.origin"):
    for path in ("d", "a", "d/b"):
        for value in (b"y", b"x", b"/etc", b""):
            try:
                os.setxattr(path, name, value)
            except OSError as e:
                print("user", e.errno)
for name in ("trusted.overlay.opaque", "trusted.overlay.redirect", "security.capability"):
    try:
        os.setxattr("d", name, b"y")
        print("set", name)
    except OSError as e:
        pass
try:
    os.mknod("white", 0o020644, os.makedev(0, 0))
    print("made a whiteout")
except OSError as e:
    pass
open(".wh.a", "w").close()
"""])
        self.assertEqual((done["exit_code"], done["stdout"]), (0, ""), done)
        kept = self.listing(session)
        point = self.checkpoint(session)
        self.rewind(session, first)
        self.rewind(session, point)
        self.assertEqual(self.listing(session), kept)
        self.assertEqual(self.exec(session, "cat a d/b d/e/c")["stdout"], "one\ntwo\nthree\n")

    def test_the_file_api_and_uploads_work_on_layers(self):
        session, _ = self.restored()
        put = self.server.raw("PUT", self.file(session, "d/b"), b"by api")
        self.assertLess(put[0], 300, put)
        self.assertEqual(self.server.raw("GET", self.file(session, "hard"))[2], b"one\n")
        self.assertEqual(self.exec(session, "cat d/b; stat -c %U d/b")["stdout"],
                         "by api" + "sandbox\n")
        status, _, tar = self.server.raw("GET", f"/v1/sessions/{session['id']}/workspace")
        self.assertEqual(status, 200)
        other, _ = self.restored()
        self.exec(other, "rm -r d; echo mine > mine")
        status, _, text = self.server.raw("PUT", f"/v1/sessions/{other['id']}/workspace", tar)
        self.assertLess(status, 300, text)
        self.assertEqual(self.exec(other, "cat d/b mine; stat -c %U d d/b")["stdout"],
                         "by api" + "mine\nsandbox\nsandbox\n")

    def test_forks_share_layers_and_part_ways(self):
        session = self.session()
        self.exec(session, "head -c 8000000 /dev/urandom > big; echo shared > a; ln -s a l")
        state = self.listing(session)
        status, forks = self.call("POST", session, "/fork", {"count": 4})
        self.assertEqual(status, 201, forks)
        for fork in forks["items"]:
            self.addCleanup(self.server.json, "DELETE", "/v1/sessions/" + fork["id"])
            self.assertTrue(self.wall(fork)["enforced"], self.wall(fork))
            self.assertEqual(self.listing(fork), state)
            used = subprocess.run(["du", "-sk", self.folder(fork)], capture_output=True,
                                  text=True, check=True)
            self.assertLess(int(used.stdout.split()[0]), 256)
        for i, fork in enumerate(forks["items"]):
            self.exec(fork, f"echo {i} > a")
        for i, fork in enumerate(forks["items"]):
            self.assertEqual(self.exec(fork, "cat l")["stdout"], f"{i}\n")
        self.assertEqual(self.exec(session, "cat a")["stdout"], "shared\n")

    def test_a_fork_is_of_one_instant_and_the_parent_goes_on(self):
        session, _ = self.restored()
        # Two counters in step: b is never ahead of z by more than the one write between.
        self.exec(session, "(i=0; while :; do i=$((i+1)); echo $i > z; echo $i > b; done)"
                           " >/dev/null 2>&1 &")
        for _ in range(5):
            status, forks = self.call("POST", session, "/fork", {"count": 1})
            self.assertEqual(status, 201, forks)
            self.assertFalse([x for x in forks["warnings"] if "could not be stopped" in x])
            fork = forks["items"][0]
            self.addCleanup(self.server.json, "DELETE", "/v1/sessions/" + fork["id"])
            z, b = (self.exec(fork, "cat " + x)["stdout"].strip() for x in "zb")
            if z and b: # an instant may fall between opening a file and writing to it
                self.assertIn(int(z) - int(b), (0, 1))
        before = self.exec(session, "cat z z z")["stdout"]
        self.wait_for(lambda: self.exec(session, "cat z z z")["stdout"] != before, "it runs")

    def test_a_snapshot_that_is_removed_leaves_those_who_lie_on_it(self):
        session, point = self.restored()
        self.exec(session, "echo new > n")
        state = self.listing(session)
        status, _ = self.server.json("DELETE", "/v1/snapshots/" + point["id"])
        self.assertEqual(status, 204)
        status, _ = self.call("POST", session, "/shutdown")
        self.assertEqual(status, 200)
        subprocess.run("rm -rf " + self.server.state_dir + "/cache/layers/*/*.*", shell=True,
                       check=True)
        status, _ = self.call("POST", session, "/start", {"on_conflict": "live_wins"})
        self.assertEqual(status, 200)
        self.assertEqual(self.listing(session), state)

    def test_a_damaged_layer_is_an_error_and_the_old_tree_stays(self):
        session = self.session()
        self.exec(session, "head -c 300000 /dev/urandom > a")
        point = self.checkpoint(session)
        self.exec(session, "echo later > b")
        state = self.listing(session)
        blobs = glob.glob(self.server.state_dir + "/snapshots/*/.layers/blobs/sha256/*")
        blob = max(blobs, key=os.path.getmtime)
        blob = max((x for x in blobs), key=os.path.getsize)
        with open(blob, "r+b") as out:
            good = out.read()
            out.seek(len(good) // 2)
            out.write(bytes(64))
        answer = self.call("POST", session, "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(answer[0] // 100, 5, answer)
        self.assertEqual(answer[1]["error"]["code"], "snapshot_restore_error")
        self.assertEqual(self.listing(session), state)
        with open(blob, "r+b") as out:
            out.write(good)
        self.rewind(session, point)
        self.assertNotIn("./b", self.listing(session))

    def test_a_delete_leaves_nothing(self):
        session, _ = self.restored()
        folder = self.folder(session)
        self.assertTrue(glob.glob(self.server.state_dir + "/snapshots/*/.held-"
                                  + session["id"] + "*"))
        self.assertEqual(self.server.json("DELETE", "/v1/sessions/" + session["id"])[0], 204)
        self.assertFalse(os.path.exists(folder))
        self.assertEqual(groups_of(session["id"]), [])
        self.assertEqual(glob.glob(self.server.state_dir + "/snapshots/*/.held-"
                                   + session["id"] + "*"), [])
        self.assertEqual(overlays(), [])


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Restarts(unittest.TestCase):
    def prepare(self):
        server = Server({"default_backend": "isolated"})
        self.addCleanup(server.close)
        session = server.json("POST", "/v1/sessions", {"snapshot": {"type": "local"}})[1]
        at = "/v1/sessions/" + session["id"]
        self.exec(server, at, "mkdir d; echo low > d/low; echo two > two")
        status, point = server.json("POST", at + "/checkpoint", {"name": "x"})
        self.assertEqual(status, 201, point)
        self.assertEqual(server.json("POST", at + "/rewind", {"snapshot_id": point["id"]})[0], 200)
        self.exec(server, at, "echo up > up; rm two; echo more >> d/low")
        status, _, _ = server.raw("PUT", at + "/file?path=acknowledged", b"yes")
        self.assertLess(status, 300)
        return server, at

    def exec(self, server, at, command):
        deadline = time.monotonic() + 30
        while True:
            status, done = server.json("POST", at + "/exec", {"command": command})
            if status == 200:
                return done["stdout"]
            self.assertLess(time.monotonic(), deadline, done)
            time.sleep(0.02)

    def check(self, server, at):
        self.assertEqual(self.exec(server, at, "cat d/low up acknowledged; ls"),
                         "low\nmore\nup\nyesacknowledged\nd\nup\n")
        status, point = server.json("POST", at + "/checkpoint", {"name": "y"})
        self.assertEqual(status, 201, point)
        self.exec(server, at, "rm -r *")
        self.assertEqual(server.json("POST", at + "/rewind", {"snapshot_id": point["id"]})[0], 200)
        self.assertEqual(self.exec(server, at, "cat d/low up acknowledged"), "low\nmore\nup\nyes")
        self.assertEqual(server.json("DELETE", at)[0], 204)
        self.assertEqual(overlays(), [])

    def test_a_sandbox_on_layers_is_taken_over_by_the_next_server(self):
        server, at = self.prepare()
        self.exec(server, at, "sleep 300 >/dev/null 2>&1 & echo $! > pid")
        pid = self.exec(server, at, "cat pid; rm pid").strip()
        server.kill()
        server.start()
        self.assertEqual(self.exec(server, at, f"kill -0 {pid} && echo lives"), "lives\n")
        self.check(server, at)

    def test_what_was_acknowledged_is_there_when_the_sandbox_died_too(self):
        server, at = self.prepare()
        inits = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True,
                               text=True, check=True).stdout.split()
        server.kill()
        for init in inits:
            os.kill(int(init), 9)
        server.start()
        self.check(server, at)

    def test_layers_are_unpacked_again_after_the_cache_is_lost(self):
        server, at = self.prepare()
        self.assertEqual(server.json("POST", at + "/shutdown")[0], 200)
        server.stop()
        subprocess.run(["rm", "-rf", server.state_dir + "/cache"], check=True)
        server.start()
        self.assertEqual(server.json("POST", at + "/start", {"on_conflict": "live_wins"})[0], 200)
        self.check(server, at)


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Copies(ServerTest):
    config = {"default_backend": "isolated", "isolated": {"waive": ["layers"]}}

    def test_without_layers_the_same_comes_by_copying(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "mkdir d; echo one > d/a")
        status, forks = self.call("POST", session, "/fork", {"count": 2})
        self.assertEqual(status, 201, forks)
        for fork in forks["items"]:
            self.addCleanup(self.server.json, "DELETE", "/v1/sessions/" + fork["id"])
            self.assertEqual(self.exec(fork, "cat d/a; stat -c %U d/a")["stdout"],
                             "one\nsandbox\n")
            walls = self.server.json("GET", "/v1/sessions/" + fork["id"])[1]["walls"]
            wall = {x["name"]: x for x in walls}["layers"]
            self.assertFalse(wall["enforced"])
            self.assertIn("waived", wall["note"])


if __name__ == "__main__":
    unittest.main()
