"""Restore points, resumes and forks of an isolated session whose workspace lies on layers, over
HTTP. Prints JSON lines; takes TROUPE from the environment, makes and removes all that it needs.

    overlay.py [files] [megabytes] [forks] [folder]
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

FILES = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
MEGABYTES = int(sys.argv[2]) if len(sys.argv) > 2 else 1024
FORKS = int(sys.argv[3]) if len(sys.argv) > 3 else 100
FOLDER = sys.argv[4] if len(sys.argv) > 4 else None

FILL = """
import os, sys
files, size = int(sys.argv[1]), int(sys.argv[2])
noise = os.urandom(1 << 20)
for i in range(files):
    folder = "d%d" % (i // 200)
    if i % 200 == 0:
        os.mkdir(folder)
    with open("%s/f%d" % (folder, i), "wb") as out:
        out.write(b"%d\\n" % i + noise[i % 1000:i % 1000 + size // 2] + bytes(size - size // 2))
"""
CHANGE = "for i in 0 1 2 3 4 5 6 7 8 9; do echo %d >> d$i/f$((i*200+1)); done"
DIGEST = """
import hashlib, os
all = hashlib.sha256()
for folder, dirs, files in os.walk("."):
    dirs.sort()
    for name in sorted(files):
        path = os.path.join(folder, name)
        with open(path, "rb") as f:
            all.update(path.encode() + b"%o" % os.lstat(path).st_mode
                       + hashlib.sha256(f.read()).digest())
print(all.hexdigest())
"""


class Server:
    def __init__(self, folder):
        self.folder = folder
        config = os.path.join(folder, "config.json")
        with open(config, "w", encoding="utf-8") as out:
            json.dump({"default_backend": "isolated"}, out)
        self.process = subprocess.Popen(
            [os.environ["TROUPE"], "serve", "--listen", "127.0.0.1:0", "--config", config,
             "--state-dir", folder + "/state"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)

    def call(self, method, path, body=None):
        self.connection.request(method, "/v1" + path, json.dumps(body or {}))
        answer = self.connection.getresponse()
        text = answer.read()
        value = json.loads(text) if text else None
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {value}")
        return value

    def run(self, session, command):
        done = self.call("POST", f"/sessions/{session}/exec", {"command": command})
        if done["exit_code"] != 0:
            raise RuntimeError(done)
        return done["stdout"]

    def close(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)


def milliseconds(work):
    begin = time.perf_counter()
    out = work()
    return (time.perf_counter() - begin) * 1000, out


def show(name, times, **more):
    times = sorted(times)
    print(json.dumps({"bench": name, "n": len(times), "p50_ms": round(times[len(times) // 2], 2),
                      "min_ms": round(times[0], 2), "max_ms": round(times[-1], 2), **more}),
          flush=True)


def disk(path):
    return int(subprocess.run(["du", "-sk", path], capture_output=True, text=True,
                              check=True).stdout.split()[0])


def measure(server):
    session = server.call("POST", "/sessions", {"snapshot": {"type": "local"}})["id"]
    at = "/sessions/" + session
    server.run(session, ["python3", "-c", FILL, str(FILES), str(MEGABYTES * 1048576 // FILES)])
    first, point = milliseconds(lambda: server.call("POST", at + "/checkpoint", {"name": "first"}))
    show("first_checkpoint", [first], files=FILES, megabytes=MEGABYTES)
    cold, _ = milliseconds(
        lambda: server.call("POST", at + "/rewind", {"snapshot_id": point["id"]}))
    show("rewind_cold_cache", [cold])

    times = []
    stored = []
    for i in range(12):
        server.run(session, CHANGE % i)
        took, last = milliseconds(lambda: server.call("POST", at + "/checkpoint", {"name": "x"}))
        times.append(took)
        stored.append(last["stored_bytes"])
    show("checkpoint_10_changed", times, stored_by_each=(stored[-1] - stored[0]) // 11)

    times = []
    for _ in range(5):
        took, _ = milliseconds(
            lambda: server.call("POST", at + "/rewind", {"snapshot_id": last["id"]}))
        times.append(took)
    show("rewind_warm_cache", times)

    def resume(state):
        server.call("POST", "/sessions/resume", {"state": state})
        server.run(session, ["/bin/true"])

    live = []
    fresh = []
    for i in range(7):
        server.run(session, CHANGE % i)
        state = server.call("POST", at + "/stop")["state"]
        server.call("POST", at + "/shutdown")
        live.append(milliseconds(lambda: resume(state))[0])
        server.call("POST", at + "/stop")
        server.call("DELETE", at + "?keep_snapshot=true")
        fresh.append(milliseconds(lambda: resume(state))[0])
    show("resume_to_first_exec_live_workspace", live)
    show("resume_to_first_exec_warm_cache", fresh)

    server.run(session, CHANGE % 99)
    digest = server.run(session, ["python3", "-c", DIGEST])
    before = disk(server.folder + "/state")
    took, forks = milliseconds(lambda: server.call("POST", at + "/fork", {"count": FORKS}))
    ids = [x["id"] for x in forks["items"]]
    grown = disk(server.folder + "/state") - before
    same = all(server.run(x, ["python3", "-c", DIGEST]) == digest for x in (ids[0], ids[-1]))
    show(f"fork_{FORKS}", [took], kib_each=round(grown / FORKS, 1), same_content=same)
    took, _ = milliseconds(lambda: [server.call("DELETE", "/sessions/" + x) for x in ids])
    show(f"delete_{FORKS}", [took])
    server.call("DELETE", at)


def main():
    folder = tempfile.mkdtemp(prefix="troupe-overlay-", dir=FOLDER)
    try:
        server = Server(folder)
        try:
            measure(server)
        finally:
            server.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
