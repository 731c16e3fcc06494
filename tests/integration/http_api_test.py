"""The HTTP API as a client sees it."""

import base64
import itertools
import json
import os
import socket
import subprocess
import tempfile
import time
import unittest

from troupe_server import Server, ServerTest


def processes_with(marker):
    found = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True, check=False)
    return len(found.stdout.split())


class Sessions(ServerTest):
    def test_a_created_session_runs_and_carries_its_state(self):
        session = self.create(labels={"team": "a"})
        self.assertEqual(session["status"], "running")
        self.assertEqual(session["backend"], "unix_local")
        self.assertEqual(session["state"]["session_id"], session["id"])
        self.assertTrue(session["state"]["workspace_root_ready"])
        self.assertFalse(session["walls"][0]["enforced"])

    def test_a_manifest_is_materialised_in_one_round_trip(self):
        entries = {f"d{i % 7}/f{i}": {"type": "file", "content": str(i)} for i in range(300)}
        session = self.create(manifest={"entries": entries})
        listed = self.exec(session, "find . -type f | wc -l")
        self.assertEqual(listed["stdout"].strip(), "300")
        status, text = self.server.raw("GET", f"/v1/sessions/{session['id']}/describe")[::2]
        self.assertEqual(status, 200)
        self.assertIn("d0/", text.decode())

    def test_the_life_of_a_session(self):
        folder = tempfile.mkdtemp(dir=self.server.folder)
        session = self.create(start=False, snapshot={"type": "local", "base_path": folder})
        self.assertEqual(session["status"], "created")
        self.assertEqual(self.call("GET", session, "/running")[1], {"running": False})
        self.assertEqual(self.call("POST", session, "/start")[1]["status"], "running")
        self.assertEqual(self.call("GET", session, "/running")[1], {"running": True})
        self.exec(session, "echo 1 > a")
        stopped = self.call("POST", session, "/stop")[1]
        self.assertEqual(stopped["status"], "stopped")
        self.assertIsNotNone(stopped["state"]["snapshot_fingerprint"])
        names = [x for x in os.listdir(folder) if not x.startswith(".")]
        self.assertEqual(names, [session["id"] + ".tar"])
        self.assertEqual(self.call("POST", session, "/shutdown")[1]["status"], "stopped")
        self.assertEqual(self.call("GET", session, "/running")[1], {"running": False})
        status, _ = self.server.json("DELETE", f"/v1/sessions/{session['id']}?keep_snapshot=true")
        self.assertEqual(status, 204)
        self.assertError(self.call("GET", session, ""), 404, "not_found")
        resumed = self.server.json("POST", "/v1/sessions/resume", {"state": stopped["state"]})
        self.assertEqual(resumed[0], 201, resumed[1])
        self.assertEqual(resumed[1]["id"], session["id"])
        self.assertEqual(self.exec(session, "cat a")["stdout"], "1\n")

    def test_a_session_that_is_shut_down_takes_no_work(self):
        session = self.create()
        self.assertEqual(self.call("POST", session, "/stop")[0], 200)
        self.assertEqual(self.exec(session, "echo up")["stdout"], "up\n")
        self.assertEqual(self.call("POST", session, "/shutdown")[0], 200)
        for method, path, body in (
            ("POST", "/exec", {"command": "true"}),
            ("POST", "/pty", {"command": "true"}),
            ("GET", "/ls?path=.", None),
            ("POST", "/mkdir", {"path": "d"}),
            ("POST", "/apply_patch", {"patch": "*** Begin Patch\n*** End Patch\n"}),
        ):
            self.assertError(self.call(method, session, path, body), 409, "conflict")
        status, _, _ = self.server.raw("PUT", self.file(session, "f"), b"x")
        self.assertEqual(status, 409)
        self.assertEqual(self.call("POST", session, "/start")[0], 200)
        self.assertEqual(self.exec(session, "ls")["stdout"], "")

    def test_a_file_is_seen_whole_or_not_at_all(self):
        session = self.create()
        with socket.create_connection(("127.0.0.1", self.server.port)) as client:
            client.sendall(f"PUT {self.file(session, 'f')} HTTP/1.1\r\nHost: x\r\n"
                           "Content-Length: 200000\r\n\r\n".encode())
            client.sendall(b"x" * 100000)
            root = session["state"]["manifest"]["root"]
            self.wait_for(lambda: self.server.holds_unnamed(root), "the upload begins")
            self.assertEqual(self.exec(session, "ls -A")["stdout"], "")
            status, point = self.call("POST", session, "/checkpoint", {})
            self.assertEqual((status, point["files"]), (201, 0), point)
            client.sendall(b"x" * 100000)
            self.assertIn(b" 204 ", client.recv(4096))
        self.assertEqual(self.exec(session, "wc -c < f; stat -c %a f")["stdout"], "200000\n644\n")

    def test_an_idempotency_key_makes_one_session(self):
        headers = {"Idempotency-Key": "k1"}
        first = self.server.json("POST", "/v1/sessions", {}, headers)
        second = self.server.json("POST", "/v1/sessions", {}, headers)
        self.assertEqual((first[0], second[0]), (201, 200))
        self.assertEqual(first[1]["id"], second[1]["id"])
        self.server.json("DELETE", "/v1/sessions/" + first[1]["id"])

    def test_a_list_is_paged_and_narrowed(self):
        ids = [self.create(labels={"l": "paged"}, start=False)["id"] for _ in range(5)]
        seen, cursor = [], ""
        while True:
            status, page = self.server.json(
                "GET", f"/v1/sessions?label=l:paged&limit=2&cursor={cursor}"
            )
            self.assertEqual(status, 200, page)
            seen += [x["id"] for x in page["items"]]
            cursor = page["next_cursor"]
            if cursor is None:
                break
        self.assertEqual(sorted(seen), sorted(ids))
        status, page = self.server.json("GET", "/v1/sessions?label=l:paged&status=running")
        self.assertEqual(page["items"], [])
        for node, count in (("local", 5), ("another", 0)):
            status, page = self.server.json("GET", "/v1/sessions?label=l:paged&node=" + node)
            self.assertEqual([x["node"] for x in page["items"]], [node] * count)

    def test_a_manifest_can_be_applied_to_a_live_session(self):
        session = self.create()
        manifest = {"entries": {"late": {"type": "file", "content": "x"}}}
        status, made = self.call("POST", session, "/manifest", {"manifest": manifest})
        self.assertEqual((status, made), (200, {"files": []}))
        self.assertEqual(self.exec(session, "cat late")["stdout"], "x")

    def test_a_skipped_path_stays_out_of_the_snapshot(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "mkdir logs; echo x > logs/x; echo k > keep")
        self.assertEqual(
            self.call("POST", session, "/persist_skip", {"path": "logs/"}), (200, {"path": "logs"})
        )
        stopped = self.call("POST", session, "/stop")[1]
        self.server.json("DELETE", f"/v1/sessions/{session['id']}?keep_snapshot=true")
        self.server.json("POST", "/v1/sessions/resume", {"state": stopped["state"]})
        self.assertEqual(self.exec(session, "ls")["stdout"], "keep\n")

    def test_snapshots_are_listed_and_deleted(self):
        session = self.create(snapshot={"type": "local"})
        self.exec(session, "head -c 5000 /dev/zero > f")
        self.call("POST", session, "/stop")
        status, info = self.server.json("GET", "/v1/snapshots/" + session["id"])
        self.assertEqual(status, 200, info)
        self.assertEqual(info["session"], session["id"])
        self.assertEqual(info["size_bytes"], 5000)
        self.assertLess(info["stored_bytes"], 5000)
        listed = self.server.json("GET", "/v1/snapshots")[1]["items"]
        self.assertIn(session["id"], [x["id"] for x in listed])
        self.assertEqual(self.server.json("DELETE", "/v1/snapshots/" + session["id"])[0], 204)
        self.assertError(
            self.server.json("GET", "/v1/snapshots/" + session["id"]), 404, "not_found"
        )


