"""What Troupe does on purpose unlike the reference. A rule takes a case and what is wanted of it,
and gives what is wanted instead, or None where it has no say. All rules that have one are applied,
in this order. The reasons are in deviations.md."""

import posixpath
import re

import areas
import compare
import models
import patches
import trees

rules = {}


def rule(name, *where):
    def add(function):
        rules.setdefault(name, []).append((where, function))
        return function

    return add


def names():
    return list(rules)


def instead_of(area, case, want):
    """What is wanted under all rules, and the names of those that changed it."""
    applied = []
    for name, functions in rules.items():
        for where, function in functions:
            changed = function(case, want) if area in where else None
            if changed is not None and changed != want:
                want = changed
                applied.append(name)
    return want, applied


def an_error(code, reason=None):
    context = {} if reason is None else {"context": {"reason": reason}}
    return {"code": code, "type": "", **context}


archives = ("tar_extract", "zip_extract")


def area_of(case):
    return "tar_extract" if "mode" in case["input"] else "zip_extract"


def is_hydrate(case):
    return case["input"].get("mode") == "hydrate"


def with_files(want, files):
    return {"ok": {"files": files}} if "ok" in want else {**want, "files": files}


def files_of(want):
    return want["ok"]["files"] if "ok" in want else want["files"]


# -- archives --------------------------------------------------------------------------------------


@rule("links-are-restored", *archives)
def _(case, want):
    reason = want.get("error", {}).get("context", {}).get("reason", "")
    refused = ("absolute symlink target", "symlink target escapes", "hardlink member")
    if not is_hydrate(case) or not reason.startswith(refused):
        return None
    members = models.members_of("tar_extract", case)
    if members is None or models.faults_of(members):
        return {**want, "error": an_error(want["error"]["code"])}
    return {"ok": {"files": {**case["input"].get("pre", {}), **models.restored(members)}}}


@rule("first-fault-of-several", *archives)
def _(case, want):
    if "error" not in want or not is_hydrate(case):
        return None
    members = models.members_of("tar_extract", case)
    if members is None or len(set(models.faults_of(members))) < 2:
        return None
    return {**want, "error": an_error(want["error"]["code"])}


@rule("archive-must-be-whole", *archives)
def _(case, want):
    given = case["input"]
    if "ok" not in want or area_of(case) != "tar_extract" or given.get("compression"):
        return None
    if models.is_whole(areas.archive_of(given)):
        return None
    files = dict(given.get("pre", {}))
    if not is_hydrate(case):
        files[given["dest"]] = {"archive": True}
    return {"error": an_error("workspace_archive_write_error"), "files": files}


@rule("nothing-half-made", "tar_extract")
def _(case, want):
    if "error" in want and is_hydrate(case):
        return {**want, "files": case["input"].get("pre", {})}


@rule("archive-modes", *archives)
def _(case, want):
    members = models.members_of(area_of(case), case)
    if members is None or ("ok" not in want and is_hydrate(case)):
        return None
    folder = posixpath.dirname(case["input"].get("dest", ""))
    return with_files(want, models.with_modes(files_of(want), members, folder, is_hydrate(case)))


@rule("replaced-not-rewritten", *archives)
def _(case, want):
    files = case["input"].get("files") or case["input"].get("pre", {})
    found = dict(files_of(want))
    written = written_paths(case)
    for path, value in files.items():
        if not isinstance(value, dict) or "hardlink" not in value:
            continue
        before = files[value["hardlink"]]
        names = (path, value["hardlink"])
        if all(name in found and found[name] != before for name in names):
            # One was written; the other name still has what was there.
            found.update({name: before for name in names if name not in written})
    if "ok" in want:
        return {"ok": {**want["ok"], "files": found}}
    return {**want, "files": found}


def operations_of(case):
    operations = case["input"].get("operations", [])
    listed = operations if isinstance(operations, list) else [operations]
    return [x for x in listed if isinstance(x, dict) and isinstance(x.get("path"), str)]


