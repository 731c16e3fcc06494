"""What a patch comes to, told a second time for deviations.py: as the reference has it, and under
each of Troupe's own rules."""

import json
import posixpath
import re

import trees


class Fault(Exception):
    def __init__(self, code=None, reason=None):
        super().__init__(code)
        self.code = code
        self.reason = reason


# -- diffs -----------------------------------------------------------------------------------------

ends = ("*** End Patch", "*** Update File:", "*** Delete File:", "*** Add File:")
end_of_file = "*** End of File"
views = (lambda line: line, str.rstrip, str.strip)


def same(view, some, others):
    return [view(x) for x in some] == [view(x) for x in others]


def place_of(lines, wanted, start):
    """Where `wanted` is in `lines` at or behind `start`, or None."""
    for view in views if wanted else ():
        for at in range(start, len(lines) - len(wanted) + 1):
            if same(view, lines[at : at + len(wanted)], wanted):
                return at
    return None if wanted else start


def behind_anchor(lines, anchor, cursor, first):
    for view in (views[0], views[2]):
        if first and view(anchor) in map(view, lines[:cursor]):
            return cursor
        for at in range(cursor, len(lines)):
            if view(lines[at]) == view(anchor):
                return at + 1
    return None


def read_section(diff):
    """Takes a section off `diff`: its context, and its chunks (place in the context, lines that go,
    lines that come)."""
    context, chunks, gone, new = [], [], [], []

    def close():
        if gone or new:
            chunks.append((len(context) - len(gone), len(gone), list(new)))
        gone.clear(), new.clear()

    while not diff[0].startswith(("@@", end_of_file, *ends)) and diff[0] != "***":
        line = diff.pop(0) or " "
        if line[0] == " ":
            close()
        elif line[0] not in "+-":
            raise Fault()
        (new if line[0] == "+" else context).append(line[1:])
        if line[0] == "-":
            gone.append(line[1:])
    close()
    return context, chunks


def apply_diff(text, diff, mode, whole_end=False):
    """`whole_end`: the end of the file is before its last newline, not behind it."""
    shown = text if mode != "create" and "\n" in text else diff
    newline = "\r\n" if "\r\n" in shown else "\n"
    diff = [line.rstrip("\r") for line in diff.split("\n")]
    if diff[-1] == "":
        diff.pop()
    diff.append(ends[0])
    if mode == "create":
        added = diff[: next(i for i, line in enumerate(diff) if line.startswith(ends))]
        if not all(line.startswith("+") for line in added):
            raise Fault()
        return newline.join(line[1:] for line in added)
    lines = text.replace("\r\n", "\n").split("\n")
    cursor, all_chunks = 0, []
    while not diff[0].startswith((end_of_file, *ends)):
        anchors = []
        while diff[0] == "@@" or diff[0].startswith("@@ "):
            anchors.append(diff.pop(0)[3:])
        if not anchors and cursor:
            raise Fault()
        searched = [anchor for anchor in anchors if anchor.strip()]
        for i, anchor in enumerate(searched):
            at = behind_anchor(lines, anchor, cursor, i == 0)
            if at is None and len(anchors) > 1:
                raise Fault()
            cursor = cursor if at is None else at
        length = len(diff)
        context, chunks = read_section(diff)
        at = None
        if diff[0] == end_of_file:
            diff.pop(0)
            at = place_of(lines, context, max(0, len(lines) - len(context)))
            behind = len(lines) - 1 - len(context)
            if at is None and whole_end and lines[-1] == "" and behind >= cursor:
                at = place_of(lines[:-1], context, behind)
        elif len(diff) == length:
            raise Fault()
        if at is None:
            at = place_of(lines, context, cursor)
        if at is None:
            raise Fault()
        cursor = at + len(context)
        all_chunks += [(at + place, gone, new) for place, gone, new in chunks]
    out, done = [], 0
    for place, gone, new in all_chunks:
        if place < done:
            raise Fault()
        out += lines[done:place] + new
        done = place + gone
    return newline.join(out + lines[done:])


# -- patches ---------------------------------------------------------------------------------------

headers = {
    "*** Add File: ": "create_file",
    "*** Delete File: ": "delete_file",
    "*** Update File: ": "update_file",
}
move_header = "*** Move to: "


def written(raw):
    """The operations of a tool's text; None if it is none."""
    if raw.lstrip()[:1] in ("{", "["):
        payload = json.loads(raw)
        if isinstance(payload, dict):
            payload = payload.get("operations") or [payload.get("operation") or payload]
        return payload
    lines = raw.splitlines()
    if len(lines) < 3 or lines[0] != ends[0].replace("End", "Begin") or lines[-1] != ends[0]:
        return None
    operations, body = [], None
    for line in lines[1:-1]:
        header = next((x for x in headers if line.startswith(x)), None)
        if header:
            body = []
            path = line[len(header) :].strip()
            operations.append({"type": headers[header], "path": path, "body": body})
        elif body == [] and line.startswith(move_header) and "move_to" not in operations[-1]:
            operations[-1]["move_to"] = line[len(move_header) :].strip()
        elif body is not None:
            body.append(line)
    for x in operations:
        x["diff"] = "\n".join(x.pop("body")) + "\n"
    return operations


def operations_of(given):
    listed = written(given["raw"]) if "raw" in given else given["operations"]
    return listed if isinstance(listed, list) else [listed]


class File:
    def __init__(self, data, mode=0o644):
        self.data = data
        self.mode = mode


