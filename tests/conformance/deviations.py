"""What Troupe does on purpose unlike the reference. A rule takes a case and what is wanted of it,
and gives what is wanted instead, or None where it has no say. All rules that have one are applied,
in this order. The reasons are in deviations.md."""

import json
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
    before = models.as_read(case["input"].get("pre", {}))
    faulty = members is None or models.faults_of(members)
    if faulty or models.is_in_the_way(before, members):
        return {**want, "error": an_error(want["error"]["code"])}
    return {"ok": {"files": {**before, **models.restored(members)}}}


@rule("first-fault-of-several", *archives)
def _(case, want):
    if "error" not in want or not is_hydrate(case):
        return None
    members = models.members_of("tar_extract", case)
    if members is None or len(set(models.faults_of(members))) < 2:
        return None
    return {**want, "error": an_error(want["error"]["code"])}


def left_as_it_was(case):
    """The files when nothing of an archive was unpacked."""
    given = case["input"]
    files = models.as_read(given.get("pre", {}))
    if not is_hydrate(case):
        files[posixpath.normpath(given["dest"])] = {"archive": True}
    return files


@rule("archive-must-be-whole", *archives)
def _(case, want):
    given = case["input"]
    code = want.get("error", {}).get("code", "workspace_archive_write_error")
    if given.get("compression") or code != "workspace_archive_write_error":
        return None
    try:
        data = areas.archive_of(given)
    except (KeyError, ValueError):
        return None
    is_zip = area_of(case) == "zip_extract"
    if models.is_whole_zip(data) if is_zip else "error" in want or models.is_whole(data):
        return None
    if (want.get("error", {}).get("context") or {}).get("reason"):
        return None  # refused before its content was looked at
    return {"error": an_error("workspace_archive_write_error"), "files": left_as_it_was(case)}


@rule("name-with-a-slash-is-a-folder", "tar_extract")
def _(case, want):
    members = models.members_of("tar_extract", case) or []
    named = [x for x in members if x.kind == "file" and x.path and x.name.endswith("/")]
    if "ok" not in want or not named:
        return None
    if any(x.data for x in named):
        return {"error": an_error("workspace_archive_write_error"), "files": left_as_it_was(case)}
    return {"ok": {"files": anything}}


@rule("archives-stay-inside", *archives)
def _(case, want):
    given = case["input"]
    parts = given.get("dest", "").split("/")
    for i in range(1, len(parts)):
        link = models.of(given.get("pre", {}), "/".join(parts[:i]))
        if "ok" in want and link.get("symlink", "").startswith(("/", "{")):
            error = an_error("invalid_manifest_path", "escape_root")
            return {"error": error, "files": models.as_read(given["pre"])}


@rule("nothing-half-made", "tar_extract")
def _(case, want):
    if "error" in want and is_hydrate(case):
        return {**want, "files": models.as_read(case["input"].get("pre", {}))}


@rule("archive-modes", *archives)
def _(case, want):
    members = models.members_of(area_of(case), case)
    if members is None or ("ok" not in want and is_hydrate(case)):
        return None
    if callable(files_of(want)):
        return None
    folder = posixpath.dirname(posixpath.normpath(case["input"].get("dest", "")))
    before = case["input"].get("pre", {})
    files = models.with_modes(files_of(want), members, folder, is_hydrate(case), before)
    return with_files(want, files)


@rule("replaced-not-rewritten", *archives)
def _(case, want):
    if callable(files_of(want)):
        return None
    files = case["input"].get("files") or case["input"].get("pre", {})
    before, found = models.as_read(files), dict(files_of(want))
    written = written_paths(case)
    twins = {}
    for path, value in files.items():
        if isinstance(value, dict) and "hardlink" in value:
            twins.setdefault(value["hardlink"], [value["hardlink"]]).append(path)
    for names in twins.values():
        names = [name for name in names if name in found]
        if all(found[name] == before[name] for name in names):
            continue
        for name in names:
            if name not in written:
                # One was written; the other names still have what was there.
                found[name] = before[name]
            elif written[name] is not None:
                found[name] = written[name]
    if "ok" in want:
        return {"ok": {**want["ok"], "files": found}}
    return {**want, "files": found}


