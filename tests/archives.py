"""Small archives, as a package registry sends them."""

import io
import tarfile


def write_tgz(path, members):
    """Writes `{name: bytes}`, and returns the path."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
