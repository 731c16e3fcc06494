"""What an isolated session with an allow list reaches, and what is told of it."""

import http.server
import json
import os
import shutil
import tempfile
import threading
import unittest

from troupe_server import ServerTest

BODY = b"from behind the proxy\n"


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def do_POST(self):
        got = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(got)))
        self.end_headers()
        self.wfile.write(got)

    def log_message(self, *_):
        pass


def serve(address):
    server = http.server.ThreadingHTTPServer((address, 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("curl"), "not root, or no curl")
class Network(ServerTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="troupe-network-")
        cls.events = os.path.join(cls.folder, "events.jsonl")
        cls.config = {
            "default_backend": "isolated",
            "event_sinks": [{"type": "jsonl", "path": cls.events}],
            "isolated": {"egress": {
                "address_ranges": ["127.0.0.2/32"],
                "names": ["127.0.0.2:*", "localhost:*", "*.test:80", "169.254.169.254:80"],
            }},
        }
        cls.allowed = serve("127.0.0.2")
        cls.hidden = serve("127.0.0.1")
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        for x in (cls.allowed, cls.hidden):
            x.shutdown()
            x.server_close()
        shutil.rmtree(cls.folder)

    def open(self, *allow):
        return self.create(network={"allow": list(allow)})

    def curl(self, session, arguments):
        # Without exceptions from the proxy, so that also the loopback is asked of it.
        return self.exec(session, f"curl -sS --noproxy '' --max-time 20 {arguments}")

    def decisions(self, session):
        found = []
        with open(self.events, encoding="utf-8") as lines:
            for line in lines:
                event = json.loads(line)
                if event["op"] == "network" and event["session_id"] == session["id"]:
                    found.append(event)
        return found

    def decision(self, session, **wanted):
        def find():
            return [x for x in self.decisions(session)
                    if all(x["data"].get(k) == v for k, v in wanted.items())]
        self.wait_for(find, f"no event of {wanted} in {self.decisions(session)}")
        return find()[0]

    def test_what_is_listed_is_reached_by_plain_http_and_by_a_tunnel(self):
        port = self.allowed.server_port
        session = self.open(f"127.0.0.2:{port}")
        self.assertEqual(session["network"], {"allow": [f"127.0.0.2:{port}"]})
        wall = [x for x in session["walls"] if x["name"] == "network"][0]
        self.assertTrue(wall["enforced"])
        self.assertIn(f"127.0.0.2:{port}", wall["note"])
        for option in ("", "--proxytunnel"):
            got = self.curl(session, f"{option} http://127.0.0.2:{port}/")
            self.assertEqual(got["stdout"], BODY.decode(), got)
        sent = self.exec(session, f"head -c 3000000 /dev/zero | tr '\\0' x > f; "
                         f"curl -sS --data-binary @f http://127.0.0.2:{port}/ | cmp - f && echo same")
        self.assertEqual(sent["stdout"], "same\n", sent)
        event = self.decision(session, host="127.0.0.2", port=port, verdict="allowed")
        self.assertTrue(event["ok"])
        self.assertEqual(event["data"]["address"], "127.0.0.2")

    def test_other_names_and_ports_are_refused_and_told(self):
        session = self.open("a.test:80")
        for url, host, port in (("http://b.test/", "b.test", 80), ("http://a.test:81/", "a.test", 81)):
            got = self.curl(session, f"-w '%{{http_code}}' {url}")
            self.assertTrue(got["stdout"].endswith("403"), got)
            event = self.decision(session, host=host, port=port)
            self.assertEqual((event["ok"], event["data"]["reason"]), (False, "not_in_list"))
            self.assertEqual(event["error"]["code"] if "error" in event else event["error_code"],
                             "network_denied")

    def test_a_listed_name_that_means_the_host_itself_is_refused(self):
        port = self.hidden.server_port
        session = self.open(f"localhost:{port}", "169.254.169.254:80")
        got = self.curl(session, f"http://localhost:{port}/")
        self.assertIn("loopback", got["stdout"])
        self.assertNotIn(BODY.decode(), got["stdout"])
        got = self.curl(session, "http://169.254.169.254/latest/meta-data/")
        self.assertIn("metadata", got["stdout"])
        self.assertEqual(self.decision(session, host="localhost")["data"]["verdict"], "denied")
        self.assertEqual(self.decision(session, host="169.254.169.254")["data"]["reason"], "metadata")

    def test_nothing_is_reached_beside_the_proxy(self):
        port = self.allowed.server_port
        session = self.open(f"127.0.0.2:{port}")
        got = self.exec(session, f"curl -sS --noproxy '*' http://127.0.0.2:{port}/")
        self.assertNotEqual(got["exit_code"], 0, got)
        names = self.exec(session, "tail -n +3 /proc/net/dev | cut -d: -f1")["stdout"].split()
        self.assertEqual(names, ["lo"])
        plain = self.create()
        self.assertEqual(plain["network"], "none")
        got = self.exec(plain, f"echo $http_proxy; curl -sS http://127.0.0.2:{port}/")
        self.assertNotEqual(got["exit_code"], 0, got)
        self.assertEqual(got["stdout"], "\n")

    def test_the_operator_bounds_what_may_be_listed(self):
        for allow in (["example.com:443"], ["*:80"], ["*.test:443"]):
            answer = self.server.json("POST", "/v1/sessions", {"network": {"allow": allow}})
            self.assertError(answer, 400, "sandbox_config_invalid")
            self.assertEqual(answer[1]["error"]["context"]["entry"], allow[0])
        for allow in (["no port"], ["x:0"], "x:1", [1]):
            answer = self.server.json("POST", "/v1/sessions", {"network": {"allow": allow}})
            self.assertEqual(answer[0], 400, answer)

    def test_a_session_s_connections_do_not_keep_another_s_out(self):
        port = self.allowed.server_port
        greedy, other = self.open(f"127.0.0.2:{port}"), self.open(f"127.0.0.2:{port}")
        self.exec(greedy, "python3 -c '\n"
                  "import socket,time,os\n"
                  "l=[]\n"
                  "for i in range(150):\n"
                  " s=socket.socket(); s.settimeout(1)\n"
                  " try: s.connect((\"127.0.0.1\",3128)); s.send(b\"GET \"); l.append(s)\n"
                  " except OSError: break\n"
                  "open(\"up\",\"w\").close()\n"
                  "time.sleep(30)' >/dev/null 2>&1 &")
        self.wait_for(lambda: self.server.raw("GET", self.file(greedy, "up"))[0] == 200, "up")
        got = self.curl(other, f"http://127.0.0.2:{port}/")
        self.assertEqual(got["stdout"], BODY.decode(), got)


if __name__ == "__main__":
    unittest.main()
