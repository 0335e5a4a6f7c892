"""What a corpus was made with besides its settings: source of its recipe, label files, measures, pins of its packages."""

import ast
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from nemo_desta.assets import parts_of
from nemo_desta.corpora import REGISTRY

_FOLDER = Path(__file__).parent
_MEASURE = _FOLDER.parent / "seed" / "measure.py"
_PACKAGE = __package__ + "."
_ALWAYS = ("audio", "splits")  # of every corpus, also of one that is not registered
_MACHINERY = frozenset({"build", "manifests", "fingerprint"})  # what these write is versioned by build.FORMAT_VERSION
_YAML = re.compile(r"[\"']([\w-]+\.ya?ml)[\"']")


def source_files(name: str) -> list[Path]:
    """Files that decide labels, splits and samples of a corpus: its module, those of this package that it imports, and their YAML files."""
    modules, todo = set(), [name, *_ALWAYS]
    while todo:
        path = _FOLDER / f"{todo.pop()}.py"
        if path in modules or path.stem in _MACHINERY or not path.is_file():
            continue
        modules.add(path)
        tree = ast.parse(path.read_text("utf-8"))
        imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        todo += [module.removeprefix(_PACKAGE) for module in imported if module.startswith(_PACKAGE)]
    labels = {_FOLDER / file for path in modules for file in _YAML.findall(path.read_text("utf-8"))}
    return sorted(path for path in modules | labels if path.is_file())


def recipe_digest(name: str) -> str:
    """Digest of all that stands in files: a finished corpus with another one is built again (its journal spares the decoding)."""
    return _digest([*((path.name, _sha256(path)) for path in source_files(name)), material_digest(name)])


def material_digest(name: str) -> str:
    """Digest of what samples and measured attributes come from: the packages' pins and the measures. Another one needs decoding."""
    assets = REGISTRY[name].assets if name in REGISTRY else ()
    return _digest([_sha256(_MEASURE), *(part.sha256 for asset in assets for part in parts_of(asset))])


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str:
    return _sha256_at(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256_at(path: Path, time: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
