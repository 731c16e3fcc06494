"""Malformed, oversized and hostile requests: a clear answer each, and the server goes on."""

import json
import os
import resource
import select
import socket
import time
import unittest

from troupe_server import ServerTest


class BadInput(ServerTest):
    def tearDown(self):
        # Whatever was sent: the server lives and nothing half-made remains.
        self.assertEqual(self.server.json("GET", "/healthz")[0], 200)

    def assertNothingMade(self):
        self.assertEqual(self.server.json("GET", "/v1/sessions")[1]["items"], [])
        self.assertEqual(os.listdir(self.server.state_dir + "/sessions"), [])

    def post(self, text):
        status, _, body = self.server.raw("POST", "/v1/sessions", text)
        return status, json.loads(body)

    def test_malformed_json(self):
        for text in ("{", "[]", "null", "{'a': 1}", '{"a": 1} x', "\xff", '{"a":'):
            self.assertError(self.post(text.encode("latin-1")), 400, "invalid_request")
        self.assertNothingMade()

    def test_unknown_fields_are_named(self):
        answer = self.post('{"manifets": {}}')
        self.assertError(answer, 400, "invalid_request")
        self.assertEqual(answer[1]["error"]["context"]["field"], "manifets")
        self.assertError(self.post('{"limits": {"cpu": 1}}'), 400, "invalid_request")

    def test_calls_without_members_take_none(self):
        session = self.create()
        for path in ("/stop", "/shutdown", "/close", "/start"):
            answer = self.call("POST", session, path, {"x": 1})
            self.assertError(answer, 400, "invalid_request")
            self.assertEqual(self.call("POST", session, path, {})[0], 200)

    def test_large_bodies_are_held_up_to_a_bound(self):
        session = self.create()
        size = 31 << 20
        head = (f"POST /v1/sessions/{session['id']}/exec HTTP/1.1\r\nHost: x\r\n"
                f"Content-Length: {size + 1}\r\n\r\n").encode()
        clients = []
        try:
            for _ in range(9):
                client = socket.create_connection(("127.0.0.1", self.server.port), timeout=30)
                clients.append(client)
                client.sendall(head)
                try:
                    client.sendall(b" " * size)
                except OSError:
                    pass  # answered before all of it was sent
            refused = select.select(clients, [], [], 30)[0]
            self.assertIn(b"503 Service Unavailable", refused[0].recv(1 << 16))
            self.assertEqual(self.exec(session, "echo small")["stdout"], "small\n")
        finally:
            for client in clients:
                client.close()
        self.wait_for(
            lambda: self.call("POST", session, "/exec", {"command": "cat", "stdin": "x" * size})[0]
            == 200, "room again")

    def test_what_clients_leave_with_a_session_is_bounded(self):
        for labels in ({"l": "x" * 1025}, {"x" * 1025: ""}, {str(i): "" for i in range(65)}):
            self.assertError(
                self.server.json("POST", "/v1/sessions", {"labels": labels}), 400, "invalid_request"
            )
        session = self.create(start=False)
        call = lambda path, body: self.call("POST", session, path, body)
        self.assertError(call("/fork", {"labels": {"l": "x" * 1025}}), 400, "invalid_request")
        self.assertError(call("/checkpoint", {"name": "x" * 1025}), 400, "invalid_request")
        for _ in range(256):
            self.assertEqual(call("/pre_stop_hooks", {"command": ["true"]})[0], 201)
        self.assertError(call("/pre_stop_hooks", {"command": ["true"]}), 429, "quota_exceeded")

    def test_limits_that_cannot_be_held_are_refused(self):
        answer = self.post('{"limits": {"memory_bytes": 1000}}')
        self.assertError(answer, 400, "sandbox_config_invalid")
        answer = self.post('{"network": "none"}')
        self.assertError(answer, 400, "sandbox_config_invalid")
        answer = self.post('{"options": {"type": "docker"}}')
        self.assertError(answer, 400, "backend_unavailable")
        self.assertNothingMade()

    def test_wrong_types(self):
        for body in (
            {"start": "yes"},
            {"labels": {"a": 1}},
            {"idle_timeout_s": -1},
            {"exposed_ports": [0]},
            {"concurrency_limits": {"manifest_entries": 0}},
            {"snapshot": {"type": "tape"}},
        ):
            self.assertEqual(self.post(json.dumps(body))[0], 400, body)
        self.assertNothingMade()

    def test_manifest_paths(self):
        for path in ("../x", "/etc/x", "a/../../x", "C:\\x", "a\0b", "a\nb"):
            body = {"manifest": {"entries": {path: {"type": "file", "content": ""}}}}
            status, answer = self.post(json.dumps(body))
            self.assertEqual(status, 400, (path, answer))
        nested = {"type": "dir", "children": {"../../x": {"type": "file", "content": ""}}}
        status, answer = self.post(json.dumps({"manifest": {"entries": {"d": nested}}}))
        self.assertEqual(status, 400, answer)
        self.assertNothingMade()

    def test_roots(self):
        for root in ("", "relative", "/", "/tmp/.."):
            status, answer = self.post(json.dumps({"manifest": {"root": root}}))
            self.assertEqual(status, 400, (root, answer))
        self.assertNothingMade()

    def test_a_manifest_nested_10000_deep(self):
        text = '{"manifest":{"entries":'
        text += '{"d":{"type":"dir","children":' * 10000 + "{}" + "}}" * 10000 + "}}"
        self.assertError(self.post(text), 400, "invalid_request")
        self.assertNothingMade()

    def test_10_mb_of_command_line(self):
        session = self.create()
        answer = self.call("POST", session, "/exec", {"command": ["echo", "x" * 10_000_000]})
        self.assertError(answer, 400, "invalid_request")
        # Longer than one argument may be, but not too long for us: the kernel's answer, made clear.
        answer = self.call(
            "POST", session, "/exec", {"command": ["echo", "x" * 200_000], "shell": False}
        )
        self.assertError(answer, 500, "exec_transport_error")

    def test_nul_in_a_command(self):
        session = self.create()
        answer = self.call("POST", session, "/exec", {"command": ["echo", "a\0b"]})
        self.assertIn(answer[0], (400, 500), answer)

    def test_an_object_with_very_many_keys(self):
        text = json.dumps({f"k{i}": 1 for i in range(300_000)})
        begun = time.monotonic()
        self.assertError(self.post(text), 400, "invalid_request")
        self.assertLess(time.monotonic() - begun, 20)

    def test_a_body_that_is_too_large(self):
        session = self.create()
        status, _, body = self.server.raw(
            "POST", f"/v1/sessions/{session['id']}/mkdir", b" " * 5_000_000
        )
        self.assertEqual((status, json.loads(body)["error"]["code"]), (413, "payload_too_large"))

    def send_raw(self, data):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as s:
            s.sendall(data)
            s.shutdown(socket.SHUT_WR)
            got = b""
            while chunk := s.recv(65536):
                got += chunk
            return got

    def test_a_body_cut_in_the_middle(self):
        session = self.create()
        head = f"PUT {self.file(session, 'cut')} HTTP/1.1\r\nHost: x\r\n"
        self.send_raw((head + "Content-Length: 1000\r\n\r\nabc").encode())
        self.assertError(
            self.server.json("GET", self.file(session, "cut")), 404, "workspace_read_not_found"
        )
        self.wait_for(
            lambda: self.exec(session, "ls -A")["stdout"] == "", "a temporary file remains"
        )

    def test_lines_that_are_not_http(self):
        for data in (b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01"):
            got = self.send_raw(data)
            self.assertTrue(got == b"" or b" 4" in got.split(b"\r\n")[0], got)

    def test_a_state_that_is_not_one(self):
        for state in ({}, {"type": "unix_local"}, "x", {"type": "tape"}):
            status, answer = self.server.json("POST", "/v1/sessions/resume", {"state": state})
            self.assertEqual(status, 400, answer)
        self.assertNothingMade()

    def test_a_state_cannot_have_foreign_folders_removed(self):
        victim = os.path.join(self.server.folder, "victim")
        os.makedirs(victim)
        session = self.create()
        state = session["state"]
        self.server.json("DELETE", "/v1/sessions/" + session["id"])
        state["manifest"]["root"] = victim
        state["workspace_root_owned"] = True
        status, resumed = self.server.json("POST", "/v1/sessions/resume", {"state": state})
        self.assertEqual(status, 201, resumed)
        self.assertNotEqual(resumed["state"]["manifest"]["root"], victim)
        self.assertEqual(self.server.json("DELETE", "/v1/sessions/" + session["id"])[0], 204)
        self.assertTrue(os.path.isdir(victim))

    def test_10000_connections_that_send_nothing(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        held = []
        try:
            for _ in range(10_000):
                s = socket.socket()
                s.setblocking(False)
                s.connect_ex(("127.0.0.1", self.server.port))
                held.append(s)
            self.assertEqual(self.server.json("GET", "/healthz")[0], 200)
            session = self.create()
            self.assertEqual(self.exec(session, "echo fine")["stdout"], "fine\n")
        finally:
            for s in held:
                s.close()


if __name__ == "__main__":
    unittest.main(verbosity=2)
