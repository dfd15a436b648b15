"""Small archives like those of a package registry."""

import io
import tarfile


def write_tgz(path, members):
    """Writes files, given as `{name: bytes}`, and returns the path."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
