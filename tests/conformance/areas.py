"""What can be replayed without a server: each function answers one case through the driver, in the
form of the vectors' `expect`."""

import base64
import gzip
import io
import json
import os
import subprocess
import tarfile
import zipfile

import trees


class NotApplicable(Exception):
    """A case about something that Troupe does not have."""


class Driver:
    """The driver program: one request, one answer."""

    def __init__(self, program):
        self.program = program
        self.process = None

    def __call__(self, fn, **arguments):
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
            self.process = subprocess.Popen([self.program], **pipes)
        self.process.stdin.write(json.dumps({"fn": fn, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.process = None
            return {"crashed": f"the driver ended with {code}"}
        return json.loads(line)

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
            self.process.stdout.close()


def expect_only(given, *known):
    """A case that says more than the vectors describe is not to be answered by half."""
    if isinstance(given, dict) and given.keys() - set(known):
        raise NotApplicable(f"the vectors do not describe {sorted(given.keys() - set(known))}")


# -- text ------------------------------------------------------------------------------------------


def apply_diff(case, driver, place):
    expect_only(case["input"], "text", "diff", "mode")
    return driver("apply_diff", **case["input"])


def token_truncation(case, driver, place):
    given = case["input"]
    expect_only(given, "fn", "text", "limit")
    if given["fn"] not in ("output", "tokens", "bytes", "formatted_bytes"):
        raise NotApplicable(f"the vectors do not describe {given['fn']}")
    limit = given["limit"]
    if "bytes" in given["fn"]:
        limit = max(limit or 0, 0)
    return driver("truncate", kind=given["fn"], text=given["text"], limit=limit)


def apply_patch(case, driver, place):
    expect_only(case["input"], "files", "raw", "operations", "cwd")
    given = place.put(case["input"])
    trees.make(place.root, given["files"])
    what = {key: given[key] for key in ("raw", "operations") if key in given}
    answer = driver(
        "apply_patch", root=place.root, cwd=given.get("cwd") or "", all_or_nothing=False, **what
    )
    files = trees.with_sizes(trees.read(place.root), case["expect"].get("files", {}))
    if "ok" in answer:
        # A list of operations answers `Done!`, a tool's text what was done.
        result = answer["ok"] if "raw" in given else "Done!"
        return {"ok": {"result": result, "files": files}}
    return {**answer, "files": files}


def exec_prepare(case, driver, place):
    given = place.put(case["input"])
    expect_only(given, "command", "shell", "user")
    user = given["user"]["name"] if isinstance(given["user"], dict) else given["user"]
    if not isinstance(given["shell"], (bool, list)):
        raise NotApplicable("`shell` is true, false or a list")
    if not given["command"]:
        raise NotApplicable("a command without words is refused before it gets here")
    if not all(isinstance(word, str) for word in given["command"]):
        raise NotApplicable("only texts get here")
    return driver(
        "exec_prepare", command=given["command"], shell=given["shell"], user=user, root=place.root
    )


# -- manifests and states --------------------------------------------------------------------------


def manifest_validate(case, driver, place):
    answer = driver("manifest", manifest=case["input"])
    if "ok" in answer:
        # As text, for the order of fields counts.
        answer["ok"]["dump"] = json.dumps(answer["ok"]["dump"])
        answer["ok"]["unix_local_create"] = answer["ok"].pop("create")
    return answer


def manifest_describe(case, driver, place):
    return driver("describe", **case["input"])


def session_state(case, driver, place):
    given = case["input"]
    if isinstance(given, dict) and list(given) == ["parse"]:
        given = given["parse"]
        if isinstance(given, dict) and "type" not in given:
            raise NotApplicable("states are read in one way, in which a type has its default")
    answer = driver("state", state=given)
    if "ok" in answer:
        again = driver("state", state=answer["ok"]["stored"])
        answer["ok"]["stable"] = again.get("ok", {}).get("stored") == answer["ok"]["stored"]
        answer["ok"]["stored"] = json.dumps(answer["ok"]["stored"])
    return answer


# -- paths and listings ----------------------------------------------------------------------------


def plain_path(path):
    """What is used next, in whatever form it was said."""
    return os.path.normpath(path)


# What a working directory does, and the driver's names for it.
names_of_cwd = {"cwd": "run_folder", "anchor": "anchored_path", "model_path": "shown_path"}


def is_shown(given):
    path = given["path"]
    normal = given["cwd"] or path == os.path.normpath(path)
    return normal and not path.startswith("/")


def workspace_paths(case, driver, place):
    given = place.put(case["input"])
    kind = given["fn"]
    grants = given.get("grants", [])
    if kind not in ("absolute", "relative", "read", "write", "resolve", "manifest", *names_of_cwd):
        raise NotApplicable(f"the vectors do not describe {kind}")
    if kind == "model_path" and not is_shown(given):
        raise NotApplicable("only what the path policy has made relative is shown")
    if kind in names_of_cwd:
        asked = {"path": given.get("path", ""), "cwd": given["cwd"] or ""}
        answer = driver(names_of_cwd[kind], **asked)
        return {"ok": plain_path(answer["ok"])} if kind == "anchor" else answer
    if kind == "resolve":
        trees.make(place.root, given["tree"])
        trees.make(place.names["{OUT}"], {"secret": "secret"})
        return driver(
            "resolve",
            root=given["root"],
            path=given["path"],
            for_write=given["for_write"],
            grants=grants,
        )
    if kind == "manifest" and not given["allow_absolute_within_root"]:
        answer = driver("entry_path", path=given["path"])
        if "ok" in answer:
            answer["ok"] = os.path.normpath(os.path.join(given["root"], answer["ok"]))
        return answer
    if kind not in ("read", "write"):
        grants = []
    answer = driver(
        "path", root=given["root"], path=given["path"], grants=grants, for_write=kind == "write"
    )
    if "ok" in answer:
        answer["ok"] = answer["ok"]["relative" if kind == "relative" else "absolute"]
    return answer


def listed(driver, place, tree, base):
    """The listing of `tree`, in the form that the vectors have for a parsed one."""
    trees.make(place.root, tree)
    answer = driver("list", root=place.root, path=".", shown=base.rstrip("/"))
    if "ok" in answer:
        for entry in answer["ok"]:
            entry["mode"] = f"{entry['mode']:04o}"
            if entry["kind"] != "file":
                del entry["size"]
    return answer


# The largest file that a file system takes here, and more than any listing has to say.
largest_file = 1 << 40


def as_tree(given, entries):
    """What has to be there for a listing to say this, as far as that can be made."""
    tree = {}
    for entry in entries:
        name = entry["path"].removeprefix(given["base"].rstrip("/") + "/")
        if "/" in name or "\0" in name or name in tree or len(name.encode()) > 255:
            raise NotApplicable("no listing is parsed from text")
        if entry["kind"] == "symlink":
            if entry["mode"] != "0777":
                raise NotApplicable("links have one mode here")
            said = [x for x in given["text"].splitlines() if f"{name} -> " in x]
            if not said or said[0].endswith(" -> "):
                raise NotApplicable("a link has a target")
            name, target = said[0][said[0].index(f"{name} -> ") :].rsplit(" -> ", 1)
            tree[name] = {"symlink": target}
        elif entry["kind"] == "other":
            tree[name] = {"fifo": True, "mode": entry["mode"]}
        elif entry["kind"] == "directory":
            tree[name] = {"dir": True, "mode": entry["mode"]}
        elif 0 <= entry["size"] <= largest_file:
            tree[name] = {"text": "", "size": entry["size"], "mode": entry["mode"]}
        else:
            raise NotApplicable("no file is of this size")
    return tree


def ls_parse(case, driver, place):
    given, expect = case["input"], case["expect"]
    if "error" in expect or given["fn"] not in ("listing", "mode"):
        raise NotApplicable("no listing is parsed from text")
    if given["fn"] == "mode":
        folder = expect["ok"]["directory"]
        path = os.path.join(place.root, "x")
        os.mkdir(path) if folder else open(path, "wb").close()
        os.chmod(path, given["mode"] & 0o7777)
        answer = driver("list", root=place.root, path=".", shown=place.root)
        (entry,) = answer["ok"]
        return {"ok": {"to_mode": entry["mode"] | (0o40000 if folder else 0)}}
    tree = as_tree(given, expect["ok"])
    if not tree and given["text"]:
        raise NotApplicable("no listing is parsed from text")
    return listed(driver, place, tree, given["base"])


# -- archives --------------------------------------------------------------------------------------


def packed(given):
    """An archive of the members of a case that has no recorded one: a plain tar, or a zip."""
    scheme = given.get("scheme") or given.get("dest", "").rpartition(".")[2]
    out = io.BytesIO()
    types = {
        "dir": tarfile.DIRTYPE,
        "symlink": tarfile.SYMTYPE,
        "hardlink": tarfile.LNKTYPE,
        "fifo": tarfile.FIFOTYPE,
        "char": tarfile.CHRTYPE,
        "block": tarfile.BLKTYPE,
    }
    archive = zipfile.ZipFile(out, "w") if scheme == "zip" else tarfile.open(fileobj=out, mode="w")
    with archive:
        for member in given["members"]:
            data = trees.content(member.get("content", ""))
            if scheme == "zip":
                archive.writestr(zipfile.ZipInfo(member["name"]), data)
                continue
            info = tarfile.TarInfo(member["name"])
            info.type = types.get(member["type"], tarfile.REGTYPE)
            info.mode = int(member.get("mode", "0755" if member["type"] == "dir" else "0644"), 8)
            info.linkname = member.get("linkname", "")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def archive_of(given):
    if "archive_gz_b64" in given:
        return gzip.decompress(base64.b64decode(given["archive_gz_b64"]))
    if "raw" in given:
        return base64.b64decode(given["raw"]) if " " not in given["raw"] else given["raw"].encode()
    if "raw_zero" in given:
        return bytes(given["raw_zero"])
    return packed(given)


def unpack(case, driver, place):
    given = place.put(case["input"])
    trees.make(place.root, given.get("pre", {}))
    data = archive_of(given)
    archive = os.path.join(place.base, "archive")
    with open(archive, "wb") as out:
        out.write(data)
    limits = {"limits": given["limits"]} if given.get("limits") else {}
    if given.get("mode") == "hydrate":
        answer = driver("hydrate", root=place.root, archive=archive, **limits)
    else:
        answer = driver(
            "extract",
            root=place.root,
            archive=archive,
            path=given["dest"],
            scheme=given.get("scheme"),
            **limits,
        )
    os.unlink(archive)
    files = trees.read(place.root)
    for path in files:
        if os.path.basename(path) == os.path.basename(given.get("dest", "")):
            with open(os.path.join(place.root, path), "rb") as kept:
                if kept.read() == data:
                    files[path] = {"archive": True}
    expect = case["expect"]
    files = trees.with_sizes(files, expect["ok"]["files"] if "ok" in expect else expect["files"])
    left = sorted(set(os.listdir(place.base)) - {"ws", "outside", "src"})
    if left or os.listdir(place.names["{OUT}"]):
        return {"crashed": f"something was left outside of the workspace: {left}"}
    return {"ok": {"files": files}} if "ok" in answer else {**answer, "files": files}


def members_of(archive):
    found = []
    with tarfile.open(archive) as members:
        for member in members:
            kind = "dir" if member.isdir() else "symlink" if member.issym() else "file"
            value = {"name": member.name, "mode": f"{member.mode:04o}", "type": kind}
            if member.issym():
                value["linkname"] = member.linkname
            elif member.islnk():
                value.update(type="hardlink", linkname=member.linkname)
            elif member.isreg():
                data = members.extractfile(member).read()
                content = trees.value_of(data)
                value["content"] = content["text"] if "text" in content else content
            found.append(value)
    return sorted(found, key=lambda member: member["name"])


def tar_persist(case, driver, place):
    given = place.put(case["input"])
    if given.get("remove_root"):
        raise NotApplicable("a session holds its root open")
    trees.make(place.root, given["tree"])
    archive, again = (os.path.join(place.base, name) for name in ("archive", "again"))
    manifest = {"root": place.root, **given["manifest"]}
    what = {"root": place.root, "manifest": manifest, "skip": given["skip"]}
    answer = driver("persist", archive=archive, **what)
    if "error" in answer:
        return answer
    hydrated = driver("save_and_restore", base_path=place.names["{SNAP}"], again=again, **what)
    if "ok" in hydrated:
        hydrated["ok"] = trees.read(again)
    return {"ok": {"members": members_of(archive), "hydrated": hydrated}}


# -- fingerprints ----------------------------------------------------------------------------------


def write(path, data, mtime=None):
    with open(path, "wb") as out:
        out.write(data)
    if mtime:
        os.utime(path, (mtime, mtime))


def swap(first, second):
    with open(first, "rb") as a, open(second, "rb") as b:
        contents = a.read(), b.read()
    write(first, contents[1])
    write(second, contents[0])


def rename_root(place):
    os.rename(place.root, place.root + "2")
    place.root += "2"


settled = 1600000000

# What the vectors name by a word, done to the workspace `at`.
changes = {
    "nothing": lambda at, place: None,
    "read_a_file": lambda at, place: open(at("a.txt"), "rb").close(),
    "touch": lambda at, place: os.utime(at("a.txt")),
    "content_longer_same_time": lambda at, place: write(at("a.txt"), b"one more\n", settled),
    "content_same_length_same_time": lambda at, place: write(at("a.txt"), b"eno\n", settled),
    "content_same_bytes_same_time": lambda at, place: write(at("a.txt"), b"one\n", settled),
    "content_same_bytes_new_time": lambda at, place: write(at("a.txt"), b"one\n"),
    "chmod_exec": lambda at, place: os.chmod(at("a.txt"), 0o755),
    "chmod_dir": lambda at, place: os.chmod(at("d"), 0o700),
    "chmod_root": lambda at, place: os.chmod(place.root, 0o700),
    "add_empty_file": lambda at, place: write(at("new"), b""),
    "add_empty_dir": lambda at, place: os.mkdir(at("new")),
    "add_hidden_file": lambda at, place: write(at(".new"), b""),
    "add_hardlink": lambda at, place: os.link(at("a.txt"), at("hard")),
    "add_symlink": lambda at, place: os.symlink("a.txt", at("new")),
    "remove_file": lambda at, place: os.unlink(at("a.txt")),
    "rename_file": lambda at, place: os.rename(at("a.txt"), at("renamed.txt")),
    "swap_contents": lambda at, place: swap(at("a.txt"), at("d/b.txt")),
    "file_outside_workspace": lambda at, place: write(place.names["{OUT}"] + "/x", b"x"),
    "ephemeral_dir_new_child": lambda at, place: write(at("tmp/new"), b"x"),
    "skip_name_matches_deeper_path": lambda at, place: write(at("d/tmp/cache"), b"changed"),
    "large_file_last_byte": lambda at, place: write(at("large"), b"x" * 3000000 + b"2", settled),
    "root_moved": lambda at, place: rename_root(place),
}


def settle(root):
    for folder, folders, files in os.walk(root, topdown=False):
        for name in folders + files:
            path = os.path.join(folder, name)
            os.utime(path, (settled, settled), follow_symlinks=False)
    os.utime(root, (settled, settled))


def fingerprint(case, driver, place):
    given = case["input"]
    trees.make(place.root, given["tree"])
    change = given.get("change")
    if change == "large_file_last_byte":
        write(os.path.join(place.root, "large"), b"x" * 3000000 + b"1", settled)
    settle(place.root)
    skip = [given["skip"]] if given.get("skip") else []

    def taken(manifest):
        return driver("fingerprint", root=place.root, manifest=manifest, skip=skip)

    before = taken(given["manifest"])
    if change is None or "error" in before:
        return {"ok": "computed"} if "ok" in before else before
    after = given.get("manifest_after")
    if after is None:
        if change not in changes:
            raise NotApplicable(f"the vectors do not say what {change} does")
        changes[change](lambda path: os.path.join(place.root, path), place)
        if given.get("times_settled"):
            settle(place.root)
    return {"ok": "equal" if taken(after or given["manifest"]) == before else "different"}


areas = {
    "apply_diff": apply_diff,
    "apply_patch": apply_patch,
    "exec_prepare": exec_prepare,
    "fingerprint": fingerprint,
    "ls_parse": ls_parse,
    "manifest_describe": manifest_describe,
    "manifest_validate": manifest_validate,
    "session_state": session_state,
    "tar_extract": unpack,
    "tar_persist": tar_persist,
    "token_truncation": token_truncation,
    "workspace_paths": workspace_paths,
    "zip_extract": unpack,
}
