"""The tools of an agent as a model sees them."""

import json
import re
import unittest
from urllib.parse import quote

from troupe_server import ServerTest


class AgentTools(ServerTest):
    def local(self):
        return self.create(options={"type": "unix_local"})

    def tool(self, session, name, arguments, **query):
        query = "&".join(f"{key}={quote(value)}" for key, value in query.items())
        path = f"/v1/sessions/{session['id']}/tools/{name}?{query}"
        status, _, body = self.server.raw("POST", path, json.dumps(arguments))
        return status, body.decode()

    def text(self, session, name, arguments, **query):
        """What the model reads, without what differs each time."""
        status, text = self.tool(session, name, arguments, **query)
        self.assertEqual(status, 200, text)
        form = r"Chunk ID: [0-9a-f]{6}\nWall time: \d+\.\d{4} seconds\n"
        self.assertRegex(text, "^" + form)
        return re.sub(form, "", text)

    def refused(self, session, name, arguments, field):
        status, text = self.tool(session, name, arguments)
        self.assertEqual(status, 400, text)
        self.assertEqual(json.loads(text)["error"]["context"]["field"], field)

    def test_a_command_is_told_with_its_output(self):
        session = self.local()
        run = lambda **arguments: self.text(session, "exec_command", arguments)
        self.assertEqual(
            run(cmd="echo hi; exit 3"), "Process exited with code 3\nOutput:\nhi\n"
        )
        self.assertEqual(
            run(cmd="seq 1 200", max_output_tokens=1),
            "Process exited with code 0\nOriginal token count: 173\nOutput:\n…1",
        )
        self.assertEqual(
            run(cmd="printf 'a\\377b'"), "Process exited with code 0\nOutput:\na\ufffdb"
        )
        self.assertRegex(
            run(cmd="echo a; read x", tty=True, yield_time_ms=0),
            r"^Process running with session ID \d+\nOutput:\na\r\n$",
        )

    def test_a_command_starts_where_it_is_told(self):
        session = self.local()
        root = session["state"]["manifest"]["root"]
        self.exec(session, "mkdir -p 'a b/c'")
        pwd = lambda workdir, **query: self.text(
            session, "exec_command", {"cmd": "pwd", "workdir": workdir}, **query
        ).splitlines()[-1]
        self.assertEqual(pwd(None), root)
        self.assertEqual(pwd("a b"), root + "/a b")
        self.assertEqual(pwd(" ", cwd="a b"), root + "/a b")
        self.assertEqual(pwd("c", cwd="a b"), root + "/a b/c")
        self.assertEqual(pwd("..", cwd="a b"), root)
        status, text = self.tool(session, "exec_command", {"cmd": "pwd", "workdir": "/etc"})
        self.assertEqual(status, 400)
        self.assertEqual(json.loads(text)["error"]["context"]["reason"], "absolute")

    def test_arguments_of_the_wrong_type_are_refused(self):
        session = self.local()
        for arguments, field in [
            ({}, "cmd"),
            ({"cmd": ""}, "cmd"),
            ({"cmd": None}, "cmd"),
            ({"cmd": 5}, "cmd"),
            ({"cmd": "x", "tty": None}, "tty"),
            ({"cmd": "x", "login": None}, "login"),
            ({"cmd": "x", "yield_time_ms": None}, "yield_time_ms"),
            ({"cmd": "x", "yield_time_ms": -1}, "yield_time_ms"),
            ({"cmd": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ]:
            self.refused(session, "exec_command", arguments, field)
        for arguments, field in [
            ({}, "session_id"),
            ({"session_id": None}, "session_id"),
            ({"session_id": "1"}, "session_id"),
            ({"session_id": 1, "chars": None}, "chars"),
            ({"session_id": 1, "yield_time_ms": None}, "yield_time_ms"),
        ]:
            self.refused(session, "write_stdin", arguments, field)
        nothing = {"cmd": ":", "workdir": None, "shell": None, "max_output_tokens": None}
        self.assertIn("code 0", self.text(session, "exec_command", nothing))

    def test_what_cannot_be_typed_into_is_told_like_an_end(self):
        session = self.local()
        gone = self.text(session, "write_stdin", {"session_id": 2**40, "chars": "x"})
        self.assertEqual(
            gone,
            "Process exited with code 1\nOutput:\n"
            f"write_stdin failed: PTY session not found: {2**40}",
        )
        text = self.text(session, "exec_command", {"cmd": "sleep 60", "yield_time_ms": 0})
        number = int(re.search(r"session ID (\d+)", text)[1])
        answer = self.text(session, "write_stdin", {"session_id": number, "chars": "x"})
        self.assertIn("code 1\nOutput:\nstdin is not available for this process.", answer)
        self.assertIn("tty=true", answer)

    def test_a_patch_with_a_bad_path_does_nothing_and_one_with_a_bad_diff_stops_there(self):
        session = self.local()
        patch = lambda *lines: self.tool(
            session,
            "apply_patch",
            {"patch": "\n".join(["*** Begin Patch", *lines, "*** End Patch"])},
        )
        names = lambda: self.exec(session, "ls")["stdout"].split()
        self.assertEqual(
            patch("*** Add File: a", "+x", "*** Add File: d/b", "+y"),
            (200, "Created a\nCreated d/b"),
        )
        moved = ["*** Update File: a", "*** Move to: c", "@@", "-x", "+z"]
        self.assertEqual(patch(*moved), (200, "Updated a\nMoved a to c"))
        self.assertEqual(patch("*** Delete File: c", "*** Add File: ../e", "+x")[0], 400)
        self.assertEqual(names(), ["c", "d"])
        self.assertEqual(patch("*** Add File: e", "+x", "*** Update File: c", "@@", "-q")[0], 400)
        self.assertEqual(names(), ["c", "d", "e"])

    def test_a_picture_is_shown_or_said_why_not(self):
        session = self.local()
        self.exec(session, "mkdir d; printf 'GIF89a' > d/g; echo text > t; printf ' <SVG' > s")
        view = lambda path, **query: json.loads(
            self.tool(session, "view_image", {"path": path}, **query)[1]
        )
        self.assertEqual(view("g", cwd="d")["image_url"], "data:image/gif;base64,R0lGODlh")
        self.assertEqual(view("s")["image_url"], "data:image/svg+xml;base64,IDxTVkc=")
        self.assertEqual(view("../t", cwd="d")["text"],
                         "image path `../t` is not a supported image file")
        self.assertEqual(view("no")["text"], "image path `no` was not found")
        self.assertEqual(view("d")["text"],
                         "unable to read image at `d`: WorkspaceArchiveReadError")
        self.assertEqual(view("../x")["error"]["context"]["reason"], "escape_root")


if __name__ == "__main__":
    unittest.main()