def written_paths(case):
    """Paths that an archive names, with what it puts there."""
    given = case["input"]
    members = models.members_of(area_of(case), case) or []
    folder = posixpath.dirname(posixpath.normpath(given.get("dest", "")))
    paths = {posixpath.join(folder, x.path): None for x in members}
    if area_of(case) == "tar_extract":
        for x in members:
            if x.kind == "file" and x.mode:
                paths[posixpath.join(folder, x.path)] = trees.file_value(x.data, x.mode & 0o777)
    return {**paths, given.get("dest", ""): None}


@rule("snapshot-can-be-restored", "tar_persist")
def _(case, want):
    if "ok" not in want:
        return None
    kinds = ("dir", "file", "symlink", "hardlink")
    kept = [member for member in want["ok"]["members"] if member["type"] in kinds]
    names = {member["name"] for member in kept}
    for i, member in enumerate(kept):
        if member["type"] == "hardlink" and "./" + models.normal(member["linkname"]) not in names:
            # Its first name is left out: the file itself comes in its place.
            value = models.as_read(case["input"]["tree"])[models.normal(member["linkname"])]
            content = value.get("text", value) if isinstance(value, dict) else value
            kept[i] = {k: v for k, v in member.items() if k != "linkname"}
            kept[i].update(type="file", content=content)
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


def entries_of(entries, folder=""):
    for name, entry in entries.items() if isinstance(entries, dict) else ():
        path = posixpath.normpath(posixpath.join(folder, name))
        yield path, entry if isinstance(entry, dict) else {}
        if isinstance(entry, dict) and isinstance(entry.get("children"), dict):
            yield from entries_of(entry["children"], path)


def manifest_of(case):
    """The manifest that a case is about, an empty one if it is no object."""
    given = case["input"]
    given = given.get("manifest", given) if isinstance(given, dict) else {}
    return given if isinstance(given, dict) else {}


def manifest_in(step):
    """The manifest that a step gives, an empty one if it is none."""
    given = step.get("manifest")
    return given if isinstance(given, dict) else {}


def accounts_of(manifest):
    """The names of all users and groups."""
    groups = list(manifest.get("groups") or [])
    groups += [x["group"] for _, x in entries_of(manifest.get("entries")) if x.get("group")]
    users = list(manifest.get("users") or [])
    users += [user for group in groups for user in group.get("users") or []]
    return [x["name"] for x in [*users, *groups]]


def number(value):
    """What a number given as another type comes to."""
    return float(value.replace("_", "")) if isinstance(value, str) else float(value)


def digits_of(manifest):
    """All permission digits that entries name; those of mounts do not count."""
    for _, entry in entries_of(manifest.get("entries")):
        given = entry.get("permissions") or {}
        if not str(entry.get("type")).endswith("_mount"):
            yield from (number(given[who]) for who in ("owner", "group", "other") if who in given)


def arguments_of(manifest):
    """Texts that become arguments of programs, and those of them that have to be one line."""
    texts, lines = [], []
    for _, entry in entries_of(manifest.get("entries")):
        texts += [entry.get("src"), entry.get("subpath")]
        lines += [entry.get(key) for key in ("host", "repo", "ref")]
        if str(entry.get("type")).endswith("_mount"):
            texts.append(str({**entry, "description": ""}).replace("\\x00", "\0"))
    return [x for x in texts + lines if isinstance(x, str)], [x for x in lines if isinstance(x, str)]


def wrong_root(manifest):
    root = manifest.get("root", "/")
    return not root.startswith(("/", "{")) or "\0" in root


def wrong_accounts(manifest):
    names = accounts_of(manifest)
    return any(not x or x[0] == "-" or "\n" in x or "\0" in x for x in names)


def wrong_digits(manifest):
    return not all(0 <= x <= 7 for x in digits_of(manifest))


