"""What programs in an isolated session do to the calls of the API that work on their files, and what
is told of what they try."""

import io
import json
import os
import shutil
import socket
import tarfile
import tempfile
import unittest

from troupe_server import ServerTest

# Swaps a folder for links that lead out, as fast as it can.
RACER = """
import os
os.makedirs('d/sub', exist_ok=True)
open('d/f', 'w').write('mine')
os.symlink(VICTIM, 'l')
os.symlink('../../../../../..' + VICTIM, 'r')
os.mkfifo('p')
open('up', 'w').close()
while True:
    for x in 'lrp':
        os.rename('d', 'x'); os.rename(x, 'd'); os.rename('d', x); os.rename('x', 'd')
"""

# What a walk of the tree has to survive.
HOSTILE = """
import os, socket
os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
with open('sparse', 'w') as f:
    f.truncate(1 << 34)
os.mkdir('closed'); open('closed/f', 'w').close(); os.chmod('closed', 0)
os.link('sparse', 'second'); os.symlink('/etc/passwd', 'out'); os.symlink('loop', 'loop')
open(b'\\xff\\n\\x1b[2J', 'w').close()
for n in ('.wh.x', '.wh..wh..opq', '.troupe-0000000000000000.tmp'):
    open(n, 'w').close()
top = os.open('.', os.O_RDONLY)
for i in range(300):
    os.mkdir('deep'); os.chdir('deep')
os.fchdir(top)
"""


