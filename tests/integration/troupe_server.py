"""Starts a real server on a free port for black-box tests, and speaks HTTP to it."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from urllib.parse import quote

TROUPE = os.environ["TROUPE"]


class Server:
    """One server process on a state directory of its own."""

    def __init__(self, config=None, state_dir=None):
        config = {"default_backend": "unix_local", **(config or {})}
        self.folder = tempfile.mkdtemp(prefix="troupe-http-")
        self.state_dir = state_dir or os.path.join(self.folder, "state")
        self.args = [TROUPE, "serve", "--listen", "127.0.0.1:0", "--state-dir", self.state_dir]
        path = os.path.join(self.folder, "config.json")
        with open(path, "w", encoding="utf-8") as out:
            json.dump(config, out)
        self.args += ["--config", path]
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            self.args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        line = self.process.stdout.readline()
        if "listens on" not in line:
            raise RuntimeError("the server did not start: " + line)
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self):
        """A clean stop; gives the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self.process.stdout.close()
        return code

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def close(self):
        # A clean stop: isolated sandboxes outlive a server that is killed.
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def holds_unnamed(self, folder):
        """Whether it writes a file in `folder` that has no name yet."""
        fds = f"/proc/{self.process.pid}/fd/"
        for fd in os.listdir(fds):
            try:
                target = os.readlink(fds + fd)
            except OSError:
                continue
            if target.startswith(folder) and target.endswith("(deleted)"):
                return True
        return False

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def raw(self, method, path, body=None, headers=None):
        """Status, headers and bytes of an answer."""
        connection = self.connect()
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None):
        """Status and parsed body (None if empty)."""
        data = None if body is None else json.dumps(body)
        status, _, text = self.raw(method, path, data, headers)
        return status, json.loads(text) if text else None


class DescribedServer(Server):
    """One whose answers must be as its /openapi.json says."""

    document = None

    def json(self, method, path, body=None, headers=None):
        status, answer = super().json(method, path, body, headers)
        if self.document is None:
            from api_document import ApiDocument  # only here: not every user has its modules

            self.document = ApiDocument(super().json("GET", "/openapi.json")[1])
        self.document.check(method, path, body, status, answer)
        return status, answer


class ServerTest(unittest.TestCase):
    """Tests that share one server."""

    config = None

    @classmethod
    def setUpClass(cls):
        cls.server = DescribedServer(cls.config)

    @classmethod
    def tearDownClass(cls):
        cls.server.close()

    def create(self, **body):
        status, session = self.server.json("POST", "/v1/sessions", body)
        self.assertEqual(status, 201, session)
        self.addCleanup(self.server.json, "DELETE", "/v1/sessions/" + session["id"])
        return session

    def call(self, method, session, path, body=None):
        return self.server.json(method, f"/v1/sessions/{session['id']}{path}", body)

    def exec(self, session, command, **more):
        status, result = self.call("POST", session, "/exec", {"command": command, **more})
        self.assertEqual(status, 200, result)
        return result

    def file(self, session, path):
        return f"/v1/sessions/{session['id']}/file?path={quote(path)}"

    def assertError(self, answer, status, code):
        self.assertEqual(answer[0], status, answer[1])
        self.assertEqual(answer[1]["error"]["code"], code)
        for member in ("message", "op", "retryable", "context", "request_id"):
            self.assertIn(member, answer[1]["error"])

    def wait_for(self, condition, what):
        deadline = time.monotonic() + 20
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.01)
