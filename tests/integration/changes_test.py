"""Patches, archives and the tools of an agent, as a client sees them."""

import base64
import gzip
import io
import json
import os
import re
import tarfile
import tempfile
import threading
import unittest
import zipfile

from troupe_server import ServerTest

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20


def tar_of(members, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


class ChangesTest(ServerTest):
    def put(self, session, path, data):
        self.assertEqual(self.server.raw("PUT", self.file(session, path), data)[0], 204)

    def get(self, session, path):
        return self.server.raw("GET", self.file(session, path))[2]


class Patches(ChangesTest):
    def test_an_envelope_changes_several_files(self):
        session = self.create()
        self.put(session, "a.txt", b"one\ntwo\nthree\n")
        self.put(session, "old.txt", b"gone\n")
        patch = (
            "*** Begin Patch\n*** Update File: a.txt\n@@\n one\n-two\n+2\n three\n"
            "*** Add File: new/b.txt\n+hello\n*** Delete File: old.txt\n*** End Patch"
        )
        status, answer = self.call("POST", session, "/apply_patch", {"patch": patch})
        self.assertEqual(status, 200, answer)
        self.assertEqual(
            [(x["path"], x["change"]) for x in answer["files"]],
            [("a.txt", "updated"), ("new/b.txt", "created"), ("old.txt", "deleted")],
        )
        self.assertEqual(self.get(session, "a.txt"), b"one\n2\nthree\n")
        self.assertEqual(self.get(session, "new/b.txt"), b"hello")
        self.assertError(self.call("GET", session, "/file?path=old.txt"), 404, "workspace_read_not_found")

    def test_a_patch_is_all_or_nothing_unless_told_otherwise(self):
        session = self.create()
        operations = [
            {"type": "create_file", "path": "a", "diff": "+x\n"},
            {"type": "update_file", "path": "missing", "diff": "@@\n-a\n+b\n"},
        ]
        body = {"operations": operations}
        self.assertError(
            self.call("POST", session, "/apply_patch", body), 404, "apply_patch_file_not_found"
        )
        self.assertEqual(self.call("GET", session, "/ls?path=.")[1]["items"], [])
        body["partial"] = True
        self.assertError(
            self.call("POST", session, "/apply_patch", body), 404, "apply_patch_file_not_found"
        )
        self.assertEqual(self.get(session, "a"), b"x")

    def test_operations_answer_done(self):
        session = self.create()
        operation = {"type": "create_file", "path": "a", "diff": "+x\n"}
        answer = self.call("POST", session, "/apply_patch", {"operations": operation})[1]
        self.assertEqual(answer["result"], "Done!")

    def test_bad_patches_are_refused_by_name(self):
        session = self.create()
        for body, status, code in (
            ({}, 400, "invalid_request"),
            ({"patch": "x", "operations": []}, 400, "invalid_request"),
            ({"patch": "nonsense"}, 400, "apply_patch_invalid_diff"),
            (
                {"operations": {"type": "create_file", "path": "../x", "diff": "+x"}},
                400,
                "apply_patch_invalid_path",
            ),
        ):
            self.assertError(self.call("POST", session, "/apply_patch", body), status, code)

    def test_two_clients_patch_at_once(self):
        session = self.create()
        answers = []

        def work(name):
            operation = {"type": "create_file", "path": name, "diff": "+" + name}
            answers.append(self.call("POST", session, "/apply_patch", {"operations": operation})[0])

        threads = [threading.Thread(target=work, args=(f"f{i}",)) for i in range(8)]
        for x in threads:
            x.start()
        for x in threads:
            x.join()
        self.assertEqual(answers, [200] * 8)
        self.assertEqual(len(self.call("GET", session, "/ls?path=.")[1]["items"]), 8)


class Archives(ChangesTest):
    def extract(self, session, path, data, scheme=""):
        status, _, text = self.server.raw(
            "POST",
            f"/v1/sessions/{session['id']}/extract?path={path}&compression_scheme={scheme}",
            data,
        )
        return status, json.loads(text) if text else None

    def test_tar_and_zip_are_unpacked_beside_the_archive(self):
        session = self.create()
        members = {"a.txt": b"A", "d/b.txt": b"B" * 100_000}
        for name, data, scheme in (
            ("plain/x.tar", tar_of(members), ""),
            ("gz/x.tar.gz", gzip.compress(tar_of(members)), "tar"),
            ("xz/x.bin", tar_of(members, "w:xz"), "tar"),
            ("zip/x.zip", zip_of(members), ""),
        ):
            status, answer = self.extract(session, name, data, scheme)
            self.assertEqual(status, 204, (name, answer))
            folder = name.split("/")[0]
            self.assertEqual(self.get(session, folder + "/a.txt"), b"A")
            self.assertEqual(self.get(session, folder + "/d/b.txt"), members["d/b.txt"])
            self.assertEqual(self.get(session, name), data)

    def test_members_that_would_escape_are_refused_and_nothing_is_unpacked(self):
        session = self.create()
        bad = tar_of({"ok.txt": b"x", "../escape.txt": b"x"})
        answer = self.extract(session, "x.tar", bad)
        self.assertError(answer, 422, "workspace_archive_write_error")
        self.assertEqual(answer[1]["error"]["context"]["member"], "../escape.txt")
        names = [x["path"].rsplit("/", 1)[-1] for x in self.call("GET", session, "/ls?path=.")[1]["items"]]
        self.assertEqual(names, ["x.tar"])

    def test_limits_of_the_session_hold(self):
        session = self.create(
            archive_limits={"max_members": 2, "max_extracted_bytes": 1000, "max_input_bytes": 5000}
        )
        many = self.extract(session, "a.zip", zip_of({str(i): b"" for i in range(3)}))
        self.assertError(many, 422, "workspace_archive_write_error")
        self.assertEqual(many[1]["error"]["context"]["limit"], 2)
        self.assertError(
            self.extract(session, "b.zip", zip_of({"x": b"0" * 2000})),
            422,
            "workspace_archive_write_error",
        )
        self.assertError(
            self.extract(session, "c.tar", tar_of({"x": os.urandom(8000)})),
            422,
            "workspace_archive_write_error",
        )

    def test_an_unknown_scheme_is_refused_before_the_body_is_read(self):
        session = self.create()
        self.assertError(self.extract(session, "x.rar", b"x"), 400, "invalid_compression_scheme")


class Tools(ChangesTest):
    def tool(self, session, name, arguments, query=""):
        status, _, text = self.server.raw(
            "POST",
            f"/v1/sessions/{session['id']}/tools/{name}{query}",
            json.dumps(arguments),
        )
        return status, text.decode()

    def test_a_command_gives_the_text_of_the_contract(self):
        session = self.create()
        status, text = self.tool(session, "exec_command", {"cmd": "echo hello"})
        self.assertEqual(status, 200, text)
        self.assertRegex(
            text,
            r"\AChunk ID: [0-9a-f]{6}\nWall time: \d+\.\d{4} seconds\n"
            r"Process exited with code 0\nOutput:\nhello\n\Z",
        )

    def test_output_is_cut_to_the_tokens_asked_for(self):
        session = self.create()
        text = self.tool(session, "exec_command", {"cmd": "seq 1 200", "max_output_tokens": 20})[1]
        self.assertIn("Original token count: 173\nOutput:\nTotal output lines: 200\n\n1\n", text)
        self.assertIn("166 tokens truncated", text)

    def test_a_session_goes_on_and_takes_input(self):
        session = self.create()
        text = self.tool(
            session, "exec_command", {"cmd": "read x; echo got $x", "tty": True, "yield_time_ms": 250}
        )[1]
        process = int(re.search(r"running with session ID (\d+)", text).group(1))
        text = self.tool(session, "write_stdin", {"session_id": process, "chars": "abc\n"})[1]
        self.assertIn("Process exited with code 0", text)
        self.assertIn("got abc", text)
        text = self.tool(session, "write_stdin", {"session_id": process, "chars": "x"})[1]
        self.assertIn("Process exited with code 1", text)
        self.assertTrue(text.endswith(f"write_stdin failed: PTY session not found: {process}"))

    def test_typing_into_a_process_without_terminal_says_how(self):
        session = self.create()
        text = self.tool(session, "exec_command", {"cmd": "sleep 60", "yield_time_ms": 250})[1]
        process = int(re.search(r"running with session ID (\d+)", text).group(1))
        text = self.tool(session, "write_stdin", {"session_id": process, "chars": "x"})[1]
        self.assertIn("stdin is not available for this process.", text)

    def test_a_working_directory_is_where_relative_paths_start(self):
        session = self.create()
        self.call("POST", session, "/mkdir", {"path": "sub/deep", "parents": True})
        root = session["state"]["manifest"]["root"]
        for arguments, query, place in (
            ({"cmd": "pwd"}, "", ""),
            ({"cmd": "pwd", "workdir": "sub"}, "", "/sub"),
            ({"cmd": "pwd"}, "?cwd=sub", "/sub"),
            ({"cmd": "pwd", "workdir": "deep"}, "?cwd=sub", "/sub/deep"),
            ({"cmd": "pwd", "workdir": root + "/sub"}, "?cwd=sub/deep", "/sub"),
        ):
            text = self.tool(session, "exec_command", arguments, query)[1]
            self.assertTrue(text.endswith(f"Output:\n{root}{place}\n"), text)
        status, text = self.tool(session, "exec_command", {"cmd": "pwd", "workdir": "../x"})
        self.assertEqual(status, 400)
        self.assertIn("manifest path must not escape root: ../x", text)

    def test_a_patch_names_what_it_did(self):
        session = self.create()
        patch = "*** Begin Patch\n*** Add File: b.txt\n+hello\n*** End Patch"
        self.assertEqual(
            self.tool(session, "apply_patch", {"patch": patch}, "?cwd=."), (200, "Created b.txt")
        )

    def test_a_picture_comes_as_a_data_url_and_other_files_by_a_text(self):
        session = self.create()
        self.put(session, "p.png", PNG)
        self.put(session, "fake.png", b"no picture")
        self.put(session, "big.png", PNG + b"\0" * (10 * 1024 * 1024))
        status, text = self.tool(session, "view_image", {"path": "p.png"})
        self.assertEqual(status, 200)
        self.assertIn("data:image/png;base64," + base64.b64encode(PNG).decode(), text)
        for path, message in (
            ("none.png", "image path `none.png` was not found"),
            ("fake.png", "image path `fake.png` is not a supported image file"),
            ("big.png", "image path `big.png` exceeded the allowed size of 10MB"),
        ):
            self.assertIn(message, self.tool(session, "view_image", {"path": path})[1])
        self.exec(session, "mkdir -p src/lib && ln -s /etc out")
        seen = self.call("POST", session, "/tools/view_image?cwd=src/lib", {"path": "../none.png"})
        self.assertIn("image path `../none.png` was not found", seen[1]["text"])
        self.assertIn(
            "unable to read image at `out/passwd`: InvalidManifestPathError",
            self.tool(session, "view_image", {"path": "out/passwd"})[1],
        )

    def test_bad_arguments_and_unknown_tools_are_refused(self):
        session = self.create()
        for name, arguments, status in (
            ("exec_command", {}, 400),
            ("exec_command", {"cmd": ""}, 400),
            ("exec_command", {"cmd": "true", "nonsense": 1}, 400),
            ("write_stdin", {"session_id": "x"}, 400),
            ("view_image", {"path": ""}, 400),
            ("nothing", {}, 404),
        ):
            self.assertEqual(self.tool(session, name, arguments)[0], status, (name, arguments))
        for cwd in ("%20", "/workspace", "src/..", "src%5Clib"):
            refused = self.call("POST", session, f"/tools/exec_command?cwd={cwd}", {"cmd": "true"})
            self.assertError(refused, 400, "invalid_request")
        refused = self.call("POST", session, "/apply_patch", {"operations": [], "cwd": "/"})
        self.assertError(refused, 400, "invalid_request")

    def test_numbers_without_bounds_are_cut_or_unknown(self):
        session = self.create()
        status, text = self.tool(
            session, "exec_command", {"cmd": "echo hi", "yield_time_ms": 99_999_999_999}
        )
        self.assertEqual((status, "hi" in text), (200, True))
        status, text = self.tool(session, "write_stdin", {"session_id": 10**12})
        self.assertIn("write_stdin failed: PTY session not found: 1000000000000", text)


class Roots(ChangesTest):
    def test_a_root_that_was_removed_is_made_again_by_a_write(self):
        session = self.create(manifest={"entries": {"a": {"type": "file", "content": "1"}}})
        root = session["state"]["manifest"]["root"]
        self.exec(session, f"rm -r {root}")
        self.put(session, "d/b", b"2")
        self.assertEqual(self.exec(session, "cat d/b")["stdout"], "2")
        self.exec(session, f"rm -r {root}")
        self.assertEqual(self.call("POST", session, "/start")[0], 200)
        self.assertEqual(self.exec(session, "cat a")["stdout"], "1")

    def test_a_root_that_became_a_file_is_told_of(self):
        session = self.create()
        root = session["state"]["manifest"]["root"]
        self.assertEqual(self.call("POST", session, "/shutdown")[0], 200)
        os.rmdir(root)
        with open(root, "w") as x:
            x.write("no folder")
        refused = self.call("POST", session, "/start")
        self.assertError(refused, 500, "workspace_start_error")
        self.assertIn(root, refused[1]["error"]["message"])


class Conflicts(ChangesTest):
    def test_whose_files_win_is_the_clients_choice(self):
        folder = tempfile.mkdtemp(dir=self.server.folder)
        session = self.create(snapshot={"type": "local", "base_path": folder})
        self.put(session, "a", b"saved")
        self.assertEqual(self.call("POST", session, "/stop")[0], 200)
        self.put(session, "a", b"live")
        refused = self.call("POST", session, "/start", {"on_conflict": "fail"})
        self.assertError(refused, 409, "conflict")
        self.assertEqual(self.get(session, "a"), b"live")
        self.assertEqual(self.call("POST", session, "/start")[0], 200)
        self.assertEqual(self.get(session, "a"), b"saved")
        self.assertEqual(self.call("POST", session, "/stop")[0], 200)
        self.put(session, "a", b"live")
        self.assertEqual(self.call("POST", session, "/start", {"on_conflict": "live_wins"})[0], 200)
        self.assertEqual(self.get(session, "a"), b"live")
        # A running session that is started again keeps its work.
        self.assertEqual(self.call("POST", session, "/start")[0], 200)
        self.assertEqual(self.get(session, "a"), b"live")
        self.assertError(
            self.call("POST", session, "/start", {"on_conflict": "x"}), 400, "invalid_request"
        )


if __name__ == "__main__":
    unittest.main()
