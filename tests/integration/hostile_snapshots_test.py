"""Workspaces that were made to be hard to keep: everything that can come back does, everywhere."""

import http.client
import os
import shutil
import subprocess
import tempfile
import threading
import time
import unittest

from troupe_server import TROUPE, Server

MAKE = r"""
import os, socket
os.mkdir("d")
open("d/plain", "w").write("one")
names = [b"\xff\xfe", b"new\nline", b".wh.x", b".wh..wh..opq", b"n" * 255, b"%2Ewh.x", b"-rf", b" ",
         b"a\\b", b"*", b"\x01", b"C:", b"GNUSparseFile.0", b"\xc3\xa9"]
for name in names:
    open(os.path.join(b"d", name), "wb").write(name)
    os.makedirs(os.path.join(b"e", name, b"empty"))
os.makedirs("deep/" + "/".join(["x" * 60] * 40))
os.link("d/plain", "hard")
os.link(b"d/.wh.x", b"d/.wh.y")
for target, name in (("/etc/passwd", "abs"), ("../../../..", "up"), ("loop", "loop"), ("d", "todir"),
                     ("missing", "dangling"), ("t" * 2000, "long"), (b"\xff", "odd")):
    os.symlink(target, name)
with open("sparse", "wb") as file:
    file.truncate(1 << 26)
    file.seek(1 << 25)
    file.write(b"x")
os.setxattr("d/plain", "user.note", b"\0\xff")
os.setxattr("d", "user.note", b"folder")
os.mkfifo("fifo")
socket.socket(socket.AF_UNIX).bind("socket")
open("secret", "w").write("s")
os.chmod("secret", 0)
os.mkdir("locked")
open("locked/in", "w").write("in")
os.chmod("locked", 0)
os.mkdir("sticky")
os.chmod("sticky", 0o1777)
os.utime("d/plain", ns=(5, -7_000_000_000))
os.utime("d", ns=(5, 4_000_000_000_123_456_789))
"""

# Names, kinds, modes, contents, times, attributes, holes and which names are one file.
LIST = r"""
import hashlib, os, stat
first = {}
def show(path):
    st = os.lstat(path)
    kind = stat.S_IFMT(st.st_mode)
    more = []
    if kind == stat.S_IFLNK:
        more.append(os.readlink(path))
    elif kind == stat.S_IFREG:
        more += [st.st_size, st.st_blocks * 512 < st.st_size, first.setdefault(st.st_ino, path)]
        try:
            more.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
        except PermissionError:
            pass
    if kind != stat.S_IFLNK and os.access(path, os.R_OK):
        more += [(x, os.getxattr(path, x)) for x in sorted(os.listxattr(path)) if x[:5] == "user."]
    print(path, oct(st.st_mode), st.st_mtime_ns, *map(repr, more))
for folder, dirs, files in os.walk(b"."):
    dirs.sort()
    for name in sorted(dirs + files):
        show(os.path.join(folder, name))
"""


