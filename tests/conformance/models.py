"""What archives and paths come to under Troupe's rules, told a second time for deviations.py."""

import dataclasses
import io
import posixpath
import re
import stat
import struct
import tarfile
import zipfile

import areas
import trees


def normal(name):
    return "/".join(part for part in name.split("/") if part not in ("", "."))


@dataclasses.dataclass
class Member:
    name: str
    kind: str  # dir, file, symlink, hardlink, other
    mode: int  # permission bits; 0: a zip that has none
    link: str = ""
    data: bytes = b""

    @property
    def path(self):
        """Normal, below the folder that the archive goes to; "": the folder itself."""
        return normal(self.name)

    @property
    def target(self):
        """The path of the member that a hard link names."""
        return normal(self.link)


def tar_members(data):
    """The members of a tar, or None if it is damaged."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            kinds = {
                tarfile.DIRTYPE: "dir",
                tarfile.SYMTYPE: "symlink",
                tarfile.LNKTYPE: "hardlink",
                **{kind: "file" for kind in tarfile.REGULAR_TYPES},
            }
            return [
                Member(
                    info.name,
                    kinds.get(info.type, "other"),
                    info.mode & 0o7777,
                    info.linkname,
                    archive.extractfile(info).read() if info.isreg() else b"",
                )
                for info in archive
            ]
    except (tarfile.TarError, EOFError, OSError):
        return None


def zip_members(data):
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = []
            for info in archive.infolist():
                mode = info.external_attr >> 16
                is_dir = info.filename.endswith("/")
                kind = "dir" if is_dir else "symlink" if stat.S_ISLNK(mode) else "file"
                members.append(Member(info.filename, kind, mode & 0o7777))
            return members
    except (zipfile.BadZipFile, NotImplementedError, ValueError, IndexError):
        return None


def members_of(area, case):
    try:
        data = areas.archive_of(case["input"])
        return zip_members(data) if area == "zip_extract" else tar_members(data)
    except (ValueError, OSError):
        return None


def is_whole(data):
    """Whether a plain tar has sound headers up to its end marker."""
    try:
        return has_sound_headers(data)
    except ValueError:
        return False


def has_sound_headers(data):
    at = 0
    while at + 1024 <= len(data):
        block = data[at : at + 512]
        if not any(block):
            return not any(data[at : at + 1024])
        if int(block[148:156].strip(b" \0") or b"0", 8) != sum(block) - sum(block[148:156]) + 256:
            return False
        size = int(block[124:136].strip(b" \0") or b"0", 8)
        at += 512 + (size + 511) // 512 * 512
    return False


def is_whole_zip(data):
    """Whether all members of a zip can be read, and the two headers of each say the same."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for info in archive.infolist():
                header = data[info.header_offset : info.header_offset + 26]
                magic, _, flags, method, _, crc, packed, size = struct.unpack("<4s3HI3I", header)
                same = (crc, packed, size) == (info.CRC, info.compress_size, info.file_size)
                if magic != b"PK\3\4" or method != info.compress_type or not (same or flags & 8):
                    return False
            return archive.testzip() is None
    except Exception:  # whatever its readers throw at damage
        return False


def faults_of(members):
    """Why a restore refuses an archive, one text for every member that is at fault."""
    seen = {}
    found = []
    for member in members:
        parts = member.name.split("/")
        if "\\" in member.name or re.match(r"^[A-Za-z]:", member.name):
            found.append("name")
        elif member.name.startswith("/") or ".." in parts:
            found.append("name")
        elif not member.path:
            if member.kind != "dir":
                found.append("root")
        elif member.kind == "other":
            found.append("kind")
        elif member.path in seen and {seen[member.path], member.kind} != {"dir"}:
            found.append("duplicate")
        elif member.kind == "hardlink" and seen.get(member.target, "dir") == "dir":
            found.append("hardlink")
        elif member.path not in seen:
            seen[member.path] = member.kind
    for path in seen:
        above = path.split("/")[:-1]
        while above:
            if seen.get("/".join(above), "dir") != "dir":
                found.append("descends through " + "/".join(above))
            above.pop()
    return found


def restored(members):
    """The tree that a restore makes of members without faults."""
    tree, contents = {}, {}
    for member in members:
        if member.kind == "hardlink":
            member = dataclasses.replace(contents[member.target], name=member.name)
        contents[member.path] = member
        if member.kind == "file":
            tree[member.path] = trees.file_value(member.data, member.mode & 0o777)
        elif member.kind == "symlink":
            tree[member.path] = {"symlink": member.link}
        elif member.kind == "dir" and member.path:
            mode = member.mode & 0o3777
            if mode != 0o755:
                tree[member.path] = {"dir": True, "mode": f"{mode:04o}"}
            elif not any(other.path.startswith(member.path + "/") for other in members):
                tree[member.path] = {"dir": True}
    return tree


