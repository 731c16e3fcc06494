"""Git entries of isolated sessions: fetched beside them, by a sandbox that reaches the git host only."""

import http.server
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import threading
import unittest

from troupe_server import ServerTest

HOST = "127.0.0.2"


def backend(folder):
    class Git(http.server.BaseHTTPRequestHandler):
        """What `git http-backend` answers."""

        def do_GET(self):
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            ran = subprocess.run(
                ["git", "http-backend"], input=body, capture_output=True, check=False,
                env={"PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": folder,
                     "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
                     "REQUEST_METHOD": self.command, "REMOTE_ADDR": "127.0.0.1",
                     "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                     "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                     "GIT_PROTOCOL": self.headers.get("Git-Protocol", "")})
            head, _, rest = ran.stdout.partition(b"\r\n\r\n")
            status = 200
            lines = [x.split(": ", 1) for x in head.decode().split("\r\n")]
            for name, value in lines:
                if name == "Status":
                    status = int(value.split()[0])
            self.send_response(status)
            for name, value in lines:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest)

        do_POST = do_GET

        def log_message(self, *_):
            pass
    return Git


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("git") and shutil.which("openssl"),
                     "not root, or no git or openssl")
class IsolatedGit(ServerTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="troupe-git-")
        cls.events = os.path.join(cls.folder, "events.jsonl")
        run = lambda *x: subprocess.run(x, cwd=cls.folder, check=True, capture_output=True)
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
            "/CN=test", "-keyout", "key.pem", "-out", "cert.pem")
        run("git", "init", "-q", "-b", "main", "work")
        os.makedirs(cls.folder + "/work/lib")
        for name, text in (("top", "top\n"), ("lib/inner", "inner\n")):
            with open(f"{cls.folder}/work/{name}", "w", encoding="utf-8") as out:
                out.write(text)
        git = ("git", "-C", "work", "-c", "user.name=t", "-c", "user.email=t@test")
        run(*git, "add", ".")
        run(*git, "commit", "-q", "-m", "m")
        run("git", "clone", "-q", "--bare", "work", "acme/widget.git")
        cls.commit = run("git", "-C", "work", "rev-parse", "HEAD").stdout.decode().strip()
        cls.git = http.server.ThreadingHTTPServer((HOST, 0), backend(cls.folder))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cls.folder + "/cert.pem", cls.folder + "/key.pem")
        cls.git.socket = context.wrap_socket(cls.git.socket, server_side=True)
        threading.Thread(target=cls.git.serve_forever, daemon=True).start()
        cls.config = {"default_backend": "isolated",
                      "event_sinks": [{"type": "jsonl", "path": cls.events}],
                      "isolated": {"egress": {"address_ranges": [HOST + "/32"]}}}
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls.git.shutdown()
        cls.git.server_close()
        shutil.rmtree(cls.folder)

    def manifest(self, **more):
        # The certificate is nobody's; that is between git and the manifest that asks for it.
        return {"environment": {"value": {"GIT_SSL_NO_VERIFY": "1"}},
                "entries": {"repo": {"type": "git_repo", "host": f"{HOST}:{self.git.server_port}",
                                     "repo": "acme/widget", "ref": "main", **more}}}

    def test_a_repository_comes_in_and_belongs_to_the_session_s_user(self):
        session = self.create(manifest=self.manifest())
        seen = self.exec(session, "cat repo/top repo/lib/inner; stat -c %U repo repo/top repo/.git; "
                         "git -C repo status --short && echo clean; echo x > repo/new && echo mine")
        self.assertEqual(seen["stdout"], "top\ninner\nsandbox\nsandbox\nsandbox\nclean\nmine\n", seen)
        self.assertEqual(session["network"], "none")
        folder = f"{self.server.state_dir}/sessions/{session['id']}"
        self.assertEqual([x for x in os.listdir(folder) if x.startswith("git-")], [])

        def told():
            with open(self.events, encoding="utf-8") as lines:
                return [x for x in map(json.loads, lines) if x["op"] == "network"
                        and x["session_id"] == session["id"] and x["data"]["verdict"] == "allowed"]
        self.wait_for(told, "no event of the fetch")

    def test_a_part_of_a_commit_comes_in(self):
        session = self.create(manifest=self.manifest(ref=self.commit, subpath="lib"))
        self.assertEqual(self.exec(session, "ls -A repo; cat repo/inner")["stdout"], "inner\ninner\n")

    def test_what_cannot_be_fetched_is_an_error_of_git(self):
        for more in ({"ref": "nowhere"}, {"repo": "acme/none"}, {"host": "127.0.0.3:443"}):
            status, answer = self.server.json(
                "POST", "/v1/sessions", {"manifest": self.manifest(**more)})
            self.assertEqual((status, answer["error"]["code"]), (422, "git_clone_error"), answer)


if __name__ == "__main__":
    unittest.main()
