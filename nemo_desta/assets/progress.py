"""The progress bar of a fetch: bytes of all downloads together, speed, time left and what is under way."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from nemo_desta.assets.catalogue import Package

_NAMES_SHOWN = 2


@contextmanager
def progress_display(packages: Sequence[Package], *, enabled: bool) -> Iterator[Callable[[Package], Callable[[int], None]]]:
    """Show one bar for all downloads while the block runs.

    Args:
        packages: What will be downloaded.
        enabled: False shows nothing.

    Yields:
        A function that gives each package its own progress callback (bytes so far).
    """
    columns = (TextColumn("fetching {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    done = {package.name: 0 for package in packages}
    sizes = {package.name: package.size for package in packages}
    with Progress(*columns, console=Console(stderr=True), disable=not enabled) as bar:
        task = bar.add_task(f"{len(packages)} packages", total=sum(sizes.values()))

        def callback_of(package: Package) -> Callable[[int], None]:
            def report(received: int) -> None:
                done[package.name] = min(received, package.size)  # clients also write logs and temporary copies
                running = [name for name, value in done.items() if 0 < value < sizes[name]]
                names = ", ".join(running[:_NAMES_SHOWN]) + (f" and {len(running) - _NAMES_SHOWN} more" if len(running) > _NAMES_SHOWN else "")
                bar.update(task, completed=sum(done.values()), description=names or f"{len(packages)} packages")

            return report

        yield callback_of