class Commands(ServerTest):
    def test_output_and_exit_code(self):
        session = self.create()
        result = self.exec(session, "echo out; echo err >&2; exit 3")
        self.assertEqual(result["exit_code"], 3)
        self.assertEqual((result["stdout"], result["stderr"]), ("out\n", "err\n"))
        self.assertFalse(result["truncated"])

    def test_shell_off_prefix_stdin_env_and_cwd(self):
        session = self.create()
        self.exec(session, "mkdir sub")
        plain = self.exec(session, ["printf", "%s|", "a b", "$HOME"], shell=False)
        self.assertEqual(plain["stdout"], "a b|$HOME|")
        self.assertEqual(
            self.exec(session, "echo $0", shell=["bash", "-c"])["stdout"], "bash\n"
        )
        fed = self.exec(session, "cat; echo $X; pwd", stdin="in\n", env={"X": "1"}, cwd="sub")
        self.assertEqual(fed["stdout"].split()[:2], ["in", "1"])
        self.assertTrue(fed["stdout"].strip().endswith("/sub"))

    def test_bytes_that_are_not_utf8(self):
        session = self.create()
        self.assertEqual(self.exec(session, "printf '\\377x'")["stdout"], "\ufffdx")
        encoded = self.exec(session, "printf '\\377x'", output_encoding="base64")["stdout"]
        self.assertEqual(base64.b64decode(encoded), b"\xffx")

    def test_a_timeout_is_an_error_with_the_output_so_far(self):
        session = self.create()
        answer = self.call(
            "POST", session, "/exec", {"command": "echo early; sleep 60", "timeout_s": 0.3}
        )
        self.assertError(answer, 504, "exec_timeout")
        self.assertEqual(answer[1]["error"]["context"]["stdout"], "early\n")
        self.assertEqual(answer[1]["error"]["context"]["timeout_s"], 0.3)

    def test_a_background_child_does_not_hold_the_answer(self):
        session = self.create()
        begun = time.monotonic()
        self.assertEqual(self.exec(session, "sleep 30 & echo hi")["stdout"], "hi\n")
        self.assertLess(time.monotonic() - begun, 20)

    def test_output_beyond_the_limit_is_cut_and_said(self):
        session = self.create(limits={"output_bytes": 1000})
        result = self.exec(session, "head -c 100000 /dev/zero | tr '\\0' x")
        self.assertEqual(result["stdout"], "x" * 1000)
        self.assertTrue(result["truncated"])

    def test_a_client_that_leaves_takes_its_command_along(self):
        session = self.create()
        connection = self.server.connect()
        body = json.dumps({"command": "echo > begun; setsid sleep 8181; true"})
        connection.request("POST", f"/v1/sessions/{session['id']}/exec", body)
        self.exec(session, "until test -e begun; do :; done")
        self.assertGreater(processes_with("sleep 8181"), 0)
        connection.close()
        self.wait_for(lambda: processes_with("sleep 8181") == 0, "the command goes on")

    def stream(self, session, body):
        connection = self.server.connect()
        connection.request(
            "POST",
            f"/v1/sessions/{session['id']}/exec",
            json.dumps(body),
            {"Accept": "text/event-stream"},
        )
        answer = connection.getresponse()
        self.assertEqual(answer.status, 200)
        return connection, answer

    def read_events(self, answer):
        name = None
        for line in answer:
            line = line.decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])

    def test_a_streamed_command_sends_output_as_it_comes(self):
        session = self.create()
        body = {"command": "echo one; until test -e go; do sleep 0.01; done; echo two >&2; exit 4"}
        connection, answer = self.stream(session, body)
        events = self.read_events(answer)
        self.assertEqual(next(events), ("stdout", {"data": "one\n", "seq": 1}))
        self.exec(session, "touch go")
        self.assertEqual(next(events), ("stderr", {"data": "two\n", "seq": 2}))
        name, data = next(events)
        self.assertEqual((name, data["exit_code"]), ("exit", 4))
        self.assertEqual(list(events), [])
        connection.close()

    def test_a_stream_gives_every_byte_and_whole_characters(self):
        session = self.create()
        text = "é€𝄞" * 100000
        self.server.raw("PUT", self.file(session, "t"), text.encode())
        connection, answer = self.stream(session, {"command": "cat t"})
        got = "".join(d["data"] for n, d in self.read_events(answer) if n == "stdout")
        self.assertEqual(got, text)
        connection.close()

    def test_a_reader_that_stops_reading_holds_the_command_and_not_the_memory(self):
        session = self.create()
        connection, answer = self.stream(
            session, {"command": "head -c 200000000 /dev/zero; touch finished"}
        )
        answer.read(1000)
        other = self.create()
        self.assertEqual(self.exec(other, "echo fine")["stdout"], "fine\n")
        self.assertEqual(self.exec(session, "ls")["stdout"], "")
        with open(f"/proc/{self.server.process.pid}/status", encoding="utf-8") as status:
            rss = next(int(x.split()[1]) for x in status if x.startswith("VmRSS"))
        self.assertLess(rss, 400 * 1024)
        connection.close()

    def test_a_streamed_error_ends_the_stream(self):
        session = self.create()
        connection, answer = self.stream(session, {"command": ["no-such-program"], "shell": False})
        events = list(self.read_events(answer))
        self.assertEqual([n for n, _ in events], ["error"])
        self.assertEqual(events[0][1]["code"], "exec_transport_error")
        connection.close()


