"""What is replayed over HTTP, against a server of its own: lives of sessions, and the tools of an
agent."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from urllib.parse import quote, urlencode

import areas
import trees


def text_of(data):
    """Bytes as the vectors write them."""
    value = trees.value_of(data)
    return value.get("text", value)


class Life:
    """One case of `lifecycle`: its session, and what else its steps made."""

    def __init__(self, server, place):
        self.server = server
        self.place = place
        self.id = None
        self.root = place.root
        self.saved = None
        self.at_stop = None
        self.late = None  # what a resume, which starts too, answered
        self.terminals = {}

    # -- calls -------------------------------------------------------------------------------------

    def raw(self, method, path, body=None):
        status, _, data = self.server.raw(method, f"/v1/sessions/{self.id}{path}", body)
        if status >= 400:
            return {"error": json.loads(data)["error"]}
        return {"ok": data}

    def call(self, method, where, body=None, **query):
        if query:
            where += "?" + urlencode({k: v for k, v in query.items() if v is not None})
        answer = self.raw(method, where, None if body is None else json.dumps(body))
        if "ok" in answer:
            answer["ok"] = json.loads(answer["ok"]) if answer["ok"] else None
        return answer

    def plain(self, method, where, body=None, **query):
        """A call whose answer does not matter unless it fails."""
        answer = self.call(method, where, body, **query)
        return {"ok": None} if "ok" in answer else answer

    def run(self, step):
        step = dict(step)
        within = step.pop("within_s", None)
        began = time.monotonic()
        result = getattr(self, "do_" + step.pop("op"))(**step)
        took = time.monotonic() - began
        if within:
            result["timely"] = within[0] <= took <= within[1]
        return result

    def close(self):
        if self.id:
            self.call("DELETE", "")

    # -- the life of the session -------------------------------------------------------------------

    def do_create(self, manifest=None, snapshot=None, ports=None, default_root=False):
        manifest = dict(manifest or {})
        if not default_root:
            manifest.setdefault("root", self.place.root)
        body = {"manifest": manifest, "start": False, "options": {"type": "unix_local"}}
        if snapshot == "noop":
            body["snapshot"] = {"type": "noop"}
        elif snapshot:
            named = snapshot if isinstance(snapshot, dict) else {}
            body["snapshot"] = {"type": "local", "base_path": self.place.names["{SNAP}"], **named}
        if ports:
            body["exposed_ports"] = ports
        status, session = self.server.json("POST", "/v1/sessions", body)
        if status >= 400:
            return session
        self.take(session)
        return {"ok": None}

    def take(self, session):
        self.id = session["id"]
        self.root = session["state"]["manifest"]["root"]
        self.place.names["{SESSIONHEX}"] = self.id.replace("-", "")
        self.place.names["{SESSION}"] = self.id

    def do_start(self):
        if self.late is not None:
            late, self.late = self.late, None
            return late
        return self.plain("POST", "/start")

    def do_stop(self):
        # What the snapshot has to hold; deviations.py asks for it.
        if os.path.isdir(self.root):
            self.at_stop = trees.read(self.root)
        return self.plain("POST", "/stop")

    def do_shutdown(self):
        return self.plain("POST", "/shutdown")

    def do_aclose(self):
        return self.plain("POST", "/close")

    def do_delete(self):
        return self.plain("DELETE", "", keep_snapshot="true")

    def do_save(self):
        answer = self.call("GET", "")
        if "ok" not in answer:
            return answer
        self.saved = answer["ok"]["state"]
        return {"ok": None}

    def do_resume(self):
        status, session = self.server.json("POST", "/v1/sessions/resume", {"state": self.saved})
        self.late = session if status >= 400 else {"ok": None}
        return {"ok": None}

    def do_running(self):
        return {"ok": self.call("GET", "/running").get("ok", {}).get("running", False)}

    def do_state(self):
        answer = self.call("GET", "")
        if "ok" not in answer:
            return answer
        state = answer["ok"]["state"]
        return {
            "ok": {
                "type": state["type"],
                "root_is_default": state["manifest"]["root"] == "/workspace",
                "root_owned": state["workspace_root_owned"],
                "root_ready": state["workspace_root_ready"],
                "ports": state["exposed_ports"],
                "has_fingerprint": state["snapshot_fingerprint"] is not None,
                "fingerprint_version": state["snapshot_fingerprint_version"],
                "snapshot": state["snapshot"]["type"],
            }
        }

    def do_port(self, port):
        answer = self.call("GET", f"/ports/{port}")
        if "ok" in answer:
            answer["ok"].pop("query", None)
        return answer

    def do_pre_stop_hook(self, write=None, fail=False):
        script = "exit 1" if fail else f"printf hook > {write}"
        return self.plain("POST", "/pre_stop_hooks", {"command": ["sh", "-c", script]})

    def do_skip(self, path):
        answer = self.call("POST", "/persist_skip", {"path": path})
        return {"ok": answer["ok"]["path"]} if "ok" in answer else answer

    def do_describe(self, **query):
        answer = self.raw("GET", "/describe?" + urlencode(query))
        return {"ok": answer["ok"].decode()} if "ok" in answer else answer

    def do_apply_manifest(self, **step):
        answer = self.call("POST", "/manifest", step)
        return {"ok": answer["ok"]["files"]} if "ok" in answer else answer

    def do_parallel(self, steps):
        results = [None] * len(steps)

        def one(i):
            results[i] = self.run(steps[i])

        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(steps))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"ok": results}

    def do_sleep(self, **step):
        time.sleep(next(iter(step.values())))
        return {"ok": None}

    # -- commands ----------------------------------------------------------------------------------

    def do_exec(self, command, shell=True, timeout=None, user=None, digest=False, **more):
        body = {"command": command, "shell": shell, "output_encoding": "base64", **more}
        if timeout is not None:
            body["timeout_s"] = timeout
        if user is not None:
            body["user"] = user
        answer = self.call("POST", "/exec", body)
        if "ok" not in answer:
            return answer
        out, err = (base64.b64decode(answer["ok"][name]) for name in ("stdout", "stderr"))
        code = answer["ok"]["exit_code"]
        if digest:
            return {"ok": {"exit_code": code, "stdout_bytes": len(out), "stderr_bytes": len(err)}}
        return {"ok": {"exit_code": code, "stdout": text_of(out), "stderr": text_of(err)}}

    def update(self, name, answer):
        if "ok" not in answer:
            return answer
        found = answer["ok"]
        if found["process_id"] is not None:
            self.terminals[name] = found["process_id"]
            self.place.names[f"{{PTY:{name}}}"] = str(found["process_id"])
        return {
            "ok": {
                "running": found["process_id"] is not None,
                "exit_code": found["exit_code"],
                "output": found["output"],
                "original_token_count": found["original_token_count"],
            }
        }

    def wait_options(self, yield_s, tokens):
        options = {}
        if yield_s is not None:
            options["yield_time_ms"] = int(yield_s * 1000)
        if tokens is not None:
            options["max_output_tokens"] = tokens
        return options

    def do_pty_start(self, command, name=None, yield_s=None, tokens=None, **more):
        # The driver of the vectors waits a quarter of a second where a step does not say.
        body = {"command": command, **more, **self.wait_options(yield_s or 0.25, tokens)}
        return self.update(name, self.call("POST", "/pty", body))

    def do_pty_write(self, name=None, chars="", yield_s=None, tokens=None, **more):
        terminal = self.terminals.get(name, more.get("id", 0))
        body = {"chars": chars, **self.wait_options(yield_s, tokens)}
        return self.update(name, self.call("POST", f"/pty/{terminal}/stdin", body))

    def do_pty_terminate(self):
        return self.plain("DELETE", "/pty")

    # -- files -------------------------------------------------------------------------------------

    def do_read(self, path, user=None):
        query = urlencode({"path": path, **({"user": user} if user else {})}, quote_via=quote)
        answer = self.raw("GET", "/file?" + query)
        return {"ok": text_of(answer["ok"])} if "ok" in answer else answer

    def do_write(self, path, content, user=None, text_stream=False):
        if text_stream:
            raise areas.NotApplicable("a body is always bytes")
        query = urlencode({"path": path, **({"user": user} if user else {})}, quote_via=quote)
        answer = self.raw("PUT", "/file?" + query, trees.content(content))
        return {"ok": None} if "ok" in answer else answer

    def do_mkdir(self, path, parents=False, user=None):
        body = {"path": path, "parents": parents, **({"user": user} if user else {})}
        return self.plain("POST", "/mkdir", body)

    def do_rm(self, path, recursive=False, user=None):
        return self.plain(
            "DELETE", "/file", path=path, recursive="true" if recursive else "false", user=user
        )

    def do_ls(self, path, user=None):
        answer = self.call("GET", "/ls", path=path, user=user)
        if "ok" in answer:
            keep = ("path", "kind", "permissions", "size")
            items = [{key: item[key] for key in keep} for item in answer["ok"]["items"]]
            for item in items:
                if item["kind"] == "directory":
                    del item["size"]
            answer["ok"] = sorted(items, key=lambda item: item["path"])
        return answer

    def do_apply_patch(self, operations):
        # Like the reference; what Troupe does by itself is all or nothing.
        body = {"operations": operations, "partial": True}
        answer = self.call("POST", "/apply_patch", body)
        return {"ok": "Done!"} if "ok" in answer else answer

    def do_extract(self, path, scheme=None, limits=None, **step):
        if limits:
            raise areas.NotApplicable("a session's limits are given at its create")
        try:
            data = areas.archive_of({"dest": path, "scheme": scheme, **step})
        except KeyError:
            raise areas.NotApplicable("an archive that the step does not hold") from None
        query = urlencode({"path": path, **({"compression_scheme": scheme} if scheme else {})})
        answer = self.raw("POST", "/extract?" + query, data)
        return {"ok": None} if "ok" in answer else answer

    # -- what others do to the disk, and what is there ---------------------------------------------

    def do_tree(self):
        return {"ok": trees.read(self.root) if os.path.isdir(self.root) else "missing"}

    def do_outside(self):
        return {"ok": trees.read(self.place.names["{OUT}"])}

    def do_snapshots(self):
        folder = self.place.names["{SNAP}"]
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return {"ok": sorted(x for x in names if x[0] != ".")}

    def do_host_write(self, path, content):
        trees.make(self.place.root, {path: content})
        return {"ok": None}

    def do_host_source(self, files):
        trees.make(self.place.names["{SRC}"], files)
        return {"ok": None}

    def do_host_remove(self, path):
        file = os.path.join(self.place.root, path)
        if os.path.isdir(file) and not os.path.islink(file):
            shutil.rmtree(file)
        else:
            os.unlink(file)
        return {"ok": None}

    def do_host_mkdir(self, path):
        os.makedirs(os.path.join(self.place.root, path), exist_ok=True)
        return {"ok": None}

    def do_host_chmod(self, path, mode):
        os.chmod(os.path.join(self.place.root, path), int(mode, 8))
        return {"ok": None}

    def do_host_remove_snapshot(self):
        os.unlink(self.snapshot())
        return {"ok": None}

    do_host_snapshot_remove = do_host_remove_snapshot

    def do_host_remove_root(self):
        shutil.rmtree(self.place.root)
        return {"ok": None}

    def do_host_root_file(self):
        shutil.rmtree(self.place.root)
        with open(self.place.root, "wb"):
            return {"ok": None}

    def snapshot(self):
        folder = self.place.names["{SNAP}"]
        return os.path.join(folder, self.saved["snapshot"]["id"] + ".tar")

    def do_host_snapshot(self, content):
        with open(self.snapshot(), "wb") as out:
            out.write(trees.content(content))
        return {"ok": None}

    def do_host_snapshot_cut(self, keep):
        os.truncate(self.snapshot(), min(keep, os.path.getsize(self.snapshot()) // 2))
        return {"ok": None}

    def do_host_git(self, path, files):
        work = os.path.join(self.place.base, "git")
        trees.make(work, files)
        bare = os.path.join(self.place.names["{SRC}"], path)
        name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
        for command in (
            ["git", *name, "init", "-q", work],
            ["git", "-C", work, *name, "add", "-A"],
            ["git", "-C", work, *name, "commit", "-q", "-m", "one"],
            ["git", "clone", "-q", "--bare", work, bare],
        ):
            environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
            subprocess.run(command, check=True, env=environment)
        shutil.rmtree(work)
        return {"ok": None}


def lifecycle(case, server, place):
    life = Life(server, place)
    results = []
    try:
        for step in case["input"]["steps"]:
            name = step["op"]
            if not hasattr(life, "do_" + name):
                raise areas.NotApplicable(f"a step {name} that the vectors do not describe")
            results.append(place.take(life.run(place.put(step))))
            wanted = case["expect"]["ok"][len(results) - 1]
            if wanted == {"ok": None} and "ok" in results[-1] and name == "apply_manifest":
                results[-1] = {"ok": None}
    except TypeError as fault:
        if "unexpected keyword" in str(fault):
            raise areas.NotApplicable(str(fault)) from None
        raise
    finally:
        life.close()
    case["at_stop"] = place.take(life.at_stop)
    return {"ok": results}


running = re.compile(r"^Process running with session ID (.*)$", re.MULTILINE)


def shell_tool(case, server, place):
    given = place.put(case["input"])
    areas.expect_only(given, "tool", "tree", "cwd", "arguments")
    if given["tool"] not in ("exec_command", "write_stdin"):
        raise areas.NotApplicable(f"the vectors do not describe {given['tool']}")
    life = Life(server, place)
    try:
        trees.make(place.root, given.get("tree", {}))
        life.do_create()
        life.do_start()
        query = "?cwd=" + quote(given["cwd"]) if given.get("cwd") else ""
        answer = life.raw("POST", f"/tools/{given['tool']}{query}", json.dumps(given["arguments"]))
    finally:
        life.close()
    if "ok" not in answer:
        return place.take(answer)
    text = answer["ok"].decode()
    text = re.sub(r"^Chunk ID: [0-9a-f]{6}$", "Chunk ID: {CHUNK}", text, flags=re.M)
    text = re.sub(r"^Wall time: \d+\.\d{4} s", "Wall time: {SECONDS} s", text, flags=re.M)
    mine, recorded = running.search(text), running.search(case["expect"].get("ok") or "")
    if mine and recorded and mine[1].isdigit():
        text = text[: mine.start(1)] + recorded[1] + text[mine.end(1) :]
    return {"ok": place.take(text)}


def replay(tally, given, load, base):
    os.environ["TROUPE"] = given.troupe
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
    import troupe_server

    server = troupe_server.Server({"local_source_roots": [os.path.join(base, "src")]})
    try:
        for area, answer in (("lifecycle", lifecycle), ("shell_tool", shell_tool)):
            path = os.path.join(given.folder, area + ".json")
            if (given.areas and area not in given.areas) or not os.path.exists(path):
                continue
            for case in load(path):
                place = trees.Place(base)
                tally.run(area, case, lambda: answer(case, server, place))
    finally:
        server.close()