def as_read(tree):
    """What reading the files back gives, which a case has before."""
    found = {}
    for path, value in tree.items():
        if isinstance(value, dict) and "hardlink" in value:
            value = tree[value["hardlink"]]
        if isinstance(value, dict) and not value.keys() & {"symlink", "fifo"}:
            value = {k: v for k, v in value.items() if k != "mtime"}
            plain = "0755" if "dir" in value else "0644"
            if value.get("mode") == plain:
                del value["mode"]
        if isinstance(value, dict) and list(value) == ["text"]:
            value = value["text"]
        if value == {"dir": True} and any(other.startswith(path + "/") for other in tree):
            continue
        found[path] = value
    return found


def is_in_the_way(tree, members):
    """Whether something in the workspace cannot give way to a member: a folder where none comes,
    or a link above."""
    for member in members:
        parts = member.path.split("/")
        if any("symlink" in of(tree, "/".join(parts[:i])) for i in range(1, len(parts))):
            return True
        below = any(path.startswith(member.path + "/") for path in tree)
        if member.path and member.kind != "dir" and (below or "dir" in of(tree, member.path)):
            return True
    return False


def of(tree, path):
    value = tree.get(path)
    return value if isinstance(value, dict) else {}


def with_modes(files, members, folder, replace, before):
    """`files` with the modes that the members have; `before`: what was there."""
    changed = dict(files)
    for member in members:
        path = posixpath.join(folder, member.path) if member.path else ""
        value = changed.get(path)
        if member.kind == "file" and value is not None and (member.mode or replace):
            more = {"text": value} if isinstance(value, str) else dict(value)
            if more.keys() & {"text", "b64", "size"}:
                more.pop("mode", None)
                mode = member.mode & 0o777
                if mode != 0o644:
                    more["mode"] = f"{mode:04o}"
                changed[path] = more["text"] if list(more) == ["text"] else more
        elif member.kind == "dir" and path and replace:
            mode = member.mode & 0o3777
            if mode != 0o755:
                changed[path] = {"dir": True, "mode": f"{mode:04o}"}
            elif any(other.startswith(path + "/") for other in changed):
                changed.pop(path, None)
            elif path in changed:
                changed[path] = {"dir": True}
        elif member.kind == "dir" and path and member.mode and path not in before:
            mode = (member.mode & 0o777 | 0o700) & ~0o022  # the umask
            if mode != 0o755 and not any(x.startswith(path + "/") for x in before):
                changed[path] = {"dir": True, "mode": f"{mode:04o}"}
    return changed


# -- paths -----------------------------------------------------------------------------------------


def below(path, folder):
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class Follow:
    """Where the kernel gets to from `root` by a relative path when it may not leave the root and
    follows no absolute link."""

    def __init__(self, tree, path):
        self.links = 0
        self.refused = False
        self.loop = False
        self.at = []
        self._walk(tree, path.split("/"))

    def _walk(self, tree, parts):
        parts = [part for part in parts if part not in ("", ".")]
        while parts and not (self.refused or self.loop):
            part = parts.pop(0)
            if part == "..":
                if not self.at:
                    self.refused = True
                    return
                self.at.pop()
                continue
            value = tree.get("/".join([*self.at, part]))
            if not (isinstance(value, dict) and "symlink" in value):
                self.at.append(part)
                continue
            self.links += 1
            if self.links > 40:
                self.loop = True
            elif value["symlink"].startswith(("/", "{")):
                self.refused = True
            else:
                parts = [x for x in value["symlink"].split("/") if x not in ("", ".")] + parts


# Stand-ins for the names that the vectors use.
folders = {"{ROOT}": "/base/ws", "{OUT}": "/base/outside", "{SRC}": "/base/src", "{BASE}": "/base"}


def real(path):
    for name, folder in folders.items():
        path = path.replace(name, folder)
    return path


def named(path):
    for name, folder in folders.items():
        path = path.replace(folder, name)
    return path


def refusal(code, reason):
    return {"error": {"code": code, "type": "", "context": {"reason": reason}}}


def used_path(given):
    """The outcome of using a path of a `resolve` case, and whether links or `..` had a say that
    they do not have in the reference."""
    root, path = real(given["root"]), real(given["path"])
    absolute = posixpath.normpath(posixpath.join(root, path))
    grants = [{**grant, "path": real(grant["path"])} for grant in given.get("grants", [])]
    grants.sort(key=lambda grant: -grant["path"].count("/"))
    if not below(absolute, root):
        by_link = any(below(grant["path"], root) for grant in grants)
        grant = next((x for x in grants if path[0] == "/" and below(absolute, x["path"])), None)
        if grant is None:
            reason = "absolute" if path[0] == "/" else "escape_root"
            return refusal("invalid_manifest_path", reason), by_link
        if grant.get("read_only") and given["for_write"]:
            return refusal("workspace_archive_write_error", "read_only_extra_path_grant"), by_link
        return {"ok": named(absolute)}, by_link
    followed = Follow(given["tree"], posixpath.relpath(absolute, root))
    if followed.loop:
        return None, False
    if followed.refused:
        reason = "absolute" if path[0] == "/" else "escape_root"
        return refusal("invalid_manifest_path", reason), True
    return {"ok": named(posixpath.join(root, *followed.at))}, ".." in path.split("/")