def written_paths(case):
    """Paths that a patch or an archive names."""
    given = case["input"]
    if "raw" in given:
        return set(re.findall(r"^\*\*\* [A-Z][a-z]+ (?:File|to): (.*)$", given["raw"], re.M))
    if "operations" in given:
        return {x["path"] for x in operations_of(case)}
    members = models.members_of(area_of(case), case) or []
    return {posixpath.join(posixpath.dirname(given.get("dest", "")), x.path) for x in members}


@rule("snapshot-can-be-restored", "tar_persist")
def _(case, want):
    if "ok" not in want:
        return None
    kinds = ("dir", "file", "symlink", "hardlink")
    kept = [member for member in want["ok"]["members"] if member["type"] in kinds]
    members = [
        models.Member(
            x["name"],
            x["type"],
            int(x["mode"], 8),
            x.get("linkname", ""),
            trees.content(x.get("content", "")),
        )
        for x in kept
    ]
    return {"ok": {"members": kept, "hydrated": {"ok": models.restored(members)}}}


# -- fingerprints ----------------------------------------------------------------------------------


@rule("times-are-no-content", "fingerprint")
def _(case, want):
    if case["input"].get("change") in ("touch", "content_same_bytes_new_time"):
        return {"ok": "equal"}


@rule("root-itself-is-no-content", "fingerprint")
def _(case, want):
    if "root" in (case["input"].get("change") or "").split("_"):
        return {"ok": "equal"}


@rule("skip-paths-are-anchored", "fingerprint")
def _(case, want):
    if case["input"].get("change") == "skip_name_matches_deeper_path":
        return {"ok": "different"}


@rule("skip-paths-are-data", "fingerprint")
def _(case, want):
    if "error" in want:
        return {"ok": anything}


@rule("what-does-not-come-back-is-no-content", "fingerprint")
def _(case, want):
    change = case["input"].get("change") or ""
    if want == {"ok": "different"} and re.search(r"fifo|socket|chown|owner|setuid|setgid", change):
        return {"ok": "equal"}


# -- patches ---------------------------------------------------------------------------------------


@rule("end-of-file-is-the-end", "apply_diff")
def _(case, want):
    def outcome(whole_end):
        try:
            return {"ok": patches.apply_diff(**case["input"], whole_end=whole_end)}
        except patches.Fault:
            return {"error": an_error(None)}

    # Where the reference is not understood there is nothing to change.
    before, after = outcome(False), outcome(True)
    return after if agrees(before, want) and not agrees(after, want) else None


def agrees(one, other):
    """Whether two outcomes differ in nothing but the texts and contexts of an error."""
    if "error" in one and "error" in other:
        one, other = ({**x, "error": x["error"]["code"]} for x in (one, other))
    return one == other


def patch_rule(name):
    @rule(name, "apply_patch")
    def _(case, want):
        """What the rule adds to those before it."""
        own = patch_rules[: patch_rules.index(name)]
        before, after = (patches.patched(case["input"], x) for x in (own, (*own, name)))
        result = {}
        if "ok" in want:
            want = {"ok": dict(want["ok"])}
            result = {"result": want["ok"].pop("result")}
        if before is None or not agrees(before, want) or agrees(after, want):
            return None
        return {"ok": {"result": anything, **result, **after["ok"]}} if "ok" in after else after


patch_rules = (
    "replaced-not-rewritten",
    "end-of-file-is-the-end",
    "patches-stay-inside",
    "patches-take-the-link",
    "move-keeps-mode",
)
for each in patch_rules:
    patch_rule(each)


# -- manifests -------------------------------------------------------------------------------------


@rule("paths-are-one-line", "manifest_validate", "manifest_describe")
def _(case, want):
    shown = case["input"].get("manifest", case["input"])
    if any("\n" in path for path, _ in entries_of(shown.get("entries"))):
        return {"error": an_error("invalid_manifest_path", "newline")}


def is_account_name(x):
    return not isinstance(x, str) or (x and x[0] != "-" and "\n" not in x and "\0" not in x)