def wrong_environment(manifest):
    values = (manifest.get("environment") or {}).get("value") or {}
    wrong_name = re.compile(r"^$|[=\0\n]")
    return any(wrong_name.search(name) for name in values) or "\\u0000" in json.dumps(values)


def wrong_arguments(manifest):
    texts, lines = arguments_of(manifest)
    return any("\0" in x for x in texts) or any("\n" in x for x in lines)


def wrong_path(manifest):
    """The reason why a path of an entry is refused, or None."""
    paths = [path for path, _ in entries_of(manifest.get("entries"))]
    if any("\0" in path for path in paths):
        return "nul"
    if any("\n" in path for path in paths):
        return "newline"
    return "too_long" if any(len(path.encode()) > 4095 for path in paths) else None


def refusal_of(manifest):
    """The error that a manifest is refused with here, which the reference accepts; or None."""
    if wrong_root(manifest):
        return an_error("sandbox_config_invalid")
    if wrong_path(manifest):
        return an_error("invalid_manifest_path", wrong_path(manifest))
    wrongs = (wrong_accounts, wrong_digits, wrong_environment, wrong_arguments)
    if any(wrong(manifest) for wrong in wrongs):
        return an_error("invalid_manifest")


@rule("paths-are-one-line", "manifest_validate", "manifest_describe")
def _(case, want):
    reason = wrong_path(manifest_of(case)) if "ok" in want else None
    if reason:
        return {"error": an_error("invalid_manifest_path", reason)}


def refused_at_create(case, want, code, wrong):
    """`want` with a create that is refused, if the manifest is `wrong`."""
    if "ok" in want and wrong(manifest_of(case)):
        return {"ok": {**want["ok"], "unix_local_create": an_error(code)}}


@rule("account-names", "manifest_validate")
def _(case, want):
    return refused_at_create(case, want, "invalid_manifest", wrong_accounts)


@rule("permission-digits", "manifest_validate")
def _(case, want):
    if "ok" in want and any(abs(x) > 2**31 - 1 for x in digits_of(manifest_of(case))):
        return {"error": an_error("invalid_manifest")}
    return refused_at_create(case, want, "invalid_manifest", wrong_digits)


@rule("environment-names", "manifest_validate")
def _(case, want):
    return refused_at_create(case, want, "invalid_manifest", wrong_environment)


@rule("arguments-are-text", "manifest_validate")
def _(case, want):
    return refused_at_create(case, want, "invalid_manifest", wrong_arguments)


@rule("root-must-be-absolute", "manifest_validate")
def _(case, want):
    return refused_at_create(case, want, "sandbox_config_invalid", wrong_root)


def mounts_of(case):
    for path, entry in entries_of(manifest_of(case).get("entries")):
        if str(entry.get("type")).endswith("_mount"):
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
    if "ok" not in want:
        return None
    # As they were read: an `ephemeral` may be given as text or a number.
    mounts = list(mounts_of({"input": json.loads(want["ok"]["dump"])}))
    if all(entry["ephemeral"] for _, entry in mounts):
        return None
    root = posixpath.normpath(case["input"].get("root", "/workspace")).rstrip("/") + "/"
    targets = [target for _, target in want["ok"]["mount_targets"]]
    inside = {target[len(root) :] for target in targets if target.startswith(root)}
    keys = {path for path, _ in mounts}
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
        path = inside(step.get("path", ""))
        if step["op"] in ("write", "host_write") and not isinstance(made.get(path), dict):
            if not any(path.startswith(other + "/") for other in made):
                made[path] = step["content"]
        if step["op"] == "exec":
            script = " ".join(step["command"])
            for target, name in re.findall(r"\bln -s ([^\s;&]+) ([^\s;&]+)", script):
                made[inside(name)] = {"symlink": target}
            for name in re.findall(r"\bmkfifo ([^\s;&]+)", script):
                made[inside(name)] = {"fifo": True}
    return made


def inside(path):
    """A path below the root, normal."""
    return posixpath.normpath(path).removeprefix("{ROOT}/")


