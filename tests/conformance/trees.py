"""Trees of files as the vectors write them: made on the disk, and read back."""

import base64
import os
import shutil
import stat


def content(value):
    """The bytes of a file's value."""
    if isinstance(value, str):
        return value.encode()
    return value["text"].encode() if "text" in value else base64.b64decode(value["b64"])


def in_order(tree):
    """What `tree` has; hard links last, for they need their target."""
    return sorted(tree.items(), key=lambda x: isinstance(x[1], dict) and "hardlink" in x[1])


def make(root, tree):
    """Makes what `tree` says below `root`."""
    for path, value in in_order(tree):
        file = os.path.join(root, path)
        os.makedirs(os.path.dirname(file), exist_ok=True)
        more = value if isinstance(value, dict) else {}
        if "symlink" in more:
            os.symlink(more["symlink"], file)
            continue
        if "hardlink" in more:
            os.link(os.path.join(root, more["hardlink"]), file)
            continue
        if "fifo" in more:
            os.mkfifo(file)
        elif "dir" in more:
            os.makedirs(file, exist_ok=True)
        else:
            with open(file, "wb") as out:
                out.write(content(value))
                out.truncate(more.get("size", out.tell()))
        os.chmod(file, int(more.get("mode", "0755" if "dir" in more else "0644"), 8))
        if "mtime" in more:
            os.utime(file, (more["mtime"], more["mtime"]))


def value_of(data):
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode()}


def file_value(data, mode):
    value = value_of(data)
    if mode != 0o644:
        value["mode"] = f"{mode:04o}"
    return value["text"] if list(value) == ["text"] else value


def read_file(path, mode):
    with open(path, "rb") as file:
        return file_value(file.read(), mode)


def read(root):
    """The tree below `root`."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            mode = stat.S_IMODE(info.st_mode)
            if stat.S_ISLNK(info.st_mode):
                value = {"symlink": os.readlink(path)}
            elif stat.S_ISREG(info.st_mode):
                value = read_file(path, mode)
            elif stat.S_ISDIR(info.st_mode):
                if os.listdir(path) and mode == 0o755:
                    continue
                value = {"dir": True} if mode == 0o755 else {"dir": True, "mode": f"{mode:04o}"}
            else:
                value = {"fifo": True} if stat.S_ISFIFO(info.st_mode) else {"other": True}
            found[os.path.relpath(path, root)] = value
    return found


def with_sizes(tree, wanted):
    """`tree` with sizes where `wanted` has no more than a size."""
    cut = dict(tree)
    for path, value in wanted.items():
        if path in cut and isinstance(value, dict) and "size" in value:
            more = cut[path] if isinstance(cut[path], dict) else {}
            cut[path] = {"size": len(content(cut[path]))}
            if "mode" in more:
                cut[path]["mode"] = more["mode"]
    return cut


class Place:
    """A fresh folder for one case, with the names that the vectors use for what is in it."""

    def __init__(self, base):
        self.base = base
        self.names = {
            "{ROOT}": os.path.join(base, "ws"),
            "{OUT}": os.path.join(base, "outside"),
            "{SRC}": os.path.join(base, "src"),
            "{SNAP}": os.path.join(base, "snap"),
            "{BASE}": base,
        }
        shutil.rmtree(base, ignore_errors=True)
        for name in ("{ROOT}", "{OUT}", "{SRC}"):
            os.makedirs(self.names[name])
        self.root = self.names["{ROOT}"]

    def put(self, value):
        """`value` with real paths for the names in it."""
        return self._replace(value, list(self.names.items()))

    def take(self, value):
        """`value` with names for the real paths in it."""
        return self._replace(value, [(real, name) for name, real in self.names.items()])

    def _replace(self, value, pairs):
        if isinstance(value, str):
            for old, new in pairs:
                value = value.replace(old, new)
            return value
        if isinstance(value, list):
            return [self._replace(x, pairs) for x in value]
        if isinstance(value, dict):
            return {self._replace(k, pairs): self._replace(v, pairs) for k, v in value.items()}
        return value
