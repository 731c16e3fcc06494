"""Ports of a session, and what listens on them, through the server."""

import hashlib
import json
import socket
import time
import unittest

from troupe_server import ServerTest
from websocket import BINARY, CLOSE, TEXT, WebSocket

# The program inside: tells what it was asked, or does what the path says.
PROGRAM = r'''
import base64, hashlib, http.server, json, socketserver, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            digest, size = hashlib.sha256(), 0
            while True:
                n = int(self.rfile.readline(), 16)
                data = self.rfile.read(n)
                self.rfile.readline()
                if n == 0:
                    return digest.hexdigest(), size
                digest.update(data)
                size += n
        left = size = int(self.headers.get("Content-Length", 0))
        digest = hashlib.sha256()
        while left:
            data = self.rfile.read(min(left, 65536))
            digest.update(data)
            left -= len(data)
        return digest.hexdigest(), size

    def answer(self):
        path = self.path.split("?")[0]
        if path == "/large":
            self.send_response(200)
            self.send_header("Content-Length", str(50_000_000))
            self.end_headers()
            for _ in range(500):
                self.wfile.write(b"x" * 100_000)
        elif path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for i in range(3):
                self.wfile.write(b"data: %d\n\n" % i)
            self.rfile.read(1)  # until the client is gone
        elif path == "/redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere?a=b")
            self.send_header("Set-Cookie", "a=1; Path=/")
            self.send_header("Set-Cookie", "b=2")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif path == "/echo":
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", accept)
            self.end_headers()
            while True:  # frames of a client with a mask of zeros and at most 64 KiB
                head = self.rfile.read(2)
                size = head[1] & 0x7F
                extended = self.rfile.read(2) if size == 126 else b""
                size = int.from_bytes(extended, "big") if extended else size
                data = self.rfile.read(4 + size)[4:]
                self.wfile.write(bytes([head[0], head[1] & 0x7F]) + extended + data)
                if head[0] == 0x88:
                    break
            self.close_connection = True
        else:
            digest, size = self.body()
            asked = {
                "method": self.command,
                "target": self.path,
                "headers": [[k.lower(), v] for k, v in self.headers.items()],
                "digest": digest,
                "size": size,
            }
            text = json.dumps(asked).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

    def __getattr__(self, name):
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
'''


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Ports(ServerTest):
    def start_program(self):
        port = free_port()
        session = self.create(
            exposed_ports=[port],
            manifest={"entries": {"program.py": {"type": "file", "content": PROGRAM}}},
        )
        status, update = self.call(
            "POST",
            session,
            "/pty",
            {"command": f"exec python3 program.py {port}", "yield_time_ms": 250},
        )
        self.assertEqual((status, update["exit_code"]), (200, None), update)
        path = f"/v1/sessions/{session['id']}/proxy/{port}"
        self.wait_for(
            lambda: self.server.raw("GET", path + "/")[0] == 200, "the program does not listen"
        )
        return session, port, path

    def test_an_exposed_port_is_told(self):
        session = self.create(exposed_ports=[8000, 9000])
        self.assertEqual(
            self.call("GET", session, "/ports/9000"),
            (200, {"host": "127.0.0.1", "port": 9000, "tls": False, "query": ""}),
        )

    def test_a_port_that_is_not_exposed_is_refused(self):
        session = self.create(exposed_ports=[8000])
        for path in ["/ports/8001", "/proxy/8001/"]:
            answer = self.call("GET", session, path)
            self.assertError(answer, 404, "exposed_port_unavailable")
            error = answer[1]["error"]
            self.assertEqual(
                error["message"], "port 8001 is not configured for host exposure"
            )
            self.assertEqual(error["context"]["reason"], "not_configured")
            self.assertEqual(error["context"]["exposed_ports"], [8000])
            self.assertIs(error["retryable"], False)
        for path in ["/ports/x", "/proxy/x/", "/ports/99999999999"]:
            self.assertError(self.call("GET", session, path), 400, "invalid_request")
        for port in ["0", "65536", "-1"]:
            for path in [f"/ports/{port}", f"/proxy/{port}/"]:
                refused = self.call("GET", session, path)
                self.assertError(refused, 404, "exposed_port_unavailable")
                self.assertEqual(refused[1]["error"]["context"]["reason"], "not_configured")
        nowhere = {"id": "00000000-0000-4000-8000-000000000000"}
        for path in ["/ports/8000", "/proxy/8000/"]:
            self.assertError(self.call("GET", nowhere, path), 404, "not_found")

    def test_a_port_where_nobody_listens_is_a_typed_error(self):
        port = free_port()
        session = self.create(exposed_ports=[port])
        answer = self.call("GET", session, f"/proxy/{port}/")
        self.assertError(answer, 404, "exposed_port_unavailable")
        self.assertEqual(answer[1]["error"]["context"]["port"], port)
        self.assertEqual(answer[1]["error"]["context"]["reason"], "connect_failed")

    def test_any_request_arrives_as_it_was_sent(self):
        _, port, path = self.start_program()
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"]:
            for rest, arrives in [
                ("", "/"),
                ("/", "/"),
                ("/a/b%2Fc//?x=%zz&y=a+b", "/a/b%2Fc//?x=%zz&y=a+b"),
                ("?only=query", "/?only=query"),
            ]:
                status, headers, text = self.server.raw(
                    method, path + rest, headers={"X-Own": "1", "Cookie": "c=d"}
                )
                self.assertEqual(status, 200, text)
                self.assertIn("X-Request-Id", headers)
                asked = json.loads(text)
                self.assertEqual((asked["method"], asked["target"]), (method, arrives))
                fields = dict(asked["headers"])
                self.assertEqual(fields["host"], f"127.0.0.1:{port}")
                self.assertEqual(fields["x-own"], "1")
                self.assertEqual(fields["cookie"], "c=d")
                self.assertEqual(fields["x-forwarded-prefix"], path)
                self.assertEqual(fields["x-forwarded-for"], "127.0.0.1")
                self.assertEqual(fields["x-forwarded-proto"], "http")
                self.assertEqual(fields["x-forwarded-host"], f"127.0.0.1:{self.server.port}")
        status, headers, text = self.server.raw("HEAD", path + "/head")
        self.assertEqual((status, text), (200, b""))
        self.assertGreater(int(headers["Content-Length"]), 0)

    def test_bodies_stream_both_ways(self):
        _, _, path = self.start_program()
        size = 50_000_000
        body = b"y" * size
        digest = hashlib.sha256(body).hexdigest()
        asked = json.loads(self.server.raw("POST", path + "/up", body)[2])
        self.assertEqual((asked["digest"], asked["size"]), (digest, size))
        pieces = (body[:100_000] for _ in range(500))
        connection = self.server.connect()
        headers = {"Transfer-Encoding": "chunked"}
        connection.request("PUT", path + "/up", pieces, headers, encode_chunked=True)
        asked = json.loads(connection.getresponse().read())
        connection.close()
        self.assertEqual((asked["digest"], asked["size"]), (digest, size))
        status, headers, text = self.server.raw("GET", path + "/large")
        self.assertEqual((status, headers["Content-Length"], len(text)), (200, str(size), size))

    def test_large_bodies_are_not_kept_in_memory(self):
        _, _, path = self.start_program()
        before = self.peak_kib()
        self.server.raw("POST", path + "/up", b"y" * 100_000_000)
        connection = self.server.connect()
        connection.request("GET", path + "/large")
        answer = connection.getresponse()
        time.sleep(0.5)  # the program would fill a buffer without bounds meanwhile
        while answer.read(1_000_000):
            pass
        connection.close()
        self.assertLess(self.peak_kib() - before, 20_000)

    def peak_kib(self):
        with open(f"/proc/{self.server.process.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1])
        return 0

    def test_events_come_as_they_happen(self):
        _, _, path = self.start_program()
        connection = self.server.connect()
        connection.request("GET", path + "/events")
        answer = connection.getresponse()
        self.assertEqual(answer.headers["Content-Type"], "text/event-stream")
        for i in range(3):
            self.assertEqual(answer.readline(), b"data: %d\n" % i)
            self.assertEqual(answer.readline(), b"\n")
        connection.close()

    def test_redirects_and_cookies_pass_unchanged(self):
        _, _, path = self.start_program()
        status, headers, _ = self.server.raw("GET", path + "/redirect")
        self.assertEqual((status, headers["Location"]), (302, "/elsewhere?a=b"))
        self.assertEqual(headers.get_all("Set-Cookie"), ["a=1; Path=/", "b=2"])

    def test_websockets_go_through(self):
        _, _, path = self.start_program()
        with WebSocket(self.server.port, path + "/echo") as web:
            web.send_text("hello")
            self.assertEqual(web.receive(), (TEXT, b"hello"))
            web.send_binary(bytes(range(256)) * 100)
            self.assertEqual(web.receive(), (BINARY, bytes(range(256)) * 100))
            web.send(CLOSE, b"\x03\xe8")
            self.assertEqual(web.receive(), (CLOSE, (1000, "")))

    def test_the_end_of_the_program_is_seen(self):
        session, port, path = self.start_program()
        with WebSocket(self.server.port, path + "/echo") as web:
            web.send_text("x")
            self.assertEqual(web.receive(), (TEXT, b"x"))
            self.call("DELETE", session, "/pty")
            with self.assertRaises(ConnectionError):
                web.receive()
        answer = self.call("GET", session, f"/proxy/{port}/")
        self.assertError(answer, 404, "exposed_port_unavailable")

    def test_the_server_stops_with_requests_under_way(self):
        _, _, path = self.start_program()
        connection = self.server.connect()
        connection.request("GET", path + "/large")
        connection.getresponse().read(1)
        with WebSocket(self.server.port, path + "/echo") as web:
            web.send_text("x")
            web.receive()
            self.assertEqual(self.server.stop(), 0)
        connection.close()
        self.server.start()


class Keys(ServerTest):
    config = {"api_keys": [{"key": "ka", "tenant": "a"}, {"key": "kb", "tenant": "b"}]}

    def test_the_program_does_not_see_the_key(self):
        a, b = ({"Authorization": "Bearer " + k} for k in ("ka", "kb"))
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            listener.settimeout(30)
            port = listener.getsockname()[1]
            status, session = self.server.json("POST", "/v1/sessions", {"exposed_ports": [port]}, a)
            self.assertEqual(status, 201, session)
            path = f"/v1/sessions/{session['id']}/proxy/{port}/"
            self.assertError(self.server.json("GET", path), 401, "unauthenticated")
            self.assertError(self.server.json("GET", path, headers=b), 404, "not_found")
            connection = self.server.connect()
            connection.request("GET", path, headers=a)
            program, _ = listener.accept()
            program.settimeout(30)
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += program.recv(65536)
            program.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            self.assertEqual(connection.getresponse().read(), b"ok")
            self.assertNotIn(b"authorization", asked.lower())
            program.close()
            connection.close()


if __name__ == "__main__":
    unittest.main()