def is_link(value):
    return isinstance(value, dict) and "symlink" in value


def followed_part(step):
    """The part of a step's path in which links are followed, below the root; or None."""
    path = inside(step.get("path", ""))
    if step["op"] not in ("read", "write", "ls", "mkdir", "rm") or path[:1] in ("/", "{"):
        return None
    whole = step["op"] in ("read", "write", "mkdir") or step["path"].endswith("/")
    return path if whole else posixpath.dirname(path)


@rule("absolute-links-lead-out", "lifecycle")
def _(case, want):
    lost = False

    def change(step, result):
        nonlocal lost
        path = followed_part(step)
        made = made_files(case, step)
        refused = path is not None and models.Follow(made, path).refused
        if step["op"] == "apply_patch":
            operations = step["operations"] if isinstance(step["operations"], list) else []
            paths = [x.get("path", "") for x in operations if isinstance(x, dict)]
            refused = any(models.Follow(made, inside(x)).refused for x in paths)
        if refused and code_of(result) != "invalid_manifest_path":
            lost = lost or "ok" in result and step["op"] != "read"
            reason = "absolute" if step.get("path", "").startswith("{") else "escape_root"
            return {"error": an_error("invalid_manifest_path", reason)}
        return anything if lost and step["op"] in ("tree", "read", "ls", "exec") else None

    return each_step(case, want, change)


@rule("parents-count-by-name", "lifecycle")
def _(case, want):
    lost = False

    def change(step, result):
        nonlocal lost
        parts = step.get("path", "").removeprefix("{ROOT}/").split("/")
        links = {path for path, value in made_files(case, step).items() if is_link(value)}
        behind = ".." in parts and any(
            "/".join(parts[:i]) in links for i in range(1, len(parts)) if parts[i] == ".."
        )
        if behind:
            lost = lost or step["op"] != "read"
            return anything
        return anything if lost and step["op"] in ("tree", "read", "ls", "exec", "outside") else None

    return each_step(case, want, change)


@rule("nothing-is-made-behind-links", "lifecycle")
def _(case, want):
    lost = False

    def change(step, result):
        nonlocal lost
        made = made_files(case, step)
        path = inside(step.get("path", ""))
        folder = path if step["op"] == "mkdir" else posixpath.dirname(path)
        links = [x for x in made if is_link(made[x]) and models.below(folder, x)]
        if step["op"] == "write" and str(models.of(made, path).get("symlink")).endswith("/"):
            links.append(path)
        follows = [models.Follow(made, link) for link in links]
        to = ["/".join(x.at) for x in follows if not x.refused and not x.loop]
        missing = any(not any(models.below(x, target) for x in made) for target in to if target)
        if step["op"] in ("write", "mkdir") and missing and "ok" in result:
            lost = True
            return {"error": an_error("workspace_archive_write_error")}
        return anything if lost and step["op"] in ("tree", "read", "ls", "exec") else None

    return each_step(case, want, change)


@rule("nothing-is-below-a-file", "lifecycle")
def _(case, want):
    def change(step, result):
        if step["op"] != "rm" or not step.get("recursive"):
            return None
        made = made_files(case, step)
        folder = posixpath.dirname(inside(step["path"]))
        at = "/".join(models.Follow(made, folder).at)
        is_file = at in made and not is_link(made[at])
        if is_file and code_of(result) == "workspace_archive_write_error":
            return {"ok": None}

    return each_step(case, want, change)


@rule("the-root-stays", "lifecycle")
def _(case, want):
    removed = False

    def change(step, result):
        nonlocal removed
        granted = {
            grant.get("path")
            for create in steps_named(case, "create")
            for grant in manifest_in(create).get("extra_path_grants") or []
        }
        path = posixpath.normpath(step.get("path", ""))
        if step["op"] == "rm" and path in {".", "{ROOT}", *granted}:
            removed = True
            return {"error": an_error("workspace_archive_write_error", "is_root")}
        later = ("tree", "ls", "read", "write", "mkdir", "rm", "exec", "stop", "outside")
        return anything if removed and step["op"] in later else None

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


