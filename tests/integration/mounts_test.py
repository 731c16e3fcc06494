"""Mounts that helpers attach inside a session, with a real object store behind them."""

import concurrent.futures
import os
import shutil
import signal
import subprocess
import unittest

from s3_server import S3Server
from troupe_server import Server


def mounted_below(folder):
    with open("/proc/self/mountinfo", encoding="utf-8") as table:
        return [line for line in table if line.split()[4].startswith(folder + "/")]


@unittest.skipUnless(os.path.exists("/dev/fuse"), "the kernel has no FUSE here")
class MountsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.store = S3Server("lake")
        cls.store.put("lake", "2026/a.txt", b"from afar")

    @classmethod
    def tearDownClass(cls):
        cls.store.close()

    def setUp(self):
        self.server = Server()
        self.addCleanup(self.server.close)
        self.addCleanup(self.server.stop)
        self.sessions = os.path.realpath(self.server.state_dir) + "/sessions"

    def entry(self, **more):
        return {
            "type": "s3_mount",
            "bucket": "lake",
            "s3_provider": "Other",
            "endpoint_url": self.store.url,
            "mount_strategy": {"type": "in_container", "pattern": {"type": "rclone"}},
            **more,
        }

    def create(self, entries, **more):
        return self.server.json("POST", "/v1/sessions", {"manifest": {"entries": entries}, **more})

    def run_in(self, session, *command):
        status, ran = self.server.json(
            "POST",
            f"/v1/sessions/{session['id']}/exec",
            {"command": list(command), "shell": False},
        )
        self.assertEqual(status, 200, ran)
        return ran

    def test_commands_and_files_see_what_is_in_the_store(self):
        status, session = self.create({"data": self.entry(prefix="2026")})
        self.assertEqual(status, 201, session)
        self.assertEqual(self.run_in(session, "cat", "data/a.txt")["stdout"], "from afar")
        status, _, text = self.server.raw(
            "GET", f"/v1/sessions/{session['id']}/file?path=data/a.txt"
        )
        self.assertEqual((status, text), (200, b"from afar"))
        self.assertNotEqual(self.run_in(session, "touch", "data/b")["exit_code"], 0)

    def test_a_writable_mount_writes_to_the_store(self):
        status, session = self.create(
            {"out": self.entry(read_only=False, prefix="made", ephemeral=True)}
        )
        self.assertEqual(status, 201, session)
        self.assertEqual(self.run_in(session, "sh", "-c", "echo hi > out/b.txt")["exit_code"], 0)
        self.server.json("POST", f"/v1/sessions/{session['id']}/shutdown")
        self.assertEqual(self.store.get("lake", "made/b.txt"), b"hi\n")

    def test_a_snapshot_has_no_content_of_a_mount_and_a_resume_attaches_it_again(self):
        status, session = self.create({"data": self.entry()}, snapshot={"type": "local"})
        self.assertEqual(status, 201, session)
        self.run_in(session, "sh", "-c", "echo mine > own.txt")
        base = f"/v1/sessions/{session['id']}"
        self.assertEqual(self.server.json("POST", base + "/stop")[0], 200)
        _, changes = self.server.json("GET", base + "/diff")
        self.assertEqual(changes["items"], [])
        self.assertEqual(self.server.json("POST", base + "/shutdown")[0], 200)
        self.assertEqual(mounted_below(self.sessions), [])
        self.assertEqual(self.server.json("POST", base + "/start")[0], 200)
        self.assertEqual(
            self.run_in(session, "cat", "own.txt", "data/2026/a.txt")["stdout"],
            "mine\nfrom afar",
        )

    def test_a_delete_detaches_and_keeps_the_store(self):
        _, session = self.create({"data": self.entry(read_only=False)})
        self.assertEqual(len(mounted_below(self.sessions)), 1)
        status, _ = self.server.json("DELETE", f"/v1/sessions/{session['id']}")
        self.assertEqual(status, 204)
        self.assertEqual(mounted_below(self.sessions), [])
        self.assertEqual(os.listdir(self.sessions), [])
        self.assertEqual(self.store.get("lake", "2026/a.txt"), b"from afar")

    def test_after_a_crash_the_session_goes_on_with_its_mount(self):
        _, session = self.create({"data": self.entry()})
        self.run_in(session, "sh", "-c", "echo mine > own.txt")
        self.server.kill()
        self.server.start()
        base = f"/v1/sessions/{session['id']}"
        status, answer = self.server.json("POST", base + "/start")
        self.assertEqual(status, 200, answer)
        self.assertEqual(
            self.run_in(session, "cat", "own.txt", "data/2026/a.txt")["stdout"],
            "mine\nfrom afar",
        )
        self.assertEqual(len(mounted_below(self.sessions)), 1)

    def test_after_a_crash_a_delete_leaves_no_mount(self):
        _, session = self.create({"data": self.entry(read_only=False)})
        self.server.kill()
        self.server.start()
        status, _ = self.server.json("DELETE", f"/v1/sessions/{session['id']}")
        self.assertEqual(status, 204)
        self.assertEqual(mounted_below(self.sessions), [])
        self.assertEqual(os.listdir(self.sessions), [])
        self.assertEqual(self.store.get("lake", "2026/a.txt"), b"from afar")

    def test_a_mount_that_fails_fails_the_start_and_leaves_nothing_attached(self):
        # A size that rclone cannot read.
        pattern = {"type": "rclone", "extra_args": ["--buffer-size", "much"]}
        bad = self.entry(mount_strategy={"type": "in_container", "pattern": pattern})
        status, answer = self.create({"a": self.entry(), "b": bad})
        self.assertGreaterEqual(status, 400, answer)
        self.assertEqual(answer["error"]["code"], "mount_failed")
        self.assertIn("buffer-size", answer["error"]["context"]["stderr"])
        self.assertEqual(mounted_below(self.sessions), [])

    def test_what_no_helper_can_attach_is_refused_before_anything_is_made(self):
        outside = self.entry(mount_path="/mnt/elsewhere")
        status, answer = self.create({"file.txt": {"type": "file", "content": "x"}, "m": outside})
        self.assertEqual(answer["error"]["code"], "mount_config_invalid", answer)
        status, answer = self.create({"m": self.entry()}, options={"type": "isolated"})
        self.assertIn(
            answer["error"]["code"], ("mount_config_invalid", "mount_missing_tool"), answer
        )


