"""Where events go besides the journal."""

import http.server
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import threading
import unittest

from troupe_server import TROUPE, Server


def lines_of(path):
    with open(path, encoding="ascii") as lines:
        return [json.loads(line) for line in lines]


class Collector(http.server.BaseHTTPRequestHandler):
    """Keeps what was posted in the server's `events`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.events.append((self.headers["Authorization"], event))
        self.send_response(500 if self.server.refuses(event) else 204)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class EventSinks(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="troupe-sinks-test-")
        self.addCleanup(shutil.rmtree, self.folder)

    def path(self, name):
        return os.path.join(self.folder, name)

    def assertPairs(self, events):
        """Every start has its finish, and numbers count from 1."""
        self.assertEqual([x["seq"] for x in events], list(range(1, len(events) + 1)))
        starts = sorted(x["span_id"] for x in events if x["phase"] == "start")
        finishes = sorted(x["span_id"] for x in events if x["phase"] == "finish")
        self.assertEqual(starts, finishes)

    def collector(self, refuses=lambda event: False):
        """A receiver of events; answers 500 to those that `refuses` is true of."""
        collector = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
        collector.events = []
        collector.refuses = refuses
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        self.addCleanup(collector.server_close)
        self.addCleanup(collector.shutdown)
        return collector

    def session(self, sink, refuses=lambda event: False):
        """A server whose operations wait for an HTTP sink; its session's address."""
        collector = self.collector(refuses)
        endpoint = f"http://127.0.0.1:{collector.server_port}/"
        sinks = [{"type": "http", "endpoint": endpoint, "mode": "sync", "on_error": "raise"} | sink]
        server = Server({"event_sinks": sinks})
        self.addCleanup(server.close)
        status, session = server.json("POST", "/v1/sessions", {})
        self.assertEqual(status, 201, session)
        return server, f"/v1/sessions/{session['id']}", collector

    def test_an_operation_whose_start_a_sink_refuses_does_not_happen(self):
        server, at, _ = self.session({}, lambda x: x["op"] == "exec" and "no" in x["data"]["command"])
        status, answer = server.json(
            "POST", at + "/exec", {"command": ["touch", "no"], "shell": False}
        )
        self.assertEqual((status, answer["error"]["op"]), (500, "exec"), answer)
        self.assertIn("http", answer["error"]["message"])
        status, answer = server.json("GET", at + "/ls?path=.")
        self.assertEqual((status, answer["items"]), (200, []), answer)

    def test_a_patch_and_an_archive_tell_of_their_files(self):
        server, at, collector = self.session({})
        collector.events.clear()
        operations = [
            {"type": "create_file", "path": "a", "diff": "+one\n"},
            {"type": "update_file", "path": "a", "diff": "-one\n+two\n"},
            {"type": "delete_file", "path": "a"},
        ]
        for body, status in (({"operations": operations}, 200), ({"operations": operations[1]}, 404)):
            self.assertEqual(server.json("POST", at + "/apply_patch", body)[0], status)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("x"))
        packed = archive.getvalue()
        self.assertEqual(server.raw("POST", at + "/extract?path=in.tar", packed)[0], 204)
        told = [(x["op"], x["phase"], x["ok"]) for _, x in collector.events if x["phase"] == "finish"]
        done = [("write", "finish", True), ("read", "finish", True), ("write", "finish", True)]
        failed = [("read", "finish", False), ("write", "finish", False)]
        self.assertEqual(told, [*done, *failed, ("write", "finish", True)])
        self.assertEqual(collector.events[-1][1]["data"]["bytes"], len(packed))

    def test_a_finish_that_a_sink_refuses_replaces_the_outcome(self):
        server, at, _ = self.session(
            {}, lambda x: (x["op"], x["phase"]) in (("exec", "finish"), ("write", "finish"))
        )
        status, answer = server.json("POST", at + "/exec", {"command": "touch yes"})
        self.assertEqual(status, 500, answer)
        status, _, text = server.raw("PUT", at + "/file?path=f", b"abc")
        self.assertEqual(status, 500, text)
        status, answer = server.json("GET", at + "/ls?path=.")
        self.assertEqual({os.path.basename(x["path"]) for x in answer["items"]}, {"f", "yes"}, answer)

    def test_a_finish_that_a_sink_refuses_ends_a_stream_with_the_error(self):
        server, at, _ = self.session({}, lambda x: (x["op"], x["phase"]) == ("exec", "finish"))
        status, headers, text = server.raw(
            "POST",
            at + "/exec",
            json.dumps({"command": "echo out"}),
            {"Accept": "text/event-stream"},
        )
        self.assertEqual((status, headers["Content-Type"]), (200, "text/event-stream"), text)
        names = [x.split(b"\n")[0] for x in text.split(b"\n\n") if x]
        self.assertEqual(names, [b"event: stdout", b"event: error"], text)

    def test_an_answer_comes_after_the_sinks_that_are_waited_for(self):
        server, at, collector = self.session(
            {"policy": {"include_exec_output": True, "max_stdout_chars": 3}}
        )
        server.json("POST", at + "/exec", {"command": "echo abcdef; echo e >&2"})
        finish = collector.events[-1][1]
        self.assertEqual((finish["op"], finish["phase"]), ("exec", "finish"))
        self.assertEqual((finish["stdout"], finish["stderr"]), ("abc…", "e\n"))
        server.raw("PUT", at + "/file?path=f", b"abc")
        self.assertEqual(collector.events[-1][1]["data"], {"path": "f", "user": None, "bytes": 3})
        server.json("DELETE", at)
        self.assertPairs([x for _, x in collector.events])

    def test_a_workspace_gets_its_own_events_and_its_snapshot_does_not(self):
        sink = {"type": "workspace_jsonl", "path": "log/e.jsonl", "mode": "sync", "ephemeral": True}
        server = Server({"event_sinks": [sink]})
        self.addCleanup(server.close)
        _, session = server.json("POST", "/v1/sessions", {"snapshot": {"type": "local"}})
        at = f"/v1/sessions/{session['id']}"
        server.json("POST", at + "/exec", {"command": "echo here"})
        status, _, text = server.raw("GET", at + "/file?path=log/e.jsonl")
        self.assertEqual(status, 200, text)
        events = [json.loads(line) for line in text.decode().splitlines()]
        self.assertIn(("exec", "finish"), [(x["op"], x["phase"]) for x in events])
        status, _, archive = server.raw("GET", at + "/workspace")
        self.assertEqual(status, 200)
        self.assertNotIn(b"e.jsonl", archive)

    def test_the_file_in_an_isolated_workspace_is_the_sessions_own(self):
        sink = {"type": "workspace_jsonl", "path": "log/e.jsonl", "mode": "sync"}
        server = Server({"default_backend": "isolated", "event_sinks": [sink]})
        self.addCleanup(server.close)
        status, session = server.json("POST", "/v1/sessions", {})
        self.assertEqual(status, 201, session)
        at = f"/v1/sessions/{session['id']}"
        command = "stat -c %u log log/e.jsonl; id -u; rm -r log && echo gone"
        _, answer = server.json("POST", at + "/exec", {"command": command})
        folder, file, user, gone = answer["stdout"].split()
        self.assertEqual((folder, file, gone), (user, user, "gone"), answer)

    def test_a_run_leaves_a_line_per_event(self):
        with open(self.path("m.json"), "w", encoding="utf-8") as out:
            out.write('{"entries": {}}')
        args = [TROUPE, "run", "m.json", "--events", "logs/e.jsonl", "--", "sh", "-c", "exit 3"]
        done = subprocess.run(args, cwd=self.folder, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 3, done.stderr)
        events = lines_of(self.path("logs/e.jsonl"))
        self.assertPairs(events)
        (finish,) = [x for x in events if (x["op"], x["phase"]) == ("exec", "finish")]
        self.assertEqual((finish["ok"], finish["data"]["exit_code"]), (False, 3))
        self.assertEqual((events[-1]["op"], events[-1]["phase"]), ("shutdown", "finish"))

    def test_a_run_whose_events_cannot_be_written_does_not_begin(self):
        with open(self.path("m.json"), "w", encoding="utf-8") as out:
            out.write('{"entries": {}}')
        args = [TROUPE, "run", "m.json", "--events", self.folder, "--", "touch", "ran"]
        done = subprocess.run(args, cwd=self.folder, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 125)
        self.assertIn(self.folder.encode(), done.stderr)

    def test_a_server_hands_everything_to_its_sinks_before_it_ends(self):
        collector = self.collector()
        config = {
            "event_sinks": [
                {"type": "jsonl", "path": self.path("e.jsonl"), "policy": {"redact_paths": True}},
                {
                    "type": "http",
                    "endpoint": f"http://127.0.0.1:{collector.server_port}/",
                    "headers": {"authorization": "Bearer x"},
                },
            ]
        }
        server = Server(config)
        self.addCleanup(server.close)
        status, session = server.json("POST", "/v1/sessions", {})
        self.assertEqual(status, 201, session)
        at = f"/v1/sessions/{session['id']}"
        for i in range(20):
            server.json("POST", at + "/exec", {"command": f"echo {i} > /dev/null"})
        _, _, metrics = server.raw("GET", "/metrics")
        self.assertIn(b'troupe_sink_delivered_total{sink="1",type="http"} ', metrics)
        self.assertEqual(server.stop(), 0)
        events = lines_of(self.path("e.jsonl"))
        self.assertPairs(events)
        self.assertEqual((events[-1]["op"], events[-1]["phase"]), ("shutdown", "finish"))
        self.assertIn("echo 19 > <path>", json.dumps(events))
        self.assertNotIn("/dev/null", json.dumps(events))
        posted = [x for _, x in collector.events]
        self.assertEqual([x["event_id"] for x in posted], [x["event_id"] for x in events])
        self.assertEqual({x for x, _ in collector.events}, {"Bearer x"})

    def test_a_wrong_configuration_is_refused_by_name(self):
        with open(self.path("c.json"), "w", encoding="utf-8") as out:
            json.dump({"event_sinks": [{"type": "jsonl", "file": "x"}]}, out)
        args = [TROUPE, "serve", "--state-dir", self.path("s"), "--config", self.path("c.json")]
        done = subprocess.run(args, capture_output=True, timeout=60, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"event_sinks[0].path", done.stderr)


if __name__ == "__main__":
    unittest.main()