@rule("shut-down-is-shut-down", "lifecycle")
def _(case, want):
    down = started = lost = False
    calls = ("exec", "read", "write", "ls", "mkdir", "rm", "apply_patch", "extract", "pty_start")

    def change(step, result):
        nonlocal down, started, lost
        if step["op"] in ("create", "resume", "start"):
            down, started, lost = False, step["op"] == "start" or started, False
        down = down or started and step["op"] in ("shutdown", "aclose")
        if down and step["op"] in calls and code_of(result) != "not_found":
            lost = True
            return {"error": an_error("conflict")}
        return anything if lost and step["op"] == "tree" else None

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
        value = made_files(case, step).get(inside(step.get("path", "")))
        if step["op"] == "ls" and value is not None and not is_link(value):
            kind = "other" if isinstance(value, dict) and "fifo" in value else "file"
            return {"ok": lambda items: [x["kind"] for x in items] == [kind]}

    return each_step(case, want, change)


@rule("listing-a-link", "lifecycle")
def _(case, want):
    def change(step, result):
        value = made_files(case, step).get(inside(step.get("path", "")))
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
    failed = any("chgrp" in str(x.get("error", "")) for x in want["ok"] if isinstance(x, dict))

    def change(step, result):
        if failed and step["op"] == "tree" and "ok" in result:
            files = result["ok"].items()
            return {"ok": {path: {"text": text, "mode": "0755"} for path, text in files}}

    return each_step(case, want, change)


@rule("grants-do-not-open-the-host", "lifecycle")
def _(case, want):
    kinds = {"local_file": "local_file_read_error", "local_dir": "local_dir_read_error"}
    for create in steps_named(case, "create"):
        for _, entry in entries_of(manifest_in(create).get("entries")):
            if entry.get("type") in kinds and (entry.get("src") or "").startswith("{OUT}"):
                error = {"error": an_error(kinds[entry["type"]], "outside_base_dir")}

                def change(step, result):
                    if step["op"] == "start":
                        return error
                    return anything if step["op"] not in ("create", "host_source") else None

                return each_step(case, want, change)


def contents_of(tree):
    """What is in the files of a tree, without modes and folders."""
    return {
        path: value.get("text", value.get("b64", value.get("symlink")))
        if isinstance(value, dict)
        else value
        for path, value in tree.items()
        if not (isinstance(value, dict) and "dir" in value)
    }


@rule("sources-come-whole", "lifecycle")
def _(case, want):
    entries = [
        entry
        for step in steps_named(case, "create", "apply_manifest")
        for _, entry in entries_of(manifest_in(step).get("entries"))
    ]
    if not any(entry.get("type") == "local_dir" and entry.get("src") for entry in entries):
        return None

    def change(step, result):
        wanted = result.get("ok")
        if step["op"] == "tree" and isinstance(wanted, dict):
            return {"ok": lambda got: contents_of(got) == contents_of(wanted)}

    return each_step(case, want, change)


@rule("entries-are-relative", "lifecycle")
def _(case, want):
    def change(step, result):
        reason = ((result.get("error") or {}).get("context") or {}).get("reason")
        if step["op"] in ("start", "apply_manifest") and reason == "absolute":
            return {"error": an_error("invalid_manifest_path", "escape_root")}

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
        if gone and step["op"] == "read" and "error" in result:
            return {"error": {"code": None, "type": "any"}}

    return each_step(case, want, change)


@rule("refused-at-create", "lifecycle")
def _(case, want):
    for i, (step, result) in enumerate(zip(case["input"]["steps"], want["ok"])):
        if step["op"] != "create" or callable(result) or "ok" not in result:
            continue
        manifest = manifest_in(step)
        refusal = refusal_of(manifest)
        if not refusal and (manifest.get("users") or manifest.get("groups")):
            refusal = an_error("sandbox_config_invalid")
        if refusal:
            results = want["ok"][:i] + [{"error": refusal}]
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