class Files(ServerTest):
    def test_a_file_goes_in_and_comes_out(self):
        session = self.create()
        data = os.urandom(3_000_000)
        status, _, _ = self.server.raw("PUT", self.file(session, "d/big") + "&mode=600", data)
        self.assertEqual(status, 204)
        status, headers, got = self.server.raw("GET", self.file(session, "d/big"))
        self.assertEqual((status, got == data), (200, True))
        self.assertEqual(headers["Content-Length"], str(len(data)))
        self.assertTrue(headers["ETag"])
        self.assertEqual(self.exec(session, "stat -c %a d/big")["stdout"], "600\n")

    def test_ranges(self):
        session = self.create()
        self.server.raw("PUT", self.file(session, "f"), b"0123456789")
        for header, want, body in (
            ("bytes=2-4", 206, b"234"),
            ("bytes=7-", 206, b"789"),
            ("bytes=-3", 206, b"789"),
            ("bytes=8-99999999999999999999", 206, b"89"),
            ("bytes=a", 200, b"0123456789"),
        ):
            status, headers, got = self.server.raw(
                "GET", self.file(session, "f"), headers={"Range": header}
            )
            self.assertEqual((status, got), (want, body), header)
        answer = self.server.json("GET", self.file(session, "f"), headers={"Range": "bytes=20-"})
        self.assertError(answer, 416, "invalid_request")
        status, _, _ = self.server.raw("HEAD", self.file(session, "f"),
                                       headers={"Range": "bytes=2-4"})
        self.assertEqual(status, 200)
        for tag, want in ((headers["ETag"], 206), ('"another"', 200)):
            status, _, _ = self.server.raw("GET", self.file(session, "f"),
                                           headers={"Range": "bytes=2-4", "If-Range": tag})
            self.assertEqual(status, want, tag)

    def test_a_file_that_the_client_has_is_not_sent_again(self):
        session = self.create()
        self.server.raw("PUT", self.file(session, "f"), b"x" * 2_000_000)
        get = lambda tags: self.server.raw("GET", self.file(session, "f"),
                                           headers={"If-None-Match": tags})
        tag = get('"another"')[1]["ETag"]
        for tags in (tag, "W/" + tag, '"another" , ' + tag, "*"):
            status, headers, body = get(tags)
            self.assertEqual((status, headers["ETag"], body), (304, tag, b""), tags)
        self.server.raw("PUT", self.file(session, "f"), b"y")
        self.assertEqual(get(tag)[::2], (200, b"y"))

    def test_folders(self):
        session = self.create()
        self.assertEqual(self.call("POST", session, "/mkdir", {"path": "a/b", "parents": True})[0], 204)
        self.server.raw("PUT", self.file(session, "a/f"), b"x")
        status, listed = self.call("GET", session, "/ls?path=a")
        self.assertEqual(status, 200)
        self.assertEqual([(os.path.basename(x["path"]), x["kind"]) for x in listed["items"]],
                         [("b", "directory"), ("f", "file")])
        self.assertEqual(listed["items"][1]["permissions"], "-rw-r--r--")
        self.assertEqual(self.server.json("DELETE", self.file(session, "a") + "&recursive=true")[0], 204)
        self.assertError(
            self.server.json("GET", self.file(session, "a/f")), 404, "workspace_read_not_found"
        )

    def test_paths_that_leave_the_workspace_are_refused(self):
        session = self.create()
        self.exec(session, "ln -s / out; ln -s ../../.. up")
        for path in ("../x", "/etc/passwd", "out/etc/passwd", "up/etc/passwd"):
            self.assertError(
                self.server.json("GET", self.file(session, path)), 400, "invalid_manifest_path"
            )
            self.assertError(
                self.server.json("PUT", self.file(session, path), "x"),
                400,
                "invalid_manifest_path",
            )

    def test_a_fifo_holds_nobody(self):
        session = self.create()
        self.exec(session, "mkfifo p")
        self.assertError(
            self.server.json("GET", self.file(session, "p")), 422, "workspace_archive_read_error"
        )

    def test_the_workspace_as_a_tar(self):
        session = self.create()
        self.exec(session, "mkdir d; echo x > d/f; ln -s f d/l")
        status, headers, tar = self.server.raw("GET", f"/v1/sessions/{session['id']}/workspace")
        self.assertEqual((status, headers["Content-Type"]), (200, "application/x-tar"))
        other = self.create()
        status, _, text = self.server.raw("PUT", f"/v1/sessions/{other['id']}/workspace", tar)
        self.assertEqual(status, 204, text)
        self.assertEqual(self.exec(other, "cat d/l")["stdout"], "x\n")


