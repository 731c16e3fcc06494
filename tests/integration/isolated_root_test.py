"""Isolated sessions on a root file system of the operator's: a directory, an image layout."""

import gzip
import json
import os
import shutil
import subprocess
import tempfile
import unittest

from oci_layout import layer, write_layout
from troupe_server import TROUPE, Server


def programs():
    """What `sh` and `cat` need, by path."""
    found = {}
    for name in ("sh", "cat", "id"):
        path = shutil.which(name)
        found["/bin/" + name] = path
        libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
        for word in libraries.split():
            if word.startswith("/"):
                found[word] = word
    return found


def base_members():
    members = [("etc", "dir", None), ("opt", "dir", None)]
    for inside, outside in programs().items():
        with open(outside, "rb") as file:
            members.append((inside[1:], "file", file.read()))
    return members


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Root(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="troupe-root-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def image(self, *layers):
        path = self.folder + "/image"
        return path, write_layout(path, *layers)

    def server(self, root):
        server = Server({"default_backend": "isolated", "isolated": {"root": root}})
        self.addCleanup(server.close)
        return server

    def run_in(self, server, command):
        status, session = server.json("POST", "/v1/sessions", {})
        self.assertEqual(status, 201, session)
        status, answer = server.json("POST", f"/v1/sessions/{session['id']}/exec",
                                     {"command": command})
        self.assertEqual(status, 200, answer)
        return answer["stdout"]

    def refused(self, root):
        """What a server says that does not start on this root."""
        config = self.folder + "/config.json"
        with open(config, "w", encoding="utf-8") as out:
            json.dump({"isolated": {"root": root}}, out)
        done = subprocess.run([TROUPE, "serve", "--listen", "127.0.0.1:0", "--config", config,
                               "--state-dir", self.folder + "/state"],
                              capture_output=True, text=True, timeout=60, check=False)
        self.assertNotEqual(done.returncode, 0)
        left = self.folder + "/state/cache/images"
        self.assertEqual(os.listdir(left) if os.path.exists(left) else [], [])
        return done.stderr

    def test_an_image_s_layers_are_put_over_each_other(self):
        path, _ = self.image(
            gzip.compress(layer(base_members() + [
                ("opt/a", "file", b"a"), ("opt/b", "file", b"b"), ("opt/d/x", "file", b"x"),
                ("opt/null", "device", None), ("evil", "link", self.folder)])),
            layer([("opt/.wh.a", "file", b""), ("opt/b", "file", b"new"),
                   ("opt/d/.wh..wh..opq", "file", b""), ("opt/d/y", "file", b"y"),
                   ("evil/planted", "file", b"p")]))
        server = self.server(path)
        self.assertEqual(self.run_in(server, "cd /opt; echo * d/*; cat b /evil/planted"),
                         "b d d/y\nnewp")
        self.assertNotIn("planted", os.listdir(self.folder))
        self.assertEqual(self.run_in(server, "echo x 2>/dev/null > /opt/c || echo no"), "no\n")
        (image,) = os.listdir(os.path.join(server.state_dir, "cache/images"))
        kept = os.path.join(server.state_dir, "cache/images", image)
        self.assertEqual(os.stat(kept + "/bin/sh").st_mode & 0o7777, 0o755)
        before = os.stat(kept).st_ctime_ns
        server.stop()
        server.start()
        self.assertEqual(self.run_in(server, "cat /opt/b"), "new")
        self.assertEqual(os.stat(kept).st_ctime_ns, before, "it was unpacked again")

    def test_a_damaged_image_is_refused(self):
        path, (one,) = self.image(gzip.compress(layer(base_members())))
        name = path + "/blobs/sha256/" + one["digest"].split(":")[1]
        with open(name, "r+b") as blob:
            blob.seek(-200, os.SEEK_END)
            byte = blob.read(1)
            blob.seek(-200, os.SEEK_END)
            blob.write(bytes([byte[0] ^ 1]))
        self.assertIn("does not match its digest", self.refused(path))
        os.truncate(name, 1000)
        self.assertIn("does not match its digest", self.refused(path))
        os.unlink(name)
        self.assertIn("there is no file", self.refused(path))

    def test_an_image_whose_layer_holds_something_else_than_it_says_is_refused(self):
        one = layer(base_members())
        for ids in (["sha256:" + "0" * 64], ["sha256:" + "0" * 64] * 2, ["x"], "x"):
            path = self.folder + "/image"
            (made,) = write_layout(path, gzip.compress(one), diff_ids=ids)
            said = self.refused(path)
            self.assertIn("diff_id", said)
            if len(ids) == 1 and ids[0] != "x":
                self.assertIn(made["digest"].split(":")[1], said)

    def test_an_image_that_reaches_out_is_refused(self):
        for name in ("../x", "/../x"):
            path, _ = self.image(layer([(name, "file", b"x")]))
            self.refused(path)
            self.assertFalse(os.path.exists(self.folder + "/state/cache/x"))
        for text in ("", "[]", '{"manifests": [{"digest": "sha256:../../etc/passwd", "size": 1}]}'):
            with open(path + "/index.json", "w", encoding="utf-8") as out:
                out.write(text)
            self.assertIn("cannot be a root", self.refused(path))

    def test_places_of_workspaces_do_not_run_out(self):
        server = self.server("host")
        for number in range(260):
            root = f"/w{number}"
            status, session = server.json("POST", "/v1/sessions", {"manifest": {"root": root}})
            self.assertEqual(status, 201, session)
            if number > 255:
                path = "/v1/sessions/" + session["id"]
                for step in ("/start", "/shutdown", "/start"):
                    self.assertEqual(server.json("POST", path + step)[0], 200)
                status, answer = server.json("POST", path + "/exec", {"command": "pwd"})
                self.assertEqual((status, answer["stdout"]), (200, root + "\n"))
            self.assertEqual(server.json("DELETE", "/v1/sessions/" + session["id"])[0], 204)

    def test_a_directory_is_seen_whole_and_read_only(self):
        root = self.folder + "/root"
        for inside, outside in programs().items():
            os.makedirs(os.path.dirname(root + inside), exist_ok=True)
            shutil.copy(outside, root + inside)
        os.makedirs(root + "/etc")
        os.makedirs(root + "/data")
        os.makedirs(root + "/dev/not")
        with open(root + "/data/f", "w", encoding="utf-8") as out:
            out.write("of the root")
        os.symlink("data/f", root + "/link")
        os.symlink(self.folder, root + "/out")
        server = self.server(root)
        self.assertEqual(self.run_in(server, "cat /data/f /link; echo > /data/g || echo no"),
                         "of the rootof the rootno\n")
        self.assertEqual(self.run_in(server, "cat /out/root/data/f 2>/dev/null || echo no; "
                                     "cd /dev; echo n*"), "no\nnull\n")


if __name__ == "__main__":
    unittest.main()
