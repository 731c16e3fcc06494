"""`troupe run`: one whole life in one process."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

TROUPE = os.environ["TROUPE"]


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="troupe-run-test-")
        self.addCleanup(shutil.rmtree, self.folder)
        self.tmp = self.path("tmp")
        os.mkdir(self.tmp)

    def path(self, name):
        return os.path.join(self.folder, name)

    def manifest(self, entries, **more):
        path = self.path("m.json")
        with open(path, "w", encoding="utf-8") as out:
            json.dump({"entries": entries, **more}, out)
        return path

    def run_troupe(self, *args, **more):
        env = {**os.environ, "TMPDIR": self.tmp}
        return subprocess.run(
            [TROUPE, "run", *args], capture_output=True, text=True, env=env, cwd=self.folder,
            timeout=60, check=False, **more
        )

    def test_the_command_has_the_streams_and_gives_its_exit_code(self):
        m = self.manifest({"a": {"type": "file", "content": "from manifest\n"}})
        done = self.run_troupe(
            m, "--", "sh", "-c", "cat a -; echo err >&2; exit 9", input="from stdin\n"
        )
        self.assertEqual(done.returncode, 9)
        self.assertEqual(done.stdout, "from manifest\nfrom stdin\n")
        self.assertIn("err\n", done.stderr)
        self.assertIn("no isolation", done.stderr)
        self.assertEqual(os.listdir(self.tmp), [])

    def test_a_saved_session_is_resumed(self):
        m = self.manifest({"log": {"type": "file", "content": "1\n"}})
        first = self.run_troupe(
            m, "--snapshot-dir", "snap", "--save", "state.json", "--", "sh", "-c", "echo 2 >> log"
        )
        self.assertEqual(first.returncode, 0, first.stderr)
        second = self.run_troupe(
            "--resume", "state.json", "--save", "state.json", "--", "sh", "-c",
            "echo 3 >> log; cat log"
        )
        self.assertEqual((second.returncode, second.stdout), (0, "1\n2\n3\n"), second.stderr)
        third = self.run_troupe("--resume", "state.json", "--", "cat", "log")
        self.assertEqual(third.stdout, "1\n2\n3\n", third.stderr)
        self.assertEqual(os.listdir(self.tmp), [])

    def test_a_kept_workspace_is_where_it_says(self):
        done = self.run_troupe(self.manifest({}), "--keep", "--", "touch", "left")
        root = done.stderr.strip().rsplit(" ", 1)[1]
        self.assertTrue(os.path.exists(root + "/left"), done.stderr)

    def test_a_local_folder_and_a_build(self):
        os.mkdir(self.path("src"))
        with open(self.path("src/Makefile"), "w", encoding="utf-8") as out:
            out.write("all:\n\t@echo built\n")
        done = self.run_troupe(
            self.manifest({"src": {"type": "local_dir", "src": "src"}}), "--",
            "cat", "src/Makefile"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("@echo built", done.stdout)

    def test_a_git_repository_by_branch_commit_and_subpath(self):
        origin = self.path("o/n.git")
        os.makedirs(origin + "/lib")
        with open(origin + "/lib/a", "w", encoding="utf-8") as out:
            out.write("a\n")
        git = ["git", "-C", origin, "-c", "user.name=t", "-c", "user.email=t@t"]
        for args in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "one"]):
            subprocess.run(git + args, check=True)
        commit = subprocess.run(
            git + ["rev-parse", "HEAD"], check=True, capture_output=True, text=True
        ).stdout.strip()
        environment = {
            "value": {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"url.file://{self.folder}/.insteadOf",
                "GIT_CONFIG_VALUE_0": "https://github.com/",
            }
        }
        entries = {
            "branch": {"type": "git_repo", "repo": "o/n", "ref": "main"},
            "commit": {"type": "git_repo", "repo": "o/n", "ref": commit},
            "lib": {"type": "git_repo", "repo": "o/n", "ref": "main", "subpath": "lib"},
        }
        done = self.run_troupe(
            self.manifest(entries, environment=environment), "--",
            "sh", "-c", "cat branch/lib/a commit/lib/a lib/a; ls -d branch/.git"
        )
        self.assertEqual((done.returncode, done.stdout), (0, "a\na\na\nbranch/.git\n"), done.stderr)
        entries = {"x": {"type": "git_repo", "repo": "o/n", "ref": "nope"}}
        done = self.run_troupe(self.manifest(entries, environment=environment), "--", "true")
        self.assertEqual(done.returncode, 125)
        self.assertIn("git_clone_error", done.stderr)
        self.assertEqual(os.listdir(self.tmp), [])

    def test_bad_manifests_are_explained(self):
        for text in ("{", "[]", '{"version": 2}', '{"entries": {"a": {"type": "nope"}}}'):
            with open(self.path("m.json"), "w", encoding="utf-8") as out:
                out.write(text)
            done = self.run_troupe(self.path("m.json"), "--", "true")
            self.assertEqual(done.returncode, 125, text)
            self.assertRegex(done.stderr, r"troupe: invalid_")
        self.assertEqual(os.listdir(self.tmp), [])

    def test_save_without_a_snapshot_is_refused(self):
        done = self.run_troupe(self.manifest({}), "--save", "s.json", "--", "true")
        self.assertEqual(done.returncode, 125)
        self.assertIn("--snapshot-dir", done.stderr)

    def test_an_interrupt_ends_the_command_and_the_work_is_kept(self):
        m = self.manifest({})
        env = {**os.environ, "TMPDIR": self.tmp}
        with subprocess.Popen(
            [TROUPE, "run", m, "--snapshot-dir", "snap", "--save", "state.json", "--",
             "sh", "-c", "echo work > f; echo begun; sleep 60"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=self.folder,
        ) as process:
            self.assertEqual(process.stdout.readline(), "begun\n")
            process.send_signal(signal.SIGINT)
            begun = time.monotonic()
            process.communicate(timeout=30)
            self.assertLess(time.monotonic() - begun, 25)
            self.assertEqual(process.returncode, 130)
        done = self.run_troupe("--resume", "state.json", "--", "cat", "f")
        self.assertEqual(done.stdout, "work\n", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