class Operation(ServerTest):
    def test_health_metrics_nodes_and_description(self):
        self.assertEqual(self.server.json("GET", "/healthz")[0], 200)
        self.assertEqual(self.server.json("GET", "/readyz")[0], 200)
        session = self.create()
        self.exec(session, "true")
        metrics = self.server.raw("GET", "/metrics")[2].decode()
        self.assertRegex(metrics, r"troupe_commands_started_total [1-9]")
        node = self.server.json("GET", "/v1/nodes")[1]["items"][0]
        self.assertEqual(node["status"], "up")
        self.assertGreaterEqual(node["sessions"], 1)
        described = self.server.json("GET", "/openapi.json")[1]
        self.assertEqual(described["openapi"], "3.1.0")
        self.assertIn("/v1/sessions/{id}/exec", described["paths"])

    def test_request_ids_are_echoed_or_made(self):
        _, headers, _ = self.server.raw("GET", "/healthz", headers={"X-Request-Id": "mine"})
        self.assertEqual(headers["X-Request-Id"], "mine")
        _, headers, _ = self.server.raw("GET", "/healthz")
        self.assertEqual(len(headers["X-Request-Id"]), 36)

    def read_stream(self, path, count, headers=None):
        connection = self.server.connect()
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        events, event_id = [], None
        for line in answer:
            line = line.decode()
            if line.startswith("id: "):
                event_id = line[4:].strip()
            if line.startswith("data: "):
                events.append((event_id, json.loads(line[6:])))
                if len(events) == count:
                    break
        connection.close()
        return events

    def test_a_session_has_a_trail_that_can_be_taken_up_again(self):
        session = self.create()
        self.exec(session, "exit 7")
        path = f"/v1/sessions/{session['id']}/events"
        events = self.read_stream(path, 4)
        self.assertEqual(
            [(e["op"], e["phase"]) for _, e in events],
            [("start", "start"), ("start", "finish"), ("exec", "start"), ("exec", "finish")],
        )
        self.assertEqual([e["seq"] for _, e in events], [1, 2, 3, 4])
        last = events[3][1]
        self.assertEqual((last["ok"], last["data"]["exit_code"]), (False, 7))
        again = self.read_stream(path, 2, {"Last-Event-ID": events[1][0]})
        self.assertEqual([e["seq"] for _, e in again], [3, 4])

    def test_a_session_s_trail_ends_with_it(self):
        session = self.create()
        path = f"/v1/sessions/{session['id']}"
        connection = self.server.connect()
        connection.request("GET", path + "/events")
        trail = connection.getresponse()
        self.assertEqual(trail.readline()[:4], b"id: ")
        self.server.json("DELETE", path)
        self.assertIn(b'"seq":2', trail.read())
        connection.close()

    def test_a_session_that_lived_too_long_does_not_start_again(self):
        session = self.create(max_lifetime_s=0.1)
        path = f"/v1/sessions/{session['id']}"
        self.wait_for(
            lambda: self.server.json("GET", path)[1]["status"] == "stopped", "it lives on"
        )
        answer = self.server.json("POST", path + "/start")
        self.assertError(answer, 409, "conflict")
        self.assertEqual(answer[1]["error"]["context"]["max_lifetime_s"], 0.1)
        self.assertEqual(self.server.json("GET", path)[1]["status"], "stopped")

    def test_web_pages_of_other_origins_are_refused_without_keys(self):
        for host, origin, status in (
            (f"127.0.0.1:{self.server.port}", "http://evil.example", 401),
            (f"127.0.0.1:{self.server.port}", "null", 401),
            (f"evil.example:{self.server.port}", f"http://evil.example:{self.server.port}", 401),
            (f"localhost:{self.server.port}", f"http://localhost:{self.server.port}", 200),
            # A page whose name leads here since it was loaded says no origin when it reads.
            ("evil.example", None, 401),
            ("127.0.0.1.evil.example", None, 401),
            ("127.0.0.1.evil.example", "http://127.0.0.1.evil.example", 401),
            ("[::1]:80", None, 200),
            ("a.localhost", None, 200),
            ("127.0.0.1", None, 200),
        ):
            headers = {"Host": host, **({"Origin": origin} if origin else {})}
            status_here, answer, _ = self.server.raw("GET", "/v1/sessions", headers=headers)
            self.assertEqual(status_here, status, headers)
            self.assertEqual(answer["WWW-Authenticate"], "Bearer" if status == 401 else None)


