"""Between a program and the S3 server of the tests: checks signatures, which s3rver does not, and
spoils answers."""

import hashlib
import hmac
import http.client
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from s3_server import S3Server

BUCKET = "snapshots"


class Objects(S3Server):
    """One bucket, whose objects can be looked at as files."""

    def __init__(self):
        super().__init__(BUCKET)
        self.port = int(self.url.rsplit(":", 1)[1])

    def objects(self, part=""):
        """Key to the file that has its bytes."""
        found = {}
        top = os.path.join(self.folder, BUCKET)
        for folder, _, names in os.walk(top):
            for name in names:
                if name.endswith("._S3rver_object"):
                    path = os.path.join(folder, name)
                    key = os.path.relpath(path, top)[: -len("._S3rver_object")]
                    if part in key:
                        found[key] = path
        return found


def signed(method, path, headers, body, secret):
    """Whether a request has the AWS Signature Version 4 that its content and `secret` give."""
    fields = dict(
        x.strip().split("=", 1)
        for x in headers["Authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(","))
    scope = fields["Credential"].split("/")[1:]
    payload = headers["x-amz-content-sha256"]
    if payload != hashlib.sha256(body).hexdigest():
        return False
    where, _, query = path.partition("?")
    names = fields["SignedHeaders"].split(";")
    request = "\n".join(
        [method, where, "&".join(sorted(query.split("&")))]
        + [f"{name}:{headers[name].strip()}" for name in names]
        + ["", fields["SignedHeaders"], payload])
    text = "\n".join(["AWS4-HMAC-SHA256", headers["X-Amz-Date"], "/".join(scope),
                      hashlib.sha256(request.encode()).hexdigest()])
    key = ("AWS4" + secret).encode()
    for part in [*scope, text]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return fields["Signature"] == key.hex()


class Proxy:
    """Passes requests on; `spoil` may answer one itself or cut its answer."""

    def __init__(self, port):
        self.seen = []  # (method, path) of all requests
        self.spoil = lambda method, path: None
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if not signed(self.command, self.path, self.headers, body, "S3RVER"):
                    refusal = b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
                    self.send_response(403)
                    self.send_header("Content-Length", str(len(refusal)))
                    self.end_headers()
                    self.wfile.write(b"" if self.command == "HEAD" else refusal)
                    return
                proxy.seen.append((self.command, self.path))
                fault = proxy.spoil(self.command, self.path)
                if isinstance(fault, int):
                    self.send_response(fault)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if fault == "close":
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                upstream.putrequest(self.command, self.path, skip_host=True,
                                    skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders(body if body else None)
                answer = upstream.getresponse()
                data = answer.read()
                upstream.close()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") or str(len(data))
                if answer.status != 204:
                    self.send_header("Content-Length", length)
                self.end_headers()
                if fault == "cut":
                    self.wfile.write(data[: len(data) // 2])
                    self.wfile.flush()
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                if fault == "slow":
                    for i in range(0, len(data), 65536):
                        self.wfile.write(data[i : i + 65536])
                        time.sleep(0.01)
                    return
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def count(self, method, part):
        return sum(1 for m, path in self.seen if m == method and part in path)

    def close(self):
        self.server.shutdown()
        self.server.server_close()