@rule("account-names", "manifest_validate")
def _(case, want):
    if "ok" not in want:
        return None
    given = case["input"]
    groups = (given.get("groups") or []) + [
        entry["group"]
        for _, entry in entries_of(given.get("entries"))
        if isinstance(entry, dict) and isinstance(entry.get("group"), dict)
    ]
    users = [*(given.get("users") or []), *(y for x in groups for y in x.get("users") or [])]
    if not all(is_account_name(x.get("name")) for x in [*users, *groups]):
        return refused_at_create(want, "invalid_manifest")



def entries_of(entries, folder=""):
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        path = posixpath.normpath(posixpath.join(folder, name))
        yield path, entry
        if isinstance(entry, dict) and isinstance(entry.get("children"), dict):
            yield from entries_of(entry["children"], path)


def refused_at_create(want, code):
    return {"ok": {**want["ok"], "unix_local_create": an_error(code)}}


@rule("root-must-be-absolute", "manifest_validate")
def _(case, want):
    root = case["input"].get("root", "/")
    if "ok" in want and not root.startswith("/"):
        return refused_at_create(want, "sandbox_config_invalid")


@rule("permission-digits", "manifest_validate")
def _(case, want):
    if "ok" not in want:
        return None
    for _, entry in entries_of(case["input"].get("entries")):
        digits = (entry.get("permissions") or {}) if isinstance(entry, dict) else {}
        for who in ("owner", "group", "other"):
            if not 0 <= int(digits.get(who, 0)) <= 7:
                return refused_at_create(want, "invalid_manifest")


@rule("environment-names", "manifest_validate")
def _(case, want):
    wrong = re.compile(r"^$|[=\0\n]")
    if "ok" in want and any(wrong.search(x) for x in want["ok"]["environment"]):
        return refused_at_create(want, "invalid_manifest")


def mounts_of(case):
    for path, entry in entries_of(case["input"].get("entries")):
        if isinstance(entry, dict) and str(entry.get("type")).endswith("_mount"):
            yield path, entry


@rule("hosted-mounts", "manifest_validate")
def _(case, want):
    if "ok" not in want:
        return None
    strategies = [entry.get("mount_strategy") for _, entry in mounts_of(case)]
    kinds = [x.get("type") for x in strategies if isinstance(x, dict)]
    if any(kind not in ("in_container", "docker_volume") for kind in kinds):
        return {"error": an_error("mount_config_invalid")}


@rule("mounts-are-ephemeral", "manifest_validate")
def _(case, want):
    if "ok" not in want or all(entry.get("ephemeral", True) for _, entry in mounts_of(case)):
        return None
    root = case["input"].get("root", "/workspace").rstrip("/") + "/"
    targets = [target for _, target in want["ok"]["mount_targets"]]
    inside = {target[len(root) :] for target in targets if target.startswith(root)}
    keys = {path for path, _ in mounts_of(case)}
    skip = set(want["ok"]["persistence_skip_paths"]) | inside | keys
    return {"ok": {**want["ok"], "persistence_skip_paths": sorted(skip)}}


# -- paths and listings ----------------------------------------------------------------------------


@rule("paths-are-the-kernels", "workspace_paths")
def _(case, want):
    if case["input"]["fn"] != "resolve" or "\0" in case["input"]["path"]:
        return None
    used, differs = models.used_path(case["input"])
    return used if differs else None


@rule("link-names-are-whole", "ls_parse")
def _(case, want):
    given = case["input"]
    for line in given.get("text", "").splitlines():
        if line.startswith("l") and line.count(" -> ") > 1:
            name = line.split(None, 8)[8].rsplit(" -> ", 1)[0]
            cut = name.split(" -> ", 1)[0]
            base = given["base"].rstrip("/") + "/"
            return {
                "ok": [
                    {**x, "path": base + name} if x["path"] == base + cut else x for x in want["ok"]
                ]
            }


# -- lives of sessions -----------------------------------------------------------------------------


def each_step(case, want, change):
    """`want` with `change(step, result)` for every result where that is not None."""
    steps = case["input"]["steps"]
    results = []
    for step, result in zip(steps, want["ok"]):
        changed = None if callable(result) else change(step, result)
        results.append(result if changed is None else changed)
    return {"ok": results}


def anything(value):
    return True


