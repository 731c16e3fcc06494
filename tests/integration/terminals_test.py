"""Interactive processes as a client of the HTTP API sees them."""

import base64
import json
import os
import time
import unittest

from troupe_server import ServerTest
from websocket import BINARY, CLOSE, TEXT, Refused, WebSocket


class Terminals(ServerTest):
    def open(self, session, command, **more):
        status, update = self.call(
            "POST", session, "/pty", {"command": command, "yield_time_ms": 250, **more}
        )
        self.assertEqual(status, 200, update)
        members = ["exit_code", "original_token_count", "output", "process_id", "wall_s"]
        self.assertEqual(sorted(update), members)
        return update

    def write(self, session, update, chars, **more):
        status, answer = self.call(
            "POST", session, f"/pty/{update['process_id']}/stdin", {"chars": chars, **more}
        )
        self.assertEqual(status, 200, answer)
        return answer

    def read_until(self, session, update, mark, output=""):
        """Polls until the process printed `mark` or ended."""
        deadline = time.monotonic() + 30
        while mark not in output:
            self.assertLess(time.monotonic(), deadline, output)
            answer = self.write(session, update, "")
            output += answer["output"]
            if answer["exit_code"] is not None:
                break
        return output

    # -- start, write, list, end -------------------------------------------------------------------

    def test_a_process_that_ends_is_told_with_its_output(self):
        session = self.create()
        update = self.open(session, "echo out; echo err >&2; exit 3", yield_time_ms=20000)
        self.assertIsNone(update["process_id"])
        self.assertEqual(update["exit_code"], 3)
        self.assertEqual(sorted(update["output"].split()), ["err", "out"])
        self.assertIsNone(update["original_token_count"])
        self.assertLess(update["wall_s"], 20)
        self.assertEqual(self.call("GET", session, "/pty")[1], {"items": []})

    def test_a_terminal_is_typed_into(self):
        session = self.create()
        update = self.open(session, "read line; echo got:$line; read x", tty=True)
        self.assertIsNone(update["exit_code"])
        self.assertTrue(1000 <= update["process_id"] < 100000)
        answer = self.write(session, update, "höllo\n", yield_time_ms=1000)
        output = self.read_until(session, update, "got:höllo", answer["output"])
        self.assertIn("got:höllo", output)
        listed = self.call("GET", session, "/pty")[1]["items"]
        self.assertEqual([x["process_id"] for x in listed], [update["process_id"]])
        self.assertEqual(listed[0]["command"], ["read line; echo got:$line; read x"])
        self.assertTrue(listed[0]["tty"])
        self.assertTrue(listed[0]["running"])
        self.assertTrue(listed[0]["started_at"].endswith("Z"))

    def test_control_c_interrupts(self):
        session = self.create()
        update = self.open(session, "exec sleep 100", tty=True)
        answer = self.write(session, update, "\x03", yield_time_ms=20000)
        self.assertEqual(answer["exit_code"], -2)
        self.assertIsNone(answer["process_id"])

    def test_a_process_without_a_terminal_takes_no_input(self):
        session = self.create()
        update = self.open(session, "sleep 100")
        answer = self.call("POST", session, f"/pty/{update['process_id']}/stdin", {"chars": "x"})
        self.assertError(answer, 409, "conflict")
        self.assertEqual(
            answer[1]["error"]["message"], "stdin is not available for this process"
        )

    def test_output_that_is_too_much_to_keep_is_counted(self):
        session = self.create()
        loud = "head -c 3000000 /dev/zero | tr '\\0' x"
        for limit in ({}, {"max_output_tokens": 50}):
            update = self.open(session, loud, yield_time_ms=30000, **limit)
            self.assertEqual((update["exit_code"], update["original_token_count"]), (0, 750_000))

    def test_environment_folder_shell_and_encoding(self):
        session = self.create()
        self.exec(session, "mkdir sub")
        update = self.open(
            session,
            "printf '\\377'; echo $X; pwd; echo $0",
            env={"X": "value"},
            cwd="sub",
            shell=["bash", "-c"],
            yield_time_ms=20000,
            output_encoding="base64",
        )
        output = base64.b64decode(update["output"])
        self.assertTrue(output.startswith(b"\xffvalue\n"))
        self.assertTrue(output.split()[1].endswith(b"/sub"))
        self.assertTrue(output.endswith(b"bash\n"))
        plain = self.open(session, ["printf", "\\377"], shell=False, yield_time_ms=20000)
        self.assertEqual(plain["output"], "\ufffd")

    def test_output_is_cut_to_tokens(self):
        session = self.create()
        update = self.open(session, "seq 1000", yield_time_ms=20000, max_output_tokens=10)
        self.assertEqual(update["original_token_count"], 974)
        self.assertIn("tokens truncated", update["output"])

    def test_a_timeout_ends_a_process(self):
        session = self.create()
        update = self.open(session, "sleep 100", timeout_s=0.5, yield_time_ms=20000)
        self.assertIsNone(update["process_id"])
        self.assertEqual(update["exit_code"], -9)

    def test_a_size_is_given_and_changed(self):
        session = self.create()
        update = self.open(session, "stty size; read x; stty size", tty=True, rows=30, cols=101)
        self.assertIn("30 101", self.read_until(session, update, "101", update["output"]))
        path = f"/pty/{update['process_id']}/resize"
        self.assertEqual(self.call("POST", session, path, {"rows": 50, "cols": 132})[0], 204)
        answer = self.write(session, update, "\n", yield_time_ms=20000)
        self.assertIn("50 132", answer["output"])
        self.assertEqual(answer["exit_code"], 0)

    def test_without_a_size_a_terminal_has_the_systems(self):
        session = self.create()
        for size, wanted in [({}, "0 0"), ({"rows": 30}, "30 80"), ({"cols": 90}, "24 90")]:
            update = self.open(session, "stty size", tty=True, yield_time_ms=20000, **size)
            self.assertEqual(update["output"], wanted + "\r\n")

    def test_processes_are_ended_one_or_all(self):
        session = self.create()
        # Its own, as `ps` sees every process of the machine.
        nap = f"sleep 100.{os.getpid()}"
        first = self.open(session, nap)
        others = [self.open(session, nap, tty=bool(i)) for i in range(2)]
        path = f"/pty/{first['process_id']}"
        self.assertEqual(self.call("DELETE", session, path)[0], 204)
        self.assertError(self.call("DELETE", session, path), 404, "pty_session_not_found")
        listed = self.call("GET", session, "/pty")[1]["items"]
        self.assertEqual(
            sorted(x["process_id"] for x in listed), sorted(x["process_id"] for x in others)
        )
        self.assertEqual(self.call("DELETE", session, "/pty")[0], 204)
        self.assertEqual(self.call("GET", session, "/pty")[1], {"items": []})
        left = self.exec(session, f"ps -eo args | grep '^{nap}$' | wc -l")
        self.assertEqual(left["stdout"].strip(), "0")

    def test_wrong_requests_are_refused_by_name(self):
        session = self.create()
        for body, field in [
            ({}, "command"),
            ({"command": []}, "command"),
            ({"command": "x", "shell": 1}, "shell"),
            ({"command": "x", "tty": "yes"}, "tty"),
            ({"command": "x", "rows": 0}, "rows"),
            ({"command": "x", "cols": 65536}, "cols"),
            ({"command": "x", "yield_time_ms": -1}, "yield_time_ms"),
            ({"command": "x", "max_output_tokens": "1"}, "max_output_tokens"),
            ({"command": "x", "output_encoding": "latin1"}, "output_encoding"),
            ({"command": "x", "env": {"A=B": "1"}}, "env"),
            ({"command": "x", "stdin": "x"}, "stdin"),
        ]:
            answer = self.call("POST", session, "/pty", body)
            self.assertError(answer, 400, "invalid_request")
            self.assertEqual(answer[1]["error"]["context"]["field"], field)
        update = self.open(session, "sleep 100", tty=True)
        path = f"/pty/{update['process_id']}"
        for call, body in [("stdin", {}), ("resize", {"rows": 1}), ("resize", {"cols": 1})]:
            self.assertError(
                self.call("POST", session, f"{path}/{call}", body), 400, "invalid_request"
            )
        for unknown in ["1", "x", "99999999999999999999", "-1"]:
            for method, call, body in [
                ("POST", "/stdin", {"chars": ""}),
                ("POST", "/resize", {"rows": 1, "cols": 1}),
                ("DELETE", "", None),
                ("GET", "/attach", None),
            ]:
                answer = self.call(method, session, f"/pty/{unknown}{call}", body)
                self.assertError(answer, 404, "pty_session_not_found")
                self.assertEqual(
                    answer[1]["error"]["message"], f"PTY session not found: {unknown}"
                )

    # -- attach ------------------------------------------------------------------------------------

    def attach(self, session, update, query="", **more):
        path = f"/v1/sessions/{session['id']}/pty/{update['process_id']}/attach{query}"
        socket = WebSocket(self.server.port, path, **more)
        self.addCleanup(socket.socket.close)
        return socket

    def collect(self, socket, mark):
        """Output up to `mark` and the cursors told on the way."""
        output, cursors = b"", []
        while mark not in output:
            kind, data = socket.receive()
            if kind == BINARY:
                output += data
            else:
                self.assertEqual(kind, TEXT, data)
                message = json.loads(data)
                self.assertEqual(message["type"], "cursor")
                cursors.append((message["cursor"], len(output)))
        return output, cursors

    def test_attach_carries_bytes_both_ways(self):
        session = self.create()
        update = self.open(session, "stty raw -echo; printf ready; exec cat", tty=True)
        socket = self.attach(session, update)
        output, cursors = self.collect(socket, b"ready")
        self.assertEqual(cursors, [(0, 0)])
        sent = bytes(range(256)) * 4 + b"end."
        socket.send_binary(sent)
        output, cursors = self.collect(socket, b"end.")
        self.assertEqual(output, sent)
        self.assertEqual(cursors, [])

    def test_attach_tells_the_end(self):
        session = self.create()
        update = self.open(session, "read x; echo bye; exit 5", tty=True)
        socket = self.attach(session, update)
        socket.send_binary(b"\n")
        self.collect(socket, b"bye\r\n")
        self.assertEqual(socket.receive(), (TEXT, b'{"type":"exit","exit_code":5}'))
        self.assertEqual(socket.receive(), (CLOSE, (1000, "")))

    def test_attach_resizes(self):
        session = self.create()
        update = self.open(session, "read x; stty size; read x", tty=True)
        socket = self.attach(session, update)
        socket.send_text(json.dumps({"type": "resize", "rows": 44, "cols": 99}))
        socket.send_binary(b"\n")
        self.collect(socket, b"44 99")

    def test_several_watch_and_all_may_type(self):
        session = self.create()
        update = self.open(session, "stty -echo; cat", tty=True)
        sockets = [self.attach(session, update) for _ in range(3)]
        for i, socket in enumerate(sockets):
            mark = f"line {i}\n".encode()
            socket.send_binary(mark)
            for other in sockets:
                self.collect(other, mark.strip())

    def test_who_comes_back_with_a_cursor_misses_nothing(self):
        session = self.create()
        update = self.open(session, "seq 0 19999; read x", tty=True)
        expected = "".join(f"{i}\r\n" for i in range(20000)).encode()
        output = b""
        while len(output) < len(expected):
            socket = self.attach(session, update, f"?cursor={len(output)}")
            kind, data = socket.receive()
            self.assertEqual(kind, TEXT)
            self.assertEqual(json.loads(data), {"type": "cursor", "cursor": len(output)})
            for _ in range(3):
                if len(output) == len(expected):
                    break
                kind, data = socket.receive()
                self.assertEqual(kind, BINARY)
                output += data
            socket.socket.close()
        self.assertEqual(output, expected)

    def test_a_slow_client_is_told_what_it_lost_and_holds_nothing_up(self):
        session = self.create()
        command = (
            "stty raw; head -c 30000000 /dev/zero | tr '\\0' x; touch done; printf end.; read x"
        )
        update = self.open(session, command, tty=True)
        socket = self.attach(session, update, receive_buffer=4096)
        self.wait_for(
            lambda: self.exec(session, "test -e done && echo yes")["stdout"] == "yes\n",
            "the program waits for a reader",
        )
        position, lost = 0, 0
        output = b""
        while not output.endswith(b"end."):
            kind, data = socket.receive()
            if kind == TEXT:
                cursor = json.loads(data)["cursor"]
                lost += cursor - position
                position = cursor
            else:
                position += len(data)
                output = data[-4:] if len(data) >= 4 else (output + data)[-4:]
        self.assertGreater(lost, 0)
        self.assertEqual(position, 30000004)

    def test_a_program_that_does_not_read_holds_only_its_input_up(self):
        session = self.create()
        update = self.open(session, "stty raw -echo; echo ready; sleep 2; exec cat", tty=True)
        socket = self.attach(session, update)
        self.collect(socket, b"ready")
        sent = b"".join(b"%07d\n" % i for i in range(32768))
        for at in range(0, len(sent), 32768):
            socket.send_binary(sent[at : at + 32768])
        output, _ = self.collect(socket, sent[-8:])
        self.assertTrue(output.endswith(sent))

    def test_attach_without_a_terminal_only_watches(self):
        session = self.create()
        update = self.open(session, "echo one; sleep 100")
        socket = self.attach(session, update)
        self.collect(socket, b"one\n")
        socket.send_binary(b"x")
        self.assertEqual(
            socket.receive(), (CLOSE, (1008, "stdin is not available for this process"))
        )

    def test_wrong_messages_end_an_attachment(self):
        session = self.create()
        update = self.open(session, "sleep 100", tty=True)
        for text in [
            "nonsense",
            "{}",
            '{"type":"resize"}',
            '{"type":"exit","exit_code":0}',
            '{"type":"resize","rows":1,"cols":0}',
            '{"type":"resize","rows":1,"cols":1,"x":1}',
        ]:
            socket = self.attach(session, update)
            socket.send_text(text)
            kind, data = socket.receive()
            while kind == TEXT:
                kind, data = socket.receive()
            self.assertEqual((kind, data[0]), (CLOSE, 1008), text)

    def test_wrong_requests_to_attach_are_answered_over_http(self):
        session = self.create()
        update = self.open(session, "sleep 100", tty=True)
        with self.assertRaises(Refused) as caught:
            self.attach(session, update, "?cursor=x")
        self.assertEqual(caught.exception.status, 400)
        self.assertError(
            self.call("GET", session, f"/pty/{update['process_id']}/attach"), 426, "invalid_request"
        )

    def test_attached_clients_hear_of_a_termination_and_of_the_session_s_end(self):
        session = self.create()
        update = self.open(session, "sleep 100", tty=True)
        socket = self.attach(session, update)
        self.assertEqual(socket.receive()[0], TEXT)
        self.call("DELETE", session, f"/pty/{update['process_id']}")
        self.assertEqual(socket.receive(), (TEXT, b'{"type":"exit","exit_code":-9}'))
        update = self.open(session, "sleep 100", tty=True)
        socket = self.attach(session, update)
        self.assertEqual(socket.receive()[0], TEXT)
        self.call("DELETE", session, "")
        kind = TEXT
        while kind != CLOSE:
            kind, _ = socket.receive()


class Keys(ServerTest):
    config = {"api_keys": [{"key": "secret", "tenant": "a"}]}

    def test_attach_needs_a_key(self):
        with self.assertRaises(Refused) as caught:
            WebSocket(self.server.port, "/v1/sessions/x/pty/1000/attach")
        self.assertEqual(caught.exception.status, 401)


if __name__ == "__main__":
    unittest.main()
