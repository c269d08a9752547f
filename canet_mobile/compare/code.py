"""Which code a result was computed by, so that a result of other code does not count."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "canet_mobile"
# What a job calls to train, to fit a router, to judge: these count, what they import, and what that imports.
ROOTS = ("train/trainer.py", "routing/reroute.py", "compare/judge.py")
# No figure comes from these: they write and check files, report, and say what is wrong.
NO_FIGURES = frozenset(
    {"errors.py", "files.py", "machine.py", "schema.py", "strict_json.py", "run/reporter.py"}
)


@cache
def code_hash(root: Path = Path(__file__).parent.parent) -> str:
    """Hex SHA-256 of the code that decides a result, 64 digits.

    Comments, docstrings, blank lines and line breaks do not count; another version of Python may see the code
    otherwise.

    Args:
        root: the package's folder.
    """
    digest = hashlib.sha256()
    for name in counted(root):
        digest.update(f"{name}\n{ast.dump(_bare(root / name))}\n".encode())
    return digest.hexdigest()


def counted(root: Path) -> list[str]:
    """The modules that count, as paths below ``root``, sorted."""
    found: set[str] = set()
    waiting = list(ROOTS)
    while waiting:
        name = waiting.pop()
        if name not in found | NO_FIGURES and (root / name).is_file():
            found.add(name)
            waiting += _imported(root / name)
    return sorted(found)


def _imported(path: Path) -> Iterator[str]:
    """What a module may import of the package, anywhere in it, as paths; some are names, not modules."""
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for package, *parts in (name.split(".") for name in names):
            if package == PACKAGE and parts:
                yield "/".join(parts) + ".py"


def _bare(path: Path) -> ast.Module:
    """A module's syntax without docstrings."""
    tree = _parsed(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return tree


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