def steps_named(case, *wanted):
    return [step for step in case["input"]["steps"] if step["op"] in wanted]


def code_of(result):
    return (result.get("error") or {}).get("code", "") if isinstance(result, dict) else ""


@rule("no-other-users", "lifecycle")
def _(case, want):
    def change(step, result):
        if step.get("user"):
            return {"error": an_error("sandbox_config_invalid")}

    return each_step(case, want, change)


@rule("nul-in-a-command", "lifecycle")
def _(case, want):
    def change(step, result):
        if step["op"] == "exec" and any("\0" in word for word in step["command"]):
            return {"error": an_error("invalid_request")}

    return each_step(case, want, change)


@rule("nothing-survives-a-timeout", "lifecycle")
def _(case, want):
    ended = False

    def change(step, result):
        nonlocal ended
        ended = ended or ("setsid" in str(step.get("command")) and code_of(result) == "exec_timeout")
        if ended and step["op"] == "tree" and "ok" in result:
            return {"ok": lambda tree: tree.items() <= result["ok"].items()}

    return each_step(case, want, change)


def made_files(case, until):
    """Files that steps before `until` made by name."""
    made = {}
    for step in case["input"]["steps"]:
        if step is until:
            break
        path = posixpath.normpath(step.get("path", ""))
        if step["op"] in ("write", "host_write") and posixpath.dirname(path) not in made:
            made[path] = step["content"]
    return made


def is_link(value):
    return isinstance(value, dict) and "symlink" in value


@rule("absolute-links-lead-out", "lifecycle")
def _(case, want):
    def change(step, result):
        path = posixpath.normpath(step.get("path", "")).removeprefix("{ROOT}/")
        made = made_files(case, step)
        for link, value in made.items():
            leads_out = is_link(value) and value["symlink"].startswith("{ROOT}")
            below = path.startswith(link + "/")
            followed = below or (path == link and step["op"] in ("read", "write", "apply_patch"))
            if leads_out and followed and "ok" in result:
                reason = "absolute" if step["path"].startswith("{") else "escape_root"
                return {"error": an_error("invalid_manifest_path", reason)}

    return each_step(case, want, change)


@rule("the-root-stays", "lifecycle")
def _(case, want):
    removed = False

    def change(step, result):
        nonlocal removed
        if step["op"] == "rm" and step["path"] in ("", ".", "{ROOT}", "{ROOT}/"):
            removed = True
            return {"error": an_error("workspace_archive_write_error", "is_root")}
        return anything if removed and step["op"] in ("tree", "ls", "read", "exec", "stop") else None

    return each_step(case, want, change)


@rule("other-names-keep-the-text", "lifecycle")
def _(case, want):
    texts, twins = {}, {}

    def change(step, result):
        path, content = step.get("path"), step.get("content")
        if step["op"] in ("write", "host_write") and "ok" in result:
            if isinstance(content, dict) and content.get("hardlink") in texts:
                twins[path] = content["hardlink"]
                content = texts[content["hardlink"]]
            texts[path] = content
        if step["op"] == "tree" and twins and isinstance(result.get("ok"), dict):
            kept = {x for pair in twins.items() for x in pair if x in result["ok"]}
            return {"ok": {**result["ok"], **{x: texts[x] for x in kept}}}

    return each_step(case, want, change)


@rule("characters-are-whole", "lifecycle")
def _(case, want):
    cut = False

    def change(step, result):
        nonlocal cut
        output = (result.get("ok") or {}).get("output") if step["op"].startswith("pty_") else None
        if isinstance(output, str):
            cut = cut or "\ufffd" in output
            if cut:
                return {**result, "ok": {**result["ok"], "output": anything}}

    return each_step(case, want, change)


@rule("a-failed-stop-still-closes", "lifecycle")
def _(case, want):
    closed = False

    def change(step, result):
        nonlocal closed
        closed = step["op"] == "aclose" and "error" in result or closed and step["op"] != "resume"
        if closed and step["op"] == "running":
            return {"ok": False}

    return each_step(case, want, change)