@unittest.skipUnless(os.path.exists("/dev/fuse"), "the kernel has no FUSE here")
class HungStoreTest(unittest.TestCase):
    def test_a_store_that_hangs_holds_up_no_other_tenant(self):
        store = S3Server("lake")
        self.addCleanup(store.close)
        names = [f"{i}.txt" for i in range(24)]
        for name in names:
            store.put("lake", name, b"late")
        server = Server({"api_keys": [{"key": "ka", "tenant": "a"}, {"key": "kb", "tenant": "b"}]})
        self.addCleanup(server.close)
        entry = {
            "type": "s3_mount",
            "bucket": "lake",
            "s3_provider": "Other",
            "endpoint_url": store.url,
            "mount_strategy": {"type": "in_container", "pattern": {"type": "rclone"}},
        }
        one, other = ({"Authorization": f"Bearer {key}"} for key in ("ka", "kb"))
        body = {"manifest": {"entries": {"data": entry}}}
        status, held = server.json("POST", "/v1/sessions", body, one)
        self.assertEqual(status, 201, held)
        status, free = server.json("POST", "/v1/sessions", {}, other)
        self.assertEqual(status, 201, free)

        def read(name):
            path = f"/v1/sessions/{held['id']}/file?path=data/{name}"
            return server.raw("GET", path, headers=one)

        def write(i):
            path = f"/v1/sessions/{free['id']}/file?path=f{i}"
            return server.raw("PUT", path, b"soon", other)[0]

        store.process.send_signal(signal.SIGSTOP)
        try:
            with concurrent.futures.ThreadPoolExecutor(len(names)) as threads:
                reads = [threads.submit(read, name) for name in names]
                self.assertEqual({write(i) for i in range(50)}, {204})
                self.assertFalse(any(x.done() for x in reads))
                store.process.send_signal(signal.SIGCONT)
                self.assertEqual({x.result()[2] for x in reads}, {b"late"})
        finally:
            store.process.send_signal(signal.SIGCONT)


if __name__ == "__main__":
    unittest.main()
