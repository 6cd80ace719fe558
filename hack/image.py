#!/usr/bin/env python3
"""image.py TAR REF ENTRYPOINT USER SRC=DST...: writes an image of one layer, made of files, as a docker-archive.

The output is reproducible: it contains no times and no owners, and the order is that of the arguments. `=DST/` creates a directory.
"""
import hashlib
import io
import json
import os
import platform
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def layer(files):
    """The uncompressed tar of the files, in directories that everyone may read."""
    buffer = io.BytesIO()
    made = set()

    def make_directory(tar, path):
        if path in ("", "/") or path in made:
            return
        make_directory(tar, os.path.dirname(path))
        made.add(path)
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type = tarfile.DIRTYPE
        entry.mode = 0o1777 if path == "/tmp" else 0o755
        tar.addfile(entry)

    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for file in files:
            source, target = file.split("=", 1)
            make_directory(tar, os.path.dirname(target))
            if not source:
                continue
            entry = tarfile.TarInfo(target.lstrip("/"))
            entry.size = os.stat(source).st_size
            entry.mode = 0o755
            with open(source, "rb") as content:
                tar.addfile(entry, content)
    return buffer.getvalue()


def main():
    out, reference, entrypoint, user, *files = sys.argv[1:]
    content = layer(files)
    digest = hashlib.sha256(content).hexdigest()
    config = json.dumps({
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {
            "Entrypoint": [entrypoint],
            "User": user,
            "Env": ["PATH=/usr/local/bin:/bin"],
            "WorkingDir": "/",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
    }).encode()
    name = hashlib.sha256(config).hexdigest() + ".json"
    blob = digest + "/layer.tar"
    manifest = json.dumps([{"Config": name, "RepoTags": [reference], "Layers": [blob]}]).encode()
    # The image is written to another file and renamed, so that a killed run leaves no incomplete image.
    with tarfile.open(out + ".new", "w") as tar:
        for path, data in ((name, config), (blob, content), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    os.replace(out + ".new", out)


main()