@rule("deleted-is-gone", "lifecycle")
def _(case, want):
    gone = False
    calls = ("exec", "read", "write", "ls", "mkdir", "rm", "start", "stop", "running", "state")

    def change(step, result):
        nonlocal gone
        gone = step["op"] == "delete" or gone and step["op"] not in ("create", "resume")
        if gone and step["op"] in calls:
            return {"error": an_error("not_found")}

    return each_step(case, want, change)


@rule("running-sessions-keep-their-work", "lifecycle")
def _(case, want):
    running = False
    kept = False

    def change(step, result):
        nonlocal running, kept
        if step["op"] in ("start", "resume"):
            kept = kept or running
            running = running or step["op"] == "start" and "ok" in result
        elif step["op"] in ("stop", "shutdown", "aclose", "delete", "create"):
            running = running and step["op"] == "stop"
        # A second start, or a resume beside a living session, is no way to lose what was written.
        return anything if kept and step["op"] in ("tree", "read", "ls", "exec") else None

    return each_step(case, want, change)


@rule("listing-a-file", "lifecycle")
def _(case, want):
    def change(step, result):
        value = made_files(case, step).get(posixpath.normpath(step.get("path", "")))
        if step["op"] == "ls" and value is not None and not is_link(value):
            return {"ok": lambda items: [x["kind"] for x in items] == ["file"]}

    return each_step(case, want, change)


@rule("listing-a-link", "lifecycle")
def _(case, want):
    def change(step, result):
        value = made_files(case, step).get(posixpath.normpath(step.get("path", "")))
        if step["op"] == "ls" and is_link(value):
            return {"ok": lambda items: [x["kind"] for x in items] == ["symlink"]}

    return each_step(case, want, change)


@rule("rm-takes-the-link", "lifecycle")
def _(case, want):
    gone = set()

    def change(step, result):
        path = posixpath.normpath(step.get("path", ""))
        made = made_files(case, step)
        if step["op"] == "rm" and is_link(made.get(path)):
            again = path in gone
            gone.add(path)
            if again and not step.get("recursive"):
                return {"error": an_error("exec_nonzero")}
            return {"ok": None}
        if step["op"] == "tree" and gone:
            return {"ok": {path: made[path] for path in made if path not in gone}}

    return each_step(case, want, change)


@rule("hook-failure-loses-nothing", "lifecycle")
def _(case, want):
    if not any(step.get("fail") for step in steps_named(case, "pre_stop_hook")):
        return None

    def change(step, result):
        if step["op"] == "snapshots" and result == {"ok": []}:
            return {"ok": ["{SESSION}.tar"]}

    return each_step(case, want, change)


@rule("mode-comes-with-the-file", "lifecycle")
def _(case, want):
    failed = any("chgrp" in str(result.get("error", "")) for result in want["ok"])

    def change(step, result):
        if failed and step["op"] == "tree" and "ok" in result:
            files = result["ok"].items()
            return {"ok": {path: {"text": text, "mode": "0755"} for path, text in files}}

    return each_step(case, want, change)


@rule("grants-do-not-open-the-host", "lifecycle")
def _(case, want):
    kinds = {"local_file": "local_file_read_error", "local_dir": "local_dir_read_error"}
    for create in steps_named(case, "create"):
        for _, entry in entries_of((create.get("manifest") or {}).get("entries")):
            if entry.get("type") in kinds and (entry.get("src") or "").startswith("{OUT}"):
                error = {"error": an_error(kinds[entry["type"]], "outside_base_dir")}

                def change(step, result):
                    if step["op"] == "start":
                        return error
                    return anything if step["op"] not in ("create", "host_source") else None

                return each_step(case, want, change)


def after_resume(case, want, change):
    """Like `each_step`, from a resume until something changes the workspace again."""
    resumed = False

    def at_once(step, result):
        nonlocal resumed
        if step["op"] == "resume":
            resumed = True
        elif step["op"] in ("exec", "write", "rm", "mkdir", "apply_patch", "extract", "stop"):
            resumed = False
        return change(step, result) if resumed else None

    return each_step(case, want, at_once)


