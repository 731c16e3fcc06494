"""Every call of a session four times: done, refused, made by two clients at once, and given up by a
client that leaves before the answer."""

import io
import json
import socket
import time
import tarfile
import threading
import unittest

from troupe_server import ServerTest


def tar_of(**files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


class Call:
    """One call. `bad` is a request that is refused with the code `why`; `before` prepares a session
    for the good one, `before_bad` for the bad one. Without `bad` only a session that is not there
    makes it fail."""

    def __init__(
        self, method, path, body=None, *, bad=None, why=None, wanted=200, before=(), before_bad=()
    ):
        self.method, self.path, self.body = method, path, body
        self.bad, self.why, self.wanted = bad, why, wanted
        self.before, self.before_bad = before, before_bad


def run(command):
    return ("POST", "/exec", {"command": command})


PATCH = "*** Begin Patch\n*** Add File: p\n+text\n*** End Patch\n"
BAD_PATCH = "*** Begin Patch\n*** Update File: missing\n@@\n-a\n+b\n*** End Patch\n"
ROOT_GONE = run('root=$PWD; cd /; rm -rf "$root"; touch "$root"')
FAILING_HOOK = ("POST", "/pre_stop_hooks", {"command": ["false"]})
MOUNT = {"entries": {"m": {"type": "s3_mount", "bucket": "b", "mount_strategy": {
    "type": "in_container", "pattern": {"type": "mountpoint"}}}}}

CALLS = {
    "get": Call("GET", "", bad=("GET", "/nothing"), why="not_found"),
    "start": Call("POST", "/start", bad=("POST", "/start", {"on_conflict": "x"}),
                  why="invalid_request"),
    "stop": Call("POST", "/stop", bad=("POST", "/stop"), why="workspace_stop_error",
                 before_bad=[ROOT_GONE]),
    "shutdown": Call("POST", "/shutdown"),
    "close": Call("POST", "/close", bad=("POST", "/close"), why="exec_nonzero",
                  before_bad=[FAILING_HOOK]),
    "running": Call("GET", "/running", bad=("POST", "/running"), why="invalid_request"),
    "describe": Call("GET", "/describe?depth=2", bad=("GET", "/describe?depth=-1"),
                     why="invalid_request"),
    "pre_stop_hooks": Call("POST", "/pre_stop_hooks", {"command": ["true"]},
                           bad=("POST", "/pre_stop_hooks", {}), why="invalid_request", wanted=201),
    "persist_skip": Call("POST", "/persist_skip", {"path": "logs"},
                         bad=("POST", "/persist_skip", {"path": "../x"}),
                         why="invalid_manifest_path"),
    "manifest": Call("POST", "/manifest",
                     {"manifest": {"entries": {"m": {"type": "file", "content": "m"}}}},
                     bad=("POST", "/manifest", {"manifest": MOUNT}), why="mount_missing_tool"),
    "exec": Call(*run("sleep 0.2; echo x >> e"),
                 bad=("POST", "/exec", {"command": ["/nothing"], "shell": False}),
                 why="exec_transport_error"),
    "pty": Call("POST", "/pty", {"command": "echo hi", "tty": True},
                bad=("POST", "/pty", {"command": "cat", "tty": True, "rows": 0}),
                why="invalid_request"),
    "pty_list": Call("GET", "/pty", bad=("POST", "/pty/9/stdin", {"chars": ""}),
                     why="pty_session_not_found"),
    "pty_end_all": Call("DELETE", "/pty", bad=("DELETE", "/pty/9"), why="pty_session_not_found",
                        wanted=204),
    "read": Call("GET", "/file?path=f", bad=("GET", "/file?path=g"),
                 why="workspace_read_not_found", before=[run("echo f > f")]),
    "write": Call("PUT", "/file?path=w", b"text", bad=("PUT", "/file?path=/etc/x", b""),
                  why="invalid_manifest_path", wanted=204),
    "rm": Call("DELETE", "/file?path=d&recursive=true", bad=("DELETE", "/file?path=nothing"),
               why="exec_nonzero", wanted=204, before=[run("mkdir d; touch d/f")]),
    "ls": Call("GET", "/ls?path=.", bad=("GET", "/ls?path=nothing"), why="exec_nonzero"),
    "mkdir": Call("POST", "/mkdir", {"path": "a/b", "parents": True},
                  bad=("POST", "/mkdir", {"path": "x/y"}), why="workspace_archive_write_error",
                  wanted=204),
    "extract": Call("POST", "/extract?path=x.tar", tar_of(a="1"),
                    bad=("POST", "/extract?path=x.tar", b"no tar"),
                    why="workspace_archive_write_error", wanted=204),
    "apply_patch": Call("POST", "/apply_patch", {"patch": PATCH},
                        bad=("POST", "/apply_patch", {"patch": BAD_PATCH}),
                        why="apply_patch_file_not_found"),
    "tool": Call("POST", "/tools/exec_command", {"cmd": "echo x"},
                 bad=("POST", "/tools/nothing", {}), why="not_found"),
    "persist_workspace": Call("GET", "/workspace"),
    "hydrate_workspace": Call("PUT", "/workspace", tar_of(h="1"),
                              bad=("PUT", "/workspace", b"no tar"),
                              why="workspace_archive_write_error", wanted=204),
    "port": Call("GET", "/ports/8000", bad=("GET", "/ports/8001"),
                 why="exposed_port_unavailable"),
}

class SessionCalls(ServerTest):
    def session(self):
        return self.create(snapshot={"type": "local"}, exposed_ports=[8000])

    def send(self, session, method, path, body=None):
        """Status and parsed body; bytes go as they are."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        status, headers, text = self.server.raw(
            method, f"/v1/sessions/{session['id']}{path}", data
        )
        kind = headers.get("Content-Type", "")
        return status, json.loads(text) if text and kind.startswith("application/json") else text

    def prepared(self, steps):
        session = self.session()
        for step in steps:
            status, answer = self.send(session, *step)
            self.assertLess(status, 300, answer)
        return session

    def assertUsable(self, session):
        # What a client asked for that left may come only after the first of these, and end it.
        for last in (False, True):
            status, answer = self.send(session, "POST", "/start")
            self.assertEqual((status, answer["status"]), (200, "running"), answer)
            status, answer = self.send(session, "POST", "/exec", {"command": "echo works"})
            if last or status not in (409, 499):
                break
        self.assertEqual((status, answer.get("stdout")), (200, "works\n"), answer)

    def test_done(self):
        for name, call in CALLS.items():
            with self.subTest(name):
                session = self.prepared(call.before)
                status, answer = self.send(session, call.method, call.path, call.body)
                self.assertEqual(status, call.wanted, answer)
                self.assertUsable(session)

    def test_refused(self):
        for name, call in CALLS.items():
            with self.subTest(name):
                if not call.bad:
                    continue
                session = self.prepared(call.before_bad)
                status, answer = self.send(session, *call.bad)
                self.assertGreaterEqual(status, 400, answer)
                self.assertEqual(answer["error"]["code"], call.why, answer)

    def test_of_a_session_that_is_not_there(self):
        nobody = {"id": "00000000-0000-4000-8000-000000000000"}
        for name, call in CALLS.items():
            with self.subTest(name):
                answer = self.send(nobody, call.method, call.path, call.body)
                self.assertError(answer, 404, "not_found")

    def test_by_two_clients_at_once(self):
        for name, call in CALLS.items():
            with self.subTest(name):
                session = self.prepared(call.before)
                gate = threading.Barrier(2)
                answers = []

                def client():
                    gate.wait()
                    answers.append(self.send(session, call.method, call.path, call.body))

                clients = [threading.Thread(target=client) for _ in range(2)]
                for x in clients:
                    x.start()
                for x in clients:
                    x.join(60)
                # What the first one took away or made is an error of the second.
                self.assertEqual(min(x[0] for x in answers), call.wanted, answers)
                for status, answer in answers:
                    if status != call.wanted:
                        self.assertIn(status, (404, 409, 422), answer)
                self.assertUsable(session)

    def test_by_a_client_that_leaves(self):
        for name, call in CALLS.items():
            with self.subTest(name):
                session = self.prepared(call.before)
                body = call.body if isinstance(call.body, bytes) else json.dumps(call.body or {}).encode()
                if call.method in ("GET", "DELETE"):
                    body = b""
                with socket.create_connection(("127.0.0.1", self.server.port)) as client:
                    client.sendall(
                        f"{call.method} /v1/sessions/{session['id']}{call.path} HTTP/1.1\r\n"
                        f"Host: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                    )
                    client.sendall(body)
                self.assertUsable(session)
                self.assertPairs(session)

    def assertPairs(self, session):
        """What began has ended, be it by cancellation."""

        def open_spans():
            connection = self.server.connect()
            spans = {}
            try:
                connection.request("GET", f"/v1/sessions/{session['id']}/events")
                answer = connection.getresponse()
                marker = f"echo {time.monotonic_ns()}"  # those of earlier looks come again
                # What goes on without its client may end it, which is told, or come before it.
                if self.call("POST", session, "/exec", {"command": marker})[0] == 409:
                    self.call("POST", session, "/start")
                    self.exec(session, marker)
                for line in iter(answer.readline, b""):
                    if not line.startswith(b"data: "):
                        continue
                    event = json.loads(line[6:])
                    if event["phase"] == "start":
                        spans[event["span_id"]] = event["op"]
                    elif event["phase"] == "finish":
                        spans.pop(event["span_id"], None)
                        if event["data"].get("command") == [marker]:
                            return spans
            finally:
                connection.close()
            return spans

        self.wait_for(lambda: not open_spans(), "an operation that never ended")


if __name__ == "__main__":
    unittest.main()