class Workspace:
    """A tree under a patch. `own`: the names of Troupe's rules that hold."""

    def __init__(self, tree, cwd, own):
        self.own = own
        self.cwd = cwd or ""
        # A File (names of one file share it), a link's target, None for a folder.
        self.entries = {"": None}
        for path, value in trees.in_order(tree):
            more = value if isinstance(value, dict) else {}
            if "hardlink" in more:
                self.put(path, self.entries[more["hardlink"]])
            elif "symlink" in more or "dir" in more:
                self.put(path, more.get("symlink"))
            else:
                self.put(path, File(trees.content(value), int(more.get("mode", "0644"), 8)))

    def put(self, path, entry):
        while path:
            self.entries[path] = entry
            path, entry = posixpath.dirname(path), None

    def lexical(self, path):
        if not path.strip():
            raise Fault("apply_patch_invalid_path", "empty")
        path = path.replace("\\", "/")
        real = posixpath.normpath(posixpath.join("/", *top, self.cwd, at_base(path)))
        if re.match("[A-Za-z]:/", path) or real.split("/")[1:3] != top:
            raise Fault("apply_patch_invalid_path", "escape_root")
        return "/".join(real.split("/")[3:])

    def led(self, path):
        """Where links lead."""
        parts, at = path.split("/"), [*top]
        for _ in range(1000):
            if not parts:
                break
            part = parts.pop(0)
            entry = self.entries.get("/".join([*at, part][len(top) :])) if at[:2] == top else None
            if part == "..":
                at.pop()
            elif isinstance(entry, str):
                parts = [x for x in at_base(entry).split("/") if x not in ("", ".")] + parts
                if at_base(entry).startswith("/"):
                    at = []
            elif part not in ("", "."):
                at.append(part)
            if at[:2] != top and "patches-stay-inside" in self.own:
                break
        else:
            raise Fault()
        if at[:2] != top:
            raise Fault("invalid_manifest_path", "escape_root")
        return "/".join(at[len(top) :])

    def read(self, path):
        at = self.led(path)
        above = posixpath.dirname(at)
        while above not in self.entries:
            above = posixpath.dirname(above)
        if isinstance(self.entries.get(above), File):
            raise Fault("workspace_archive_read_error")
        if at not in self.entries:
            raise Fault("apply_patch_file_not_found")
        if self.entries[at] is None:
            raise Fault("workspace_archive_read_error")
        return self.entries[at]

    def write(self, path, data, mode=None):
        at = self.led(path)
        folder = posixpath.dirname(path)
        while folder and "patches-stay-inside" in self.own:
            if isinstance(self.entries.get(folder), str) and self.led(folder) not in self.entries:
                raise Fault("workspace_archive_write_error")
            folder = posixpath.dirname(folder)
        above = posixpath.dirname(at)
        while above:
            if isinstance(self.entries.get(above), File):
                raise Fault("workspace_archive_write_error")
            above = posixpath.dirname(above)
        there = self.entries.get(at)
        if at in self.entries and there is None:
            raise Fault("workspace_archive_write_error")
        if there is None or "replaced-not-rewritten" in self.own:
            there = File(b"", there.mode & 0o777 if there else 0o644)
            self.put(at, there)
        there.data = data
        there.mode = there.mode if mode is None else mode

    def remove(self, path):
        if "patches-take-the-link" in self.own:
            folder = self.led(posixpath.dirname(path) or ".")
            self.entries.pop(posixpath.join(folder, posixpath.basename(path)))
        else:
            self.entries.pop(self.led(path))

    def apply(self, operation):
        path = self.lexical(operation["path"])
        if operation["type"] == "delete_file":
            self.read(path)
            return self.remove(path)
        if not isinstance(operation.get("diff"), str):
            raise Fault("apply_patch_invalid_diff")
        create = operation["type"] == "create_file"
        old = File(b"") if create else self.read(path)
        whole_end = "end-of-file-is-the-end" in self.own
        try:
            text = old.data.decode()
            mode = "create" if create else "update"
            data = apply_diff(text, operation["diff"], mode, whole_end).encode()
        except UnicodeDecodeError:
            raise Fault("apply_patch_decode_error") from None
        except Fault:
            raise Fault("apply_patch_invalid_diff") from None
        if create or operation.get("move_to") is None:
            return self.write(path, data)
        target = self.lexical(operation["move_to"])
        self.write(target, data, old.mode & 0o777 if "move-keeps-mode" in self.own else None)
        if self.led(target) != self.led(path):
            self.remove(path)

    def tree(self):
        found = {}
        for path, entry in self.entries.items():
            if isinstance(entry, File):
                found[path] = trees.file_value(entry.data, entry.mode)
            elif isinstance(entry, str):
                found[path] = {"symlink": entry}
            elif path and not any(other.startswith(path + "/") for other in self.entries):
                found[path] = {"dir": True}
        return found


top = ["base", "ws"]  # stands for the workspace


def at_base(path):
    return path.replace("{ROOT}", "/base/ws").replace("{OUT}", "/base/outside")


def patched(given, own):
    """The outcome of a case of apply_patch without the text of its result; None where this model has
    no say."""
    try:
        operations = operations_of(given)
        workspace = Workspace(given["files"], given.get("cwd"), own)
        for operation in operations:
            workspace.apply(operation)
    except Fault as fault:
        context = {"context": {"reason": fault.reason}} if fault.reason else {}
        return {"error": {"code": fault.code, "type": "", **context}, "files": workspace.tree()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return {"ok": {"files": workspace.tree()}}