@rule("saved-is-what-comes-back", "lifecycle")
def _(case, want):
    names = [step["op"] for step in case["input"]["steps"]]
    if "resume" not in names or case.get("at_stop") is None:
        return None
    if "skip" in names or "ephemeral" in str(case["input"]):
        return None
    if {"host_snapshot", "host_snapshot_cut"} & set(names) and "host_remove_root" in names:
        return None
    saved = case["at_stop"]
    special = ("fifo", "other")
    plain = {
        path: value
        for path, value in saved.items()
        if not (isinstance(value, dict) and any(kind in value for kind in special))
    }

    def change(step, result):
        if step["op"] == "start":
            return {"ok": None}
        if step["op"] == "running":
            return {"ok": True}
        if step["op"] == "tree":
            return {"ok": lambda tree: tree in (saved, plain)}

    return after_resume(case, want, change)


@rule("damaged-snapshots-are-refused", "lifecycle")
def _(case, want):
    names = {step["op"] for step in case["input"]["steps"]}
    if not {"host_snapshot", "host_snapshot_cut"} & names or "host_remove_root" not in names:
        return None

    def change(step, result):
        if step["op"] == "start":
            return {"error": {"code": None, "type": "any"}}
        if step["op"] == "running":
            return {"ok": False}
        if step["op"] == "tree":
            return {"ok": lambda tree: tree in ({}, "missing")}

    return after_resume(case, want, change)


@rule("times-come-back", "lifecycle")
def _(case, want):
    def change(step, result):
        if step["op"] == "exec" and "new-time" in str(result.get("ok")):
            return {"ok": {"exit_code": 1, "stdout": "", "stderr": ""}}

    return each_step(case, want, change)


@rule("own-fingerprint", "lifecycle")
def _(case, want):
    def change(step, result):
        if step["op"] == "state" and (result.get("ok") or {}).get("has_fingerprint"):
            return {"ok": {**result["ok"], "fingerprint_version": "troupe_tree_sha256_v1"}}

    return each_step(case, want, change)


@rule("root-that-is-gone", "lifecycle")
def _(case, want):
    gone = False

    def change(step, result):
        nonlocal gone
        gone = gone or step["op"] == "host_root_file"
        if gone and step["op"] == "stop":
            return {"error": an_error("workspace_stop_error")}
        if gone and step["op"] == "exec":
            return {"error": an_error("workspace_root_not_found")}

    return each_step(case, want, change)


def refusal_of(manifest):
    """The code that a manifest is refused with at create, which the reference accepts."""
    if not manifest.get("root", "/").startswith(("/", "{")):
        return "sandbox_config_invalid"
    for _, entry in entries_of(manifest.get("entries")):
        digits = entry.get("permissions") or {}
        if any(not 0 <= int(digits.get(who, 0)) <= 7 for who in ("owner", "group", "other")):
            return "invalid_manifest"


@rule("refused-at-create", "lifecycle")
def _(case, want):
    codes = [refusal_of(step.get("manifest") or {}) for step in steps_named(case, "create")]
    if not any(codes):
        return None
    first = next(i for i, step in enumerate(case["input"]["steps"]) if step["op"] == "create")
    results = want["ok"][:first] + [{"error": an_error(codes[0])}]
    return {"ok": results + [anything] * (len(want["ok"]) - len(results))}


@rule("background-does-not-hold", "lifecycle")
def _(case, want):
    def change(step, result):
        if step["op"] != "exec" or not re.search(r"[^&>]&( |$)", " ".join(step["command"])):
            return None
        if code_of(result) == "exec_timeout" and "wait" not in " ".join(step["command"]):
            done = {"exit_code": 0, "stdout": anything, "stderr": ""}
            done = {**{key: anything for key in result if key != "error"}, "ok": done}
            # What else the command does may take as long.
            return lambda got: not compare.faults(done, got) or not compare.faults(result, got)
        if isinstance(result.get("ok"), dict) and "stdout" in result["ok"]:
            stdout = result["ok"]["stdout"]
            result = {**result, "ok": {**result["ok"], "stdout": stdout.startswith}}
        return {**result, "timely": anything} if "timely" in result else result

    return each_step(case, want, change)