class Tenants(ServerTest):
    config = {"api_keys": [{"key": "ka", "tenant": "a"}, {"key": "kb", "tenant": "b"}]}

    def test_a_tenant_sees_only_its_own(self):
        a, b = ({"Authorization": "Bearer " + k} for k in ("ka", "kb"))
        status, session = self.server.json("POST", "/v1/sessions", {}, a)
        self.assertEqual((status, session["tenant"]), (201, "a"))
        path = "/v1/sessions/" + session["id"]
        self.assertEqual(self.server.json("GET", path, headers=a)[0], 200)
        lower = {"Authorization": "bearer ka"}
        self.assertEqual(self.server.json("GET", path, headers=lower)[0], 200)
        self.assertError(self.server.json("GET", path, headers=b), 404, "not_found")
        self.assertError(
            self.server.json("POST", path + "/exec", {"command": "id"}, b), 404, "not_found"
        )
        self.assertEqual(self.server.json("GET", "/v1/sessions", headers=b)[1]["items"], [])
        self.assertEqual(self.server.json("DELETE", path, headers=b)[0], 204)
        self.assertEqual(self.server.json("GET", path, headers=a)[0], 200)
        self.assertEqual(self.server.json("DELETE", path, headers=a)[0], 204)

    def test_without_a_key_there_is_nothing_but_health(self):
        self.assertError(self.server.json("GET", "/v1/sessions"), 401, "unauthenticated")
        wrong = {"Authorization": "Bearer nope"}
        self.assertError(
            self.server.json("GET", "/v1/sessions", headers=wrong), 401, "unauthenticated"
        )
        self.assertEqual(self.server.json("GET", "/healthz")[0], 200)

    def test_a_tenant_chooses_among_the_operator_s_backends(self):
        a = {"Authorization": "Bearer ka"}
        body = {"options": {"type": "isolated"}}
        self.assertError(self.server.json("POST", "/v1/sessions", body, a), 400,
                         "backend_unavailable")
        status, session = self.server.json("POST", "/v1/sessions", {}, a)
        state = {**session["state"], "type": "isolated"}
        self.server.json("DELETE", "/v1/sessions/" + session["id"], headers=a)
        self.assertEqual(
            self.server.json("POST", "/v1/sessions/resume", {"state": state}, a)[1]["error"]["code"],
            "backend_unavailable")
        server = Server({**self.config, "backends": ["isolated"]})
        self.addCleanup(server.close)
        status, answer = server.json("POST", "/v1/sessions", {**body, "start": False}, a)
        self.assertEqual((status, answer.get("backend")), (201, "isolated"), answer)

    def test_a_snapshot_must_be_where_the_server_allows(self):
        headers = {"Authorization": "Bearer ka"}
        body = {"snapshot": {"type": "local", "base_path": "/etc"}}
        answer = self.server.json("POST", "/v1/sessions", body, headers)
        self.assertError(answer, 400, "sandbox_config_invalid")


