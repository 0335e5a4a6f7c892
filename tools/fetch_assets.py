"""Fetch the pinned models and audio packages into the cache directory (NEMO_DESTA_CACHE, default ~/.cache/nemo_desta).

python tools/fetch_assets.py list --tier lean             # names, sizes, licences, and what is here already
python tools/fetch_assets.py fetch --tier lean --models   # what `make demo` needs; resumable, skips what is finished
python tools/fetch_assets.py fetch whisper-base mma
python tools/fetch_assets.py verify                       # compare the cache with the catalogue
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from a checkout without installation

from nemo_desta.assets import (
    ALTERNATIVES,
    MODELS,
    PACKAGES,
    RECIPE_MODELS,
    TIERS,
    AssetError,
    available,
    cache_dir,
    fetch,
    is_cached,
    parts_of,
    unavailable,
    verify,
)

logger = logging.getLogger("fetch_assets")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = top.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="show assets")
    listing.add_argument("--tier", choices=list(TIERS))
    fetching = commands.add_parser("fetch", help="download, unpack, convert")
    fetching.add_argument("names", nargs="*", metavar="NAME")
    fetching.add_argument("--tier", choices=list(TIERS))
    fetching.add_argument("--models", action="store_true", help=f"also {', '.join(RECIPE_MODELS)}")
    fetching.add_argument("--jobs", type=int, default=4, help="parallel downloads (default 4)")
    fetching.add_argument("--drop-downloads", action="store_true", help="delete each archive after unpacking it")
    fetching.add_argument("--quiet", action="store_true", help="no progress bar")
    commands.add_parser("verify", help="compare the cache with the catalogue")
    return top


def list_assets(tier: str | None) -> None:
    """Print one line an asset."""
    names = [*TIERS[tier], *RECIPE_MODELS] if tier else [*PACKAGES, *MODELS]
    for name in names:
        entry = MODELS[name] if name in MODELS else PACKAGES[name]
        size = sum(part.size for part in parts_of(name)) / 1e6
        print(f"{name:34s} {size:7.1f} MB  {'here' if is_cached(name) else '-':4s}  {entry.licence:30s} {entry.description}")
    total = sum({part.name: part.size for name in names for part in parts_of(name)}.values())
    print(f"{len(names)} assets, {total / 1e6:.0f} MB to download in all; cache: {cache_dir()}")


def fetch_assets(options: argparse.Namespace) -> None:
    """Fetch what the command line names; of a tier, what cannot be had on this machine is left out and said."""
    wanted = list(options.names)
    if options.tier:
        wanted += available(TIERS[options.tier]) + _explain_left_out(TIERS[options.tier])
    if options.models:
        wanted += RECIPE_MODELS
    if not wanted:
        raise ValueError("nothing to fetch: give names, --tier or --models")
    unique = list(dict.fromkeys(wanted))
    fetch(unique, jobs=options.jobs, progress=not options.quiet, keep_downloads=not options.drop_downloads)
    logger.info("%d assets are ready in %s", len(unique), cache_dir())


def _explain_left_out(names: Sequence[str]) -> list[str]:
    """Say for each asset that cannot be had why, and for each missing tool how to get it; the assets that stand in for them."""
    left_out = unavailable(names)
    stand_ins = {name: others[0] for name in left_out if (others := available(ALTERNATIVES.get(name, ())))}
    for name, (why, _) in left_out.items():
        logger.warning("left out %s: %s", name, f"{stand_ins[name]} with the same content is taken instead" if name in stand_ins else why)
    for command in dict.fromkeys(command for name, (_, command) in left_out.items() if name not in stand_ins):
        logger.warning("to get what is left out: %s", command)
    return list(stand_ins.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if options.command == "list":
            list_assets(options.tier)
        elif options.command == "fetch":
            fetch_assets(options)
        else:
            problems = verify([*PACKAGES, *MODELS])
            for problem in problems:
                print(problem)
            return 1 if problems else 0
    except (AssetError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: finished downloads are kept, run the command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