@unittest.skipUnless(os.geteuid() == 0, "not root")
class Attacks(ServerTest):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="troupe-attacks-")
        cls.events = os.path.join(cls.folder, "events.jsonl")
        cls.config = {
            "default_backend": "isolated",
            "event_sinks": [{"type": "jsonl", "path": cls.events}],
            "isolated": {"pids": 80, "tmp_bytes": 8 << 20},
        }
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.folder)

    def python(self, session, text, **more):
        return self.exec(session, ["/usr/bin/python3", "-c", text], shell=False, **more)

    def in_background(self, session, text):
        """Until the session goes."""
        put = self.server.raw("PUT", self.file(session, "attack.py"), text.encode())
        self.assertIn(put[0], (200, 201, 204), put)
        self.exec(session, "python3 attack.py >/dev/null 2>&1 &")
        self.wait_for(lambda: self.server.raw("GET", self.file(session, "up"))[0] == 200, "up")

    def told(self, session, op, **wanted):
        """The first such event."""
        def find():
            with open(self.events, encoding="utf-8") as lines:
                for line in lines:
                    event = json.loads(line)
                    if (event["op"] == op and event["session_id"] == session["id"]
                            and all(event["data"].get(k) == v for k, v in wanted.items())):
                        return event
            return None
        self.wait_for(find, f"no event of {op} with {wanted}")
        return find()

    def victim(self):
        path = tempfile.mkdtemp(dir=self.folder)
        os.chmod(self.folder, 0o755)
        os.makedirs(path + "/sub")
        for name in ("f", "sub/kept"):
            with open(f"{path}/{name}", "w", encoding="utf-8") as out:
                out.write("untouched")
        for name in ("", "/sub", "/f", "/sub/kept"):
            os.chmod(path + name, 0o777)
        return path

    def assertUntouched(self, path):
        found = {}
        for at, _, names in os.walk(path):
            for name in names:
                with open(os.path.join(at, name), encoding="utf-8") as text:
                    found[os.path.relpath(os.path.join(at, name), path)] = text.read()
        self.assertEqual(found, {"f": "untouched", "sub/kept": "untouched"})

    def test_no_race_of_links_leads_a_call_of_the_api_out(self):
        victim = self.victim()
        session, other = self.create(), self.create()
        self.in_background(session, RACER.replace("VICTIM", repr(victim)))
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as out:
            for name in ("d/f", "d/sub/g"):
                member = tarfile.TarInfo(name)
                member.size = 4
                out.addfile(member, io.BytesIO(b"mine"))
        patch = ("*** Begin Patch\n*** Update File: d/f\n@@\n-untouched\n+mine\n"
                 "*** End Patch\n")
        added = "*** Begin Patch\n*** Add File: d/added\n+mine\n*** End Patch\n"
        at = "/v1/sessions/" + session["id"]
        worked = 0
        for _ in range(150):
            answers = [self.server.raw("PUT", self.file(session, "d/f"), b"mine"),
                       self.server.raw("GET", self.file(session, "d/f")),
                       self.server.raw("POST", at + "/extract?path=a.tar", archive.getvalue()),
                       self.server.raw("DELETE", self.file(session, "d/sub") + "&recursive=true")]
            for text in (patch, added):
                answers.append(self.server.raw("POST", at + "/apply_patch",
                                               json.dumps({"patch": text})))
            self.assertNotEqual(answers[1][2], b"untouched")
            worked += sum(status < 300 for status, _, _ in answers)
            self.assertFalse([x for x in answers if x[0] >= 500 and x[0] not in (503, 504)
                              and b'"code"' not in x[2]])
        self.assertGreater(worked, 0)
        self.assertUntouched(victim)
        self.assertEqual(self.exec(other, "echo alive")["stdout"], "alive\n")

    def test_a_tree_that_changes_under_a_snapshot_harms_nobody(self):
        victim = self.victim()
        session = self.create(snapshot={"type": "local"})
        other = self.create()
        self.python(session, HOSTILE)
        self.in_background(session, RACER.replace("VICTIM", repr(victim)))
        status, point = self.call("POST", session, "/checkpoint", {"name": "hostile"})
        self.assertTrue(status < 300 or "code" in point["error"], point)
        self.assertEqual(self.exec(other, "echo alive")["stdout"], "alive\n")
        if status < 300:
            status, copies = self.call("POST", session, "/fork", {"count": 2})
            self.assertTrue(status < 300 or "code" in copies["error"], copies)
            status, answer = self.call("POST", session, "/rewind", {"snapshot_id": point["id"]})
            self.assertTrue(status < 300 or "code" in answer["error"], answer)
            self.assertEqual(self.exec(session, "echo alive")["stdout"], "alive\n")
        self.assertUntouched(victim)

    def test_refused_calls_and_addresses_are_told(self):
        session = self.create()
        self.python(session, "import ctypes\nctypes.CDLL(None).unshare(0x10000000)")
        event = self.told(session, "sandbox", what="denied", call="unshare")
        self.assertFalse(event["ok"])
        out = self.python(session, "import socket\ntry: socket.socket().connect(('169.254.169.254', 80))\n"
                          "except OSError as e: print(e.errno)")
        self.assertEqual(out["stdout"], "101\n")
        event = self.told(session, "network", verdict="denied", reason="no_route")
        self.assertEqual(event["error"]["code"] if "error" in event else event["error_code"],
                         "network_denied")

    def test_what_is_used_up_is_told_and_is_the_session_s_own(self):
        session, other = self.create(), self.create()
        self.exec(session, "head -c 16M /dev/zero > /tmp/big")
        self.told(session, "sandbox", what="limit", limit="tmp_bytes")
        self.python(session, "import os, time\nos.dup2(os.open('/dev/null', os.O_RDWR), 1)\n"
                    "os.dup2(1, 2)\ntry:\n while os.fork(): pass\n time.sleep(60)\n"
                    "except OSError: pass")
        self.told(session, "sandbox", what="limit", limit="pids")
        self.assertEqual(self.exec(other, "echo alive; head -c 1M /dev/zero | tee /tmp/x | wc -c")
                         ["stdout"], "alive\n1048576\n")

    def test_output_beyond_its_limit_is_told(self):
        session = self.create(limits={"output_bytes": 1000})
        out = self.exec(session, "head -c 64M /dev/zero")
        self.assertTrue(out["truncated"])
        self.assertTrue(self.told(session, "exec", truncated=True)["ok"])

    def test_output_that_nobody_takes_holds_up_nobody(self):
        session, other = self.create(), self.create()
        clients = []
        for _ in range(4):
            client = socket.create_connection(("127.0.0.1", self.server.port))
            self.addCleanup(client.close)
            body = json.dumps({"command": "cat /dev/zero | tr '\\0' x"})
            client.sendall((f"POST /v1/sessions/{session['id']}/exec HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                            "Accept: text/event-stream\r\nContent-Type: application/json\r\n"
                            f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
            self.assertTrue(client.recv(12).startswith(b"HTTP/1.1 200"))
            clients.append(client)
        for _ in range(20):
            self.assertEqual(self.exec(other, "echo alive")["stdout"], "alive\n")
        self.assertEqual(self.exec(session, "echo alive")["stdout"], "alive\n")


if __name__ == "__main__":
    unittest.main()