class HostileSnapshots:
    """On the backend that a subclass names."""

    def setUp(self):
        self.place = tempfile.mkdtemp(prefix="troupe-hostile-test-")
        self.addCleanup(shutil.rmtree, self.place)
        self.snapshots = os.path.join(self.place, "snapshots")

    def server(self):
        server = Server({"default_backend": self.backend})
        self.addCleanup(server.close)
        return server

    def call(self, server, method, session, path, body=None, wanted=200):
        status, answer = server.json(method, f"/v1/sessions/{session['id']}{path}", body)
        self.assertEqual(status, wanted, answer)
        return answer

    def run_in(self, server, session, script):
        done = self.call(server, "POST", session, "/exec", {"command": ["python3", "-c", script]})
        self.assertEqual((done["exit_code"], done["stderr"]), (0, ""))
        return done["stdout"]

    def snapshots_of(self, *words):
        command = [TROUPE, "snapshots", *words, "--store", self.snapshots]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""), words)

    def make(self, server):
        body = {"snapshot": {"type": "local", "base_path": self.snapshots}}
        status, session = server.json("POST", "/v1/sessions", body)
        self.assertEqual(status, 201, session)
        self.run_in(server, session, MAKE)
        kept = [
            line
            for line in self.run_in(server, session, LIST).splitlines(keepends=True)
            if not line.startswith(("b'./fifo'", "b'./socket'"))
        ]
        return session, "".join(kept)

    def test_everything_comes_back_on_another_server(self):
        here, there = self.server(), self.server()
        session, kept = self.make(here)
        stopped = self.call(here, "POST", session, "/stop")
        self.assertEqual(len(stopped["warnings"]), 2, stopped["warnings"])
        status, again = there.json("POST", "/v1/sessions/resume", {"state": stopped["state"]})
        self.assertIn(status, (200, 201), again)
        self.assertEqual(self.run_in(there, again, LIST), kept)
        # And once more, from what only changed.
        self.run_in(there, again, "import os; os.rename('todir', 'renamed'); os.remove('hard')")
        changed = self.run_in(there, again, LIST)
        stopped = self.call(there, "POST", again, "/stop")
        status, back = self.server().json("POST", "/v1/sessions/resume", {"state": stopped["state"]})
        self.assertIn(status, (200, 201), back)

    def test_restore_points_and_forks_have_everything(self):
        server = self.server()
        session, kept = self.make(server)
        point = self.call(server, "POST", session, "/checkpoint", {"name": "p"}, 201)
        self.run_in(server, session, "import shutil; shutil.rmtree('e'); shutil.rmtree('d')")
        self.call(server, "POST", session, "/checkpoint", {"name": "q"}, 201)
        self.call(server, "POST", session, "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(self.run_in(server, session, LIST), kept)
        (fork,) = self.call(server, "POST", session, "/fork", {"count": 1}, 201)["items"]
        self.assertEqual(self.run_in(server, fork, LIST), kept)

    def test_files_of_a_store_are_verified_exported_and_imported(self):
        server = self.server()
        session, kept = self.make(server)
        self.call(server, "POST", session, "/stop")
        self.snapshots_of("verify", session["id"])
        for form, copy in (("tar", "from-tar"), ("oci", "from-oci")):
            path = os.path.join(self.place, form)
            self.snapshots_of("export", session["id"], path, "--format", form)
            self.snapshots_of("import", copy, path)
            self.snapshots_of("verify", copy)
            body = {"snapshot": {"type": "local", "base_path": self.snapshots, "id": copy}}
            status, made = server.json("POST", "/v1/sessions", body)
            self.assertEqual(status, 201, made)
            # A plain tar has no holes.
            whole = kept.replace(" True ", " False ") if form == "tar" else kept
            self.assertEqual(self.run_in(server, made, LIST), whole)


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Isolated(HostileSnapshots, unittest.TestCase):
    backend = "isolated"


class UnixLocal(HostileSnapshots, unittest.TestCase):
    backend = "unix_local"


class LargeHolesTest(unittest.TestCase):
    """Holes cost their tenant no disk; nobody else may pay for them."""

    def start(self):
        server = Server({"shutdown_timeout_s": 1})
        self.addCleanup(server.close)
        status, session = server.json("POST", "/v1/sessions", {"snapshot": {"type": "local"}})
        self.assertEqual(status, 201, session)
        return server, "/v1/sessions/" + session["id"]

    def run_in(self, server, session, command):
        status, result = server.json("POST", session + "/exec", {"command": command})
        self.assertEqual((status, result["exit_code"]), (200, 0), result)

    def stopping(self, server, session):
        """Makes a save that takes long, and gives its answer once that is awaited."""
        self.run_in(server, session, ["truncate", "-s", "60G", "image"])
        answers = []

        def save():
            try:
                answers.append(server.json("POST", session + "/stop"))
            except http.client.RemoteDisconnected:
                answers.append(None)

        stop = threading.Thread(target=save)
        events = server.connect()
        events.request("GET", session + "/events")
        stream = events.getresponse()
        stop.start()
        while b"snapshot_persist" not in (line := stream.readline()):
            self.assertTrue(line, answers)
        events.close()

        def answer():
            stop.join()
            return answers[0]

        return answer

    def test_a_save_with_too_many_of_them_names_the_file(self):
        server, session = self.start()
        self.run_in(server, session, ["truncate", "-s", "10T", "huge"])
        status, answer = server.json("POST", session + "/stop")
        self.assertEqual(status, 500, answer)
        self.assertIn("64 GiB of holes", str(answer))
        self.assertIn("huge", str(answer))
        self.run_in(server, session, ["rm", "huge"])
        self.assertEqual(server.json("POST", session + "/stop")[0], 200)

    def test_a_session_that_is_deleted_meanwhile_is_gone_at_once(self):
        server, session = self.start()
        answer = self.stopping(server, session)
        began = time.monotonic()
        self.assertEqual(server.json("DELETE", session)[0], 204)
        self.assertLess(time.monotonic() - began, 5)
        self.assertGreaterEqual(answer()[0], 400)
        self.assertEqual(server.json("GET", session)[0], 404)

    def test_a_server_that_stops_meanwhile_keeps_its_time_and_the_files(self):
        server, session = self.start()
        answer = self.stopping(server, session)
        began = time.monotonic()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - began, 10)
        answer()
        server.start()
        self.assertEqual(server.json("POST", session + "/start")[0], 200)
        self.run_in(server, session, ["test", "-f", "image"])


if __name__ == "__main__":
    unittest.main()
