"""A server of a plain user whom /etc/subuid grants ids: sandboxes have users of their own.

Runs in a mount namespace of its own, in which /etc is a copy.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unittest

INSIDE = "TROUPE_TEST_OWN_ETC"
POSSIBLE = (os.geteuid() == 0 and shutil.which("newuidmap") and shutil.which("newgidmap")
            and shutil.which("unshare") and subprocess.run(["unshare", "--mount", "true"]).returncode == 0)
if POSSIBLE and INSIDE not in os.environ and __name__ == "__main__":
    os.environ[INSIDE] = "1"
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])

from troupe_server import TROUPE, Server  # noqa: E402

NAME, UID, OTHER_GROUP = "troupe-plain", 4201, 4202
FIRST, FIRST_GROUP = 1 << 20, 1 << 21  # on purpose not the same
PROGRAM = "/etc/troupe-under-test"  # where the user finds it, wherever it was built


def write(path, text):
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def grant(count=65536):
    """What the user may have from now on."""
    for path, first in (("/etc/subuid", FIRST), ("/etc/subgid", FIRST_GROUP)):
        write(path, f"somebody:{1 << 22}:65536\n{NAME}:{first}:{count}\n" if count else "")


def processes_with(text):
    found = subprocess.run(["pgrep", "-f", text], capture_output=True, text=True, check=False)
    return [int(x) for x in found.stdout.split()]


def status_of(pid, field):
    with open(f"/proc/{pid}/status", encoding="utf-8") as lines:
        return next(x.split(":", 1)[1].split() for x in lines if x.startswith(field + ":"))


class PlainServer(Server):
    """One that runs as the user."""

    def start(self):
        for folder, _, files in os.walk(self.folder):
            for path in [folder, *(os.path.join(folder, x) for x in files)]:
                if os.lstat(path).st_uid == 0:
                    os.chown(path, UID, UID)
        self.args[0] = PROGRAM
        self.process = subprocess.Popen(
            self.args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            user=UID, group=UID, extra_groups=[UID, OTHER_GROUP])
        line = self.process.stdout.readline()
        if "listens on" not in line:
            raise RuntimeError("the server did not start: " + line)
        self.port = int(line.rsplit(":", 1)[1])


@unittest.skipUnless(POSSIBLE and INSIDE in os.environ, "not root, or no newuidmap")
class GrantedIds(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        etc = tempfile.mkdtemp(prefix="troupe-etc-")
        subprocess.run(["mount", "-t", "tmpfs", "none", etc], check=True)
        subprocess.run(["cp", "-a", "/etc/.", etc], check=True)
        subprocess.run(["mount", "--bind", etc, "/etc"], check=True)
        for path, line in (("/etc/passwd", f"{NAME}:x:{UID}:{UID}::/nonexistent:/bin/sh\n"),
                           ("/etc/group", f"{NAME}:x:{UID}:\nother-of-{NAME}:x:{OTHER_GROUP}:{NAME}\n")):
            with open(path, "a", encoding="utf-8") as out:
                out.write(line)
        write(PROGRAM, "")
        subprocess.run(["mount", "--bind", TROUPE, PROGRAM], check=True)
        cls.etc = etc

    @classmethod
    def tearDownClass(cls):
        for mounted in (PROGRAM, "/etc", cls.etc):
            subprocess.run(["umount", mounted], check=True)
        os.rmdir(cls.etc)

    def setUp(self):
        grant()

    def server(self, **config):
        server = PlainServer({"default_backend": "isolated", **config})
        self.addCleanup(server.close)
        return server

    def session(self, server, **body):
        status, session = server.json("POST", "/v1/sessions", body)
        self.assertEqual(status, 201, session)
        self.walls = {x["name"]: x for x in session["walls"]}
        return "/v1/sessions/" + session["id"]

    def wait_for(self, condition, what):
        deadline = time.monotonic() + 30
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def exec(self, server, at, command, **more):
        status, answer = server.json("POST", at + "/exec", {"command": command, **more})
        self.assertEqual(status, 200, answer)
        return answer["stdout"]

    def folder(self, server, at):
        return os.path.join(server.state_dir, "sessions", at.rsplit("/", 1)[1])

    def assertGone(self, server, at):
        self.assertEqual(server.json("DELETE", at)[0], 204)
        self.assertFalse(os.path.exists(self.folder(server, at)))

    # -- users ---

    def test_users_of_the_manifest_exist_are_kept_apart_and_are_none_of_the_host_s(self):
        server = self.server()
        at = self.session(server, manifest={
            "users": [{"name": "alice"}], "groups": [{"name": "crew", "users": [{"name": "bob"}]}],
            "entries": {"d/m": {"type": "file", "content": "m"}}})
        self.assertTrue(self.walls["users"]["enforced"], self.walls)
        self.assertFalse(self.walls["user_range"]["enforced"], self.walls)
        for user in ("sandbox", "alice", "bob", "root"):
            self.assertEqual(self.exec(server, at, "id -un", user=user), user + "\n")
        self.assertNotEqual(self.exec(server, at, "chown alice d/m 2>&1; id -G", user="root"), "")
        server.raw("PUT", at + "/file?path=w", b"w")
        self.exec(server, at, "echo e > e")
        self.exec(server, at, "echo a > /tmp/a; stat -c %U /tmp/a", user="alice")
        self.assertEqual(self.exec(server, at, "stat -c %U . d d/m w e | sort -u"), "sandbox\n")
        info = os.stat(self.folder(server, at) + "/workspace/e")
        self.assertEqual((info.st_uid, info.st_gid), (FIRST + 1000, FIRST_GROUP + 1000))
        self.exec(server, at, "setsid sleep 86211 >/dev/null 2>&1 &", user="alice")
        (pid,) = processes_with("sleep 86211")
        self.assertEqual(set(status_of(pid, "Uid")), {str(FIRST + 2000)})
        self.assertEqual(set(status_of(pid, "Gid")), {str(FIRST_GROUP + 2000)})
        self.assertEqual(status_of(pid, "Groups"), [str(FIRST_GROUP + 1000)])
        self.assertEqual(status_of(pid, "CapPrm"), ["0" * 16])
        self.assertGone(server, at)
        self.assertEqual(processes_with("sleep 86211"), [])

    def test_the_file_calls_have_the_rights_of_the_user_and_no_more(self):
        server = self.server()
        at = self.session(server, manifest={"users": [{"name": "alice"}]})
        self.exec(server, at, "umask 077; echo secret > mine; mkdir open; chmod 1777 open; echo x > open/x")
        self.assertEqual(server.raw("GET", at + "/file?path=mine")[0], 200)
        for method, path in (("GET", "mine"), ("PUT", "new"), ("PUT", "open/x"), ("DELETE", "open/x")):
            status, _, text = server.raw(method, f"{at}/file?path={path}&user=alice",
                                         b"x" if method == "PUT" else None)
            self.assertEqual(status // 100, 4, (method, path, text))
            self.assertIn(b"ermi", text, (method, path))
        self.assertEqual(server.raw("PUT", at + "/file?path=open/y&user=alice", b"y")[0] // 100, 2)
        self.assertEqual(server.raw("GET", at + "/file?path=open/y&user=alice")[2], b"y")
        self.assertEqual(self.exec(server, at, "cat mine open/x; stat -c %U open/y"),
                         "secret\nx\nalice\n")
        self.assertGone(server, at)

    def test_files_of_the_sandbox_outside_of_the_workspace_and_terminals_are_its_user_s(self):
        server = self.server()
        at = self.session(server, manifest={"extra_path_grants": [{"path": "/tmp"}]})
        self.exec(server, at, "umask 077; echo t > /tmp/t")
        self.assertEqual(server.raw("GET", at + "/file?path=/tmp/t")[2], b"t\n")
        status, update = server.json("POST", at + "/pty", {
            "command": "tty; stat -c %U $(tty)", "tty": True, "yield_time_ms": 3000})
        self.assertEqual(status, 200, update)
        self.assertEqual(update["output"].split(), ["/dev/pts/0", "sandbox"])
        self.assertGone(server, at)

    # -- lives ---

    def test_stop_resume_rewind_and_fork_work(self):
        server = self.server()
        at = self.session(server, snapshot={"type": "local"})
        self.exec(server, at, "mkdir -p d; echo 1 > d/f; chmod 640 d/f; umask 777; mkdir shut")
        status, stopped = server.json("POST", at + "/stop")
        self.assertEqual(status, 200, stopped)
        self.assertEqual(server.json("DELETE", at + "?keep_snapshot=true")[0], 204)
        status, back = server.json("POST", "/v1/sessions/resume", {"state": stopped["state"]})
        self.assertEqual(status, 201, back)
        self.assertEqual(self.exec(server, at, "cat d/f; stat -c '%U %a' d/f shut; echo 2 >> d/f"),
                         "1\nsandbox 640\nsandbox 0\n")
        point = server.json("POST", at + "/checkpoint", {"name": "p"})[1]
        self.exec(server, at, "rm -r d")
        status, answer = server.json("POST", at + "/rewind", {"snapshot_id": point["id"]})
        self.assertEqual(status, 200, answer)
        status, forks = server.json("POST", at + "/fork", {"count": 2})
        self.assertEqual(status, 201, forks)
        for fork in forks["items"]:
            there = "/v1/sessions/" + fork["id"]
            self.assertEqual(self.exec(server, there, "cat d/f; stat -c %U d/f"), "1\n2\nsandbox\n")
            self.assertGone(server, there)
        self.assertGone(server, at)

    def test_a_later_server_takes_a_live_sandbox_over_and_can_end_it(self):
        for warm in (0, 1):
            server = self.server(isolated={"warm_pool": warm})
            at = self.session(server, manifest={"extra_path_grants": [{"path": "/tmp"}]})
            self.exec(server, at, "echo kept > /tmp/kept; setsid sleep 86212 >/dev/null 2>&1 &")
            before = processes_with("sleep 86212")
            self.assertEqual(len(before), 1)
            server.kill()
            server.start()
            self.wait_for(lambda: server.json("POST", at + "/exec", {"command": "true"})[0] == 200, "no")
            self.assertEqual(processes_with("sleep 86212"), before)
            self.assertEqual(server.raw("GET", at + "/file?path=/tmp/kept")[2], b"kept\n")
            # A command of the new server's is ended by it.
            status, answer = server.json("POST", at + "/exec", {"command": "sleep 86213", "timeout_s": 0.2})
            self.assertEqual(processes_with("sleep 86213"), [], (status, answer))
            self.assertGone(server, at)
            self.assertEqual(processes_with("sleep 86212"), [])
            self.assertEqual(server.stop(), 0)

    def in_a_group_of_the_user(self):
        """Moves this process, and so servers that it starts, into one (v2)."""
        with open("/proc/mounts", encoding="utf-8") as mounts:
            top = next((x.split()[1] for x in mounts if x.split()[2] == "cgroup2"), None)
        if not top:
            self.skipTest("no cgroup v2")
        with open("/proc/self/cgroup", encoding="utf-8") as groups:
            before = top + next(x.rstrip()[3:] for x in groups if x.startswith("0::"))
        group = f"{top}/troupe-plain-{os.getpid()}"
        os.mkdir(group)
        self.addCleanup(os.rmdir, group)
        for path in (group, *(os.path.join(group, "cgroup." + x) for x in ("procs", "threads", "subtree_control"))):
            os.chown(path, UID, UID)
        write(group + "/cgroup.procs", str(os.getpid()))
        self.addCleanup(write, before + "/cgroup.procs", str(os.getpid()))
        return group

    def test_with_a_group_of_its_own_it_freezes_and_kills_whole(self):
        group = self.in_a_group_of_the_user()
        server = self.server()
        at = self.session(server, snapshot={"type": "local"})
        self.assertTrue(self.walls["cgroup"]["enforced"], self.walls)
        self.exec(server, at, "setsid sh -c 'while :; do echo x >> log; done' >/dev/null 2>&1 & "
                  "setsid sleep 86215 >/dev/null 2>&1 &")
        status, point = server.json("POST", at + "/checkpoint", {"name": "p"})
        self.assertEqual(status, 201, point)
        server.kill()
        server.start()
        self.wait_for(lambda: server.json("POST", at + "/exec", {"command": "true"})[0] == 200, "no")
        self.assertGreater(server.json("GET", at)[1]["usage"]["cpu_s"], 0)
        self.assertEqual(len(processes_with("sleep 86215")), 1)
        self.assertGone(server, at)
        self.assertEqual(processes_with("sleep 86215"), [])
        server.close()
        left = [x for x in os.listdir(group) if os.path.isdir(os.path.join(group, x))]
        for name in left:  # the server's own, which is empty
            self.assertEqual(os.listdir(os.path.join(group, name)).count("cgroup.procs"), 1)
            os.rmdir(os.path.join(group, name))

    def test_many_at_once_work(self):
        server = self.server()
        failures = []

        def live():
            try:
                for _ in range(3):
                    status, session = server.json("POST", "/v1/sessions", {})
                    self.assertEqual(status, 201, session)
                    at = "/v1/sessions/" + session["id"]
                    for i in range(10):
                        self.assertEqual(server.raw("PUT", at + "/file?path=f", b"x")[0] // 100, 2)
                    self.assertEqual(self.exec(server, at, "cat f; stat -c %U f"), "xsandbox\n")
                    self.assertEqual(server.json("DELETE", at)[0], 204)
            except AssertionError as x:
                failures.append(x)
        threads = [threading.Thread(target=live) for _ in range(8)]
        for x in threads:
            x.start()
        for x in threads:
            x.join()
        self.assertEqual(failures, [])
        self.assertEqual(os.listdir(server.state_dir + "/sessions"), [])

    # -- what may be missing ---

    def test_without_a_grant_there_is_one_user_and_the_wall_says_why(self):
        grant(0)
        server = self.server()
        at = self.session(server)
        self.assertFalse(self.walls["users"]["enforced"])
        self.assertFalse(self.walls["user_range"]["enforced"])
        self.assertIn("has no range of 65536 ids in /etc/subuid", self.walls["user_range"]["note"])
        self.exec(server, at, "echo 1 > f")
        self.assertEqual(os.stat(self.folder(server, at) + "/workspace/f").st_uid, UID)
        self.assertGone(server, at)

    def test_a_state_directory_that_cannot_hold_files_of_others_is_a_reason_too(self):
        folder = tempfile.mkdtemp(prefix="troupe-setgid-")
        self.addCleanup(shutil.rmtree, folder)
        os.chown(folder, UID, OTHER_GROUP)  # which has no number among the granted ones
        os.chmod(folder, 0o2770)
        server = PlainServer({"default_backend": "isolated"}, state_dir=folder + "/state")
        self.addCleanup(server.close)
        at = self.session(server)
        self.assertFalse(self.walls["users"]["enforced"])
        self.assertIn("cannot be another user's", self.walls["user_range"]["note"])
        self.assertEqual(self.exec(server, at, "echo 1 > f; cat f"), "1\n")
        self.assertGone(server, at)

    def test_an_operator_who_requires_the_grant_gets_an_error_without_it(self):
        server = self.server(isolated={"granted_ids": "required"})
        self.session(server)
        self.assertTrue(self.walls["users"]["enforced"])
        self.assertEqual(server.stop(), 0)
        grant(0)
        refused = subprocess.run(server.args, capture_output=True, text=True, user=UID, group=UID,
                                 extra_groups=[], check=False, timeout=60)
        self.assertEqual(refused.returncode, 1, refused)
        self.assertIn("the wall `user_range` cannot be had", refused.stderr)

    def test_ids_that_no_server_shall_take_are_left(self):
        server = self.server(isolated={"granted_ids": "never"})
        at = self.session(server)
        self.assertFalse(self.walls["users"]["enforced"])
        self.assertGone(server, at)

    def test_a_session_goes_on_when_ids_are_granted_and_is_refused_when_they_are_taken_away(self):
        grant(0)
        told = tempfile.mkdtemp(prefix="troupe-events-")
        self.addCleanup(shutil.rmtree, told)
        os.chown(told, UID, UID)
        server = self.server(event_sinks=[{"type": "jsonl", "path": told + "/events"}])

        def replaced():
            with open(told + "/events", encoding="utf-8") as lines:
                return sum(json.loads(x).get("data") == {"what": "replaced"} for x in lines)
        at = self.session(server)
        self.exec(server, at, "echo 1 > f; setsid sleep 86214 >/dev/null 2>&1 &")
        server.kill()
        grant()
        server.start()
        self.wait_for(lambda: server.json("POST", at + "/exec", {"command": "true"})[0] == 200, "no")
        # The sandbox of the other ids is gone, its files are the new user's.
        self.assertEqual(processes_with("sleep 86214"), [])
        self.wait_for(lambda: replaced() == 1, "nobody is told")
        self.assertEqual(self.exec(server, at, "echo 2 >> f; cat f; stat -c %U f"), "1\n2\nsandbox\n")
        server.kill()
        grant(0)
        server.start()
        answer = server.json("POST", at + "/exec", {"command": "true"})
        self.assertEqual(answer[1]["error"]["code"], "workspace_start_error", answer)
        server.kill()
        grant()
        server.start()
        self.wait_for(lambda: server.json("POST", at + "/start")[0] == 200, "no")
        self.assertEqual(self.exec(server, at, "cat f"), "1\n2\n")
        self.assertGone(server, at)

    def test_sandboxes_have_ranges_of_their_own_where_enough_is_granted(self):
        grant(4 * 65536)
        taken = tempfile.mkdtemp(prefix="troupe-uids-")
        os.chown(taken, UID, UID)
        self.addCleanup(shutil.rmtree, taken)
        server = self.server(isolated={"uid_dir": taken})
        all_of_them = [self.session(server) for _ in range(3)]
        self.assertTrue(self.walls["user_range"]["enforced"], self.walls)
        owners = {os.stat(self.folder(server, at) + "/workspace").st_uid for at in all_of_them}
        self.assertEqual(owners, {FIRST + 1000 + i * 65536 for i in (1, 2, 3)})
        status, answer = server.json("POST", "/v1/sessions", {})
        self.assertEqual(answer["error"]["context"]["wall"], "user_range", (status, answer))
        self.assertGone(server, all_of_them.pop())
        server.kill()
        server.start()
        for at in all_of_them:
            self.wait_for(lambda at=at: server.json("POST", at + "/exec", {"command": "true"})[0] == 200, "no")
        all_of_them.append(self.session(server))
        for at in all_of_them:
            self.assertGone(server, at)
        self.assertEqual(os.listdir(taken), [])

    # -- beside them ---

    def test_commands_without_a_sandbox_are_the_server_s_user_without_rights(self):
        server = self.server()
        at = self.session(server, options={"type": "unix_local"})
        shown = self.exec(server, at, "id -u; id -G; grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | "
                          "cut -f2 | sort -u; touch f; chown 1049576 f 2>/dev/null || echo refused")
        self.assertEqual(shown.split(), [str(UID), str(UID), "0" * 16, "refused"])
        self.assertGone(server, at)

    def test_doctor_and_run_use_the_grant(self):
        as_user = {"user": UID, "group": UID, "extra_groups": [], "capture_output": True, "text": True,
                   "check": False, "timeout": 120}
        said = subprocess.run([PROGRAM, "doctor"], **as_user).stdout
        self.assertRegex(said, r"ok +users ")
        self.assertRegex(said, r"-- +user_range ")
        folder = tempfile.mkdtemp(prefix="troupe-run-")
        self.addCleanup(shutil.rmtree, folder)
        os.chown(folder, UID, UID)
        write(folder + "/m.json", json.dumps({"entries": {"f": {"type": "file", "content": "x"}}}))
        ran = subprocess.run([PROGRAM, "run", "m.json", "--backend", "isolated", "--", "sh", "-c",
                              "cat f; id -un; stat -c %U f"], cwd=folder, env={
                                  **os.environ, "TMPDIR": folder}, **as_user)
        self.assertEqual((ran.returncode, ran.stdout), (0, "xsandbox\nsandbox\n"), ran.stderr)
        self.assertEqual(os.listdir(folder), ["m.json"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