class LocalSources(ServerTest):
    folder = tempfile.mkdtemp(prefix="troupe-src-")
    config = {"local_source_roots": [folder]}

    def test_only_what_is_below_the_configured_roots_is_read(self):
        os.makedirs(self.folder + "/tree/empty", exist_ok=True)
        with open(self.folder + "/tree/f", "w", encoding="utf-8") as out:
            out.write("x")
        session = self.create(
            manifest={"entries": {"t": {"type": "local_dir", "src": self.folder + "/tree"}}}
        )
        self.assertEqual(self.exec(session, "find t | sort")["stdout"], "t\nt/empty\nt/f\n")
        body = {"manifest": {"entries": {"p": {"type": "local_file", "src": "/etc/passwd"}}}}
        answer = self.server.json("POST", "/v1/sessions", body)
        self.assertError(answer, 422, "local_file_read_error")
        os.symlink("/etc/passwd", self.folder + "/link")
        body["manifest"]["entries"]["p"]["src"] = "link"
        answer = self.server.json("POST", "/v1/sessions", body)
        self.assertError(answer, 422, "local_file_read_error")


class Process(unittest.TestCase):
    def trail(self, server, path, count):
        """The first events of a session."""
        connection = server.connect()
        connection.request("GET", path + "/events")
        lines = (line.decode() for line in connection.getresponse())
        data = (json.loads(line[6:]) for line in lines if line.startswith("data: "))
        events = list(itertools.islice(data, count))
        connection.close()
        return events

    def test_a_clean_stop_brings_sessions_into_snapshots_and_they_resume(self):
        server = Server()
        try:
            _, session = server.json("POST", "/v1/sessions", {"snapshot": {"type": "local"}})
            path = "/v1/sessions/" + session["id"]
            server.json("POST", path + "/exec", {"command": "echo kept > f"})
            self.assertEqual(server.stop(), 0)
            snapshots = os.listdir(server.state_dir + "/snapshots/default")
            self.assertEqual([x for x in snapshots if x[0] != "."], [session["id"] + ".tar"])
            server.start()
            status, again = server.json("GET", path)
            self.assertEqual((status, again["status"]), (200, "stopped"))
            server.json("POST", path + "/start")
            answer = server.json("POST", path + "/exec", {"command": "cat f"})
            self.assertEqual(answer[1]["stdout"], "kept\n")
            # Of start, exec, close and what belongs to it, and after that of another process.
            events = self.trail(server, path, 10)
            self.assertEqual([x["seq"] for x in events], list(range(1, 11)))
            self.assertGreater(sum(x["op"] == "start" for x in events), 2)
            server.stop()
        finally:
            server.close()

    def test_a_write_cut_by_kill_9_leaves_nothing(self):
        server = Server()
        try:
            _, session = server.json("POST", "/v1/sessions", {})
            root = session["state"]["manifest"]["root"]
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(
                    f"PUT /v1/sessions/{session['id']}/file?path=d/f HTTP/1.1\r\nHost: x\r\n"
                    "Content-Length: 1000000\r\n\r\n".encode()
                    + b"x" * 500_000
                )
                deadline = time.monotonic() + 20
                while not server.holds_unnamed(root):
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.01)
                self.assertEqual(os.listdir(root + "/d"), [])
                server.kill()
            os.mkdir(os.path.join(os.path.dirname(root), ".workspace.troupe-0123456789abcdef"))
            server.start()
            status, answer = server.json("POST", f"/v1/sessions/{session['id']}/start")
            self.assertEqual(status, 200, answer)
            self.assertEqual(os.listdir(root + "/d"), [])
            self.assertEqual(os.listdir(os.path.dirname(root)), ["workspace"])
        finally:
            server.close()

    def test_after_kill_9_nothing_acknowledged_is_lost_and_nothing_lives_on(self):
        server = Server()
        try:
            _, session = server.json("POST", "/v1/sessions", {})
            path = "/v1/sessions/" + session["id"]
            server.raw("PUT", path + "/file?path=f", b"acknowledged")
            server.json(
                "POST", path + "/exec", {"command": "setsid sleep 9191 >/dev/null 2>&1 &"}
            )
            server.kill()
            server.start()

            def is_running():
                answer = server.json("GET", path + "/running")
                return answer == (200, {"running": True})

            deadline = time.monotonic() + 20
            while not is_running():
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.01)
            self.assertEqual(server.raw("GET", path + "/file?path=f")[2], b"acknowledged")
            self.assertEqual(processes_with("sleep 9191"), 0)
            server.json("DELETE", path)
            self.assertEqual(os.listdir(server.state_dir + "/sessions"), [])
        finally:
            server.close()

    def test_it_binds_nothing_but_loopback_without_keys(self):
        done = subprocess.run(
            [os.environ["TROUPE"], "serve", "--listen", "0.0.0.0:0", "--state-dir", "/nowhere"],
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 1)
        self.assertIn("loopback", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
