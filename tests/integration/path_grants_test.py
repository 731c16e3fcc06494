"""Files outside the workspace that the manifest grants: those that the session's commands see."""

import base64
import io
import json
import os
import shutil
import tarfile
import tempfile
import unittest

from troupe_server import ServerTest

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class PathGrants:
    """On the backend that a subclass names; `place`: a folder that its commands can write to."""

    def granted(self, *grants, **manifest):
        return self.create(manifest={
            "extra_path_grants": [{"path": path, "read_only": read_only}
                                  for path, read_only in grants],
            **manifest,
        })

    def read(self, session, path):
        status, _, data = self.server.raw("GET", self.file(session, path))
        return status, data

    def write(self, session, path, data):
        status, _, text = self.server.raw("PUT", self.file(session, path), data)
        return status, json.loads(text) if text else None

    def test_files_of_a_grant_are_those_that_commands_see(self):
        session = self.granted((self.place, False))
        self.exec(session, ["sh", "-c", f"echo inside > {self.place}/made"])
        self.assertEqual(self.read(session, self.place + "/made"), (200, b"inside\n"))
        self.assertEqual(self.write(session, self.place + "/new/put", b"put")[0], 204)
        self.assertEqual(self.exec(session, ["cat", self.place + "/new/put"])["stdout"], "put")
        status, listed = self.call("GET", session, f"/ls?path={self.place}/new")
        self.assertEqual((status, [x["path"] for x in listed["items"]]),
                         (200, [self.place + "/new/put"]))
        self.assertEqual(self.call("POST", session, "/mkdir",
                                   {"path": self.place + "/d", "parents": True})[0], 204)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("member"))
        status, _, text = self.server.raw(
            "POST", f"/v1/sessions/{session['id']}/extract?path={self.place}/d/a.tar",
            archive.getvalue())
        self.assertLess(status, 300, text)
        self.assertEqual(
            self.exec(session, ["ls", self.place + "/d"])["stdout"], "a.tar\nmember\n")
        self.write(session, self.place + "/one.png", PIXEL)
        status, seen = self.call("POST", session, "/tools/view_image",
                                 {"path": self.place + "/one.png"})
        self.assertEqual(status, 200, seen)
        self.assertIn(base64.b64encode(PIXEL).decode(), str(seen))
        status, _, _ = self.server.raw("DELETE", self.file(session, self.place + "/new")
                                       + "&recursive=true")
        self.assertEqual(status, 204)
        self.assertEqual(self.read(session, self.place + "/new/put")[0], 404)

    def test_the_longest_grant_says_whether_it_may_be_written(self):
        session = self.granted((self.place, True), (self.place + "/w", False))
        self.exec(session, ["mkdir", "-p", self.place + "/w"])
        answer = self.write(session, self.place + "/x", b"")
        self.assertError(answer, 422, "workspace_archive_write_error")
        self.assertEqual(answer[1]["error"]["context"]["grant_path"], self.place)
        self.assertEqual(self.write(session, self.place + "/w/x", b"x")[0], 204)
        self.assertEqual(self.read(session, self.place + "/w/x"), (200, b"x"))

    def test_a_grant_leads_nowhere_else(self):
        session = self.granted((self.place, False), (self.place + "/top", False), ("/proc", False),
                               ("/proc/self/root/etc", False), ("/dev", True))
        self.exec(session, ["sh", "-c", f"cd {self.place} && ln -s / top && ln -s /etc etc &&"
                                        "ln -s ../../../../etc/passwd up && ln -s /dev/zero z"])
        for path in ("/etc/passwd", self.place + "/../../etc/passwd"):
            self.assertNotEqual(self.read(session, path)[0], 200)
        for path in ("etc/passwd", "up"):
            status, answer = self.read(session, f"{self.place}/{path}")
            self.assertNotEqual(status, 200)
            self.assertIn(b"invalid_manifest_path", answer)
        self.assertIn(b"filesystem root", self.read(session, self.place + "/top/etc/passwd")[1])
        self.assertIn(b"processes", self.read(session, "/proc/version")[1])
        self.assertNotEqual(self.read(session, "/proc/self/root/etc/passwd")[0], 200)
        for path in ("/dev/zero", "/dev/ptmx", self.place + "/z"):
            self.assertNotEqual(self.read(session, path)[0], 200)

    def test_patches_stay_in_the_workspace(self):
        session = self.granted((self.place, False))
        patch = f"*** Begin Patch\n*** Add File: {self.place}/p\n+p\n*** End Patch\n"
        status, answer = self.call("POST", session, "/apply_patch", {"patch": patch})
        self.assertGreaterEqual(status, 400, answer)
        self.assertEqual(self.read(session, self.place + "/p")[0], 404)

    def test_grants_are_no_part_of_a_snapshot(self):
        session = self.granted((self.place, False))
        self.write(session, self.place + "/x", b"x")
        status, point = self.call("POST", session, "/checkpoint", {})
        self.assertEqual((status, point["size_bytes"]), (201, 0), point)


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Isolated(PathGrants, ServerTest):
    config = {"default_backend": "isolated"}
    place = "/tmp"

    def test_the_host_s_files_are_not_there(self):
        session = self.granted(("/tmp", False), (self.server.folder, False))
        name = os.path.join(self.server.folder, "config.json")
        self.assertTrue(os.path.exists(name))
        self.assertEqual(self.read(session, name)[0], 404)
        self.write(session, "/tmp/troupe-grant-test", b"")
        self.assertFalse(os.path.exists("/tmp/troupe-grant-test"))

    def test_the_kernel_decides_as_the_user(self):
        session = self.granted(("/tmp", False), ("/etc", False), users=[{"name": "alice"}])
        self.exec(session, ["sh", "-c", "umask 077; echo secret > /tmp/mine"])
        path = self.file(session, "/tmp/mine")
        self.assertEqual(self.server.raw("GET", path)[2], b"secret\n")
        self.assertNotEqual(self.server.raw("GET", path + "&user=alice")[0], 200)
        self.assertEqual(self.read(session, "/etc/hostname")[0], 200)
        self.assertGreaterEqual(self.write(session, "/etc/hostname", b"x")[0], 400)

    def test_another_life_of_the_sandbox_is_looked_into(self):
        session = self.granted(("/tmp", False))
        self.write(session, "/tmp/x", b"x")
        self.call("POST", session, "/stop")
        self.call("POST", session, "/shutdown")
        self.assertEqual(self.call("POST", session, "/start")[0], 200)
        self.assertEqual(self.read(session, "/tmp/x")[0], 404)
        self.exec(session, ["sh", "-c", "echo again > /tmp/x"])
        self.assertEqual(self.read(session, "/tmp/x"), (200, b"again\n"))


class UnixLocal(PathGrants, ServerTest):
    def setUp(self):
        self.place = tempfile.mkdtemp(prefix="troupe-grants-test-")
        self.addCleanup(shutil.rmtree, self.place)


if __name__ == "__main__":
    unittest.main()
