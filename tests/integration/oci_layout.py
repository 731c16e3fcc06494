"""OCI image layouts as other tools write them."""

import gzip
import hashlib
import io
import json
import os
import tarfile


def layer(members):
    """A tar of (name, kind, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind, value in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o4755
            if kind == "dir":
                info.type = tarfile.DIRTYPE
            elif kind == "link":
                info.type, info.linkname = tarfile.SYMTYPE, value
            elif kind == "device":
                info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
            data = value if kind == "file" else b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write_layout(folder, *layers, diff_ids=None):
    """Makes a layout of packed layers; gives their descriptors."""
    os.makedirs(folder + "/blobs/sha256", exist_ok=True)

    def blob(data):
        name = hashlib.sha256(data).hexdigest()
        with open(f"{folder}/blobs/sha256/{name}", "wb") as out:
            out.write(data)
        return {"digest": "sha256:" + name, "size": len(data)}

    made = [blob(x) for x in layers]
    plain = [gzip.decompress(x) if x[:2] == b"\x1f\x8b" else x for x in layers]
    ids = diff_ids or ["sha256:" + hashlib.sha256(x).hexdigest() for x in plain]
    config = blob(json.dumps({"rootfs": {"type": "layers", "diff_ids": ids}}).encode())
    manifest = blob(json.dumps({"schemaVersion": 2, "config": config, "layers": made}).encode())
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    with open(folder + "/oci-layout", "w", encoding="utf-8") as out:
        out.write('{"imageLayoutVersion": "1.0.0"}')
    with open(folder + "/index.json", "w", encoding="utf-8") as out:
        json.dump({"schemaVersion": 2, "manifests": [manifest]}, out)
    return made
