"""Does a package agree with itself? What its manifest says in two places, and its item map."""

from __future__ import annotations

import csv
from pathlib import Path

from canet_mobile.files import sha256_file
from canet_mobile.model.points import BALANCED, POINTS
from canet_mobile.package.manifest import AGAIN, Manifest, RouteRow, RouterRow, Tensor
from canet_mobile.package.refusal import Code, Refused

ITEM_MAP_COLUMNS = ["index", "item_id", "title"]
# How each target's entries can be called, and the type of its ids.
STYLES = {
    "executorch": (("entries",), "int64"),
    "coreml": (("entries", "files"), "int32"),
    "tflite": (("entries",), "int32"),
    "onnx": (("one_graph",), "int64"),
}


def check_interface(manifest: Manifest, where: Path) -> None:
    """Shapes, types, lengths and the way of calling are those that length, k and target give.

    Raises:
        Refused: names the field, what it is and what it should be.
    """
    length, k, outputs = manifest.length, manifest.k, manifest.outputs
    styles, index = STYLES[manifest.target]
    expected = {
        "input.shape": (list(manifest.input_shape), [1, length]),
        "outputs.router.route": (_said(outputs.route), {"shape": [1], "dtype": index}),
        "outputs.route.scores": (_said(outputs.scores), {"shape": [1, k], "dtype": "float32"}),
        "outputs.route.ids": (_said(outputs.ids), {"shape": [1, k], "dtype": index}),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise _disagrees(f"{name} is {found}, expected {wanted}", where)
    lengths = list(manifest.lengths)
    if lengths != sorted({*lengths}) or lengths[-1] != length:
        raise _disagrees(f"lengths {lengths} do not ascend to length {length}", where)
    rows: tuple[RouterRow | RouteRow, ...] = (manifest.router, *manifest.routes)
    for row in rows:
        told = [shorter.length for shorter in row.shorter]
        if told != lengths[:-1]:
            what = f"{row.entry}.shorter tells of lengths {told}, expected {lengths[:-1]}"
            raise _disagrees(what, where)
    if k > manifest.items:
        raise _disagrees(f"k = {k} is more than the {manifest.items} items", where)
    if manifest.interface.style not in styles:
        raise _disagrees(
            f"interface.style is {manifest.interface.style!r}, {manifest.target} has {' or '.join(styles)}",
            where,
        )
    entries = set(manifest.entries)
    named = {entry for part in manifest.parts for entry in part.entries}
    for entry in sorted(named | set(manifest.interface.files)):
        if entry not in entries:
            raise _disagrees(f"parts or interface.files name {entry!r}, which is not exported", where)


def _said(tensor: Tensor) -> dict[str, object]:
    return {"shape": list(tensor.shape), "dtype": tensor.dtype}


def _disagrees(what: str, where: Path) -> Refused:
    return Refused(Code.INTERFACE_DISAGREES, what, where=where, fix=AGAIN)


def check_points(manifest: Manifest, where: Path) -> None:
    """Operating points: all of POINTS in order where there is a router, and none where there is none.

    Raises:
        Refused: names what is listed and what should be, or an entry that is not exported.
    """
    names = [] if manifest.router.table is None else list(POINTS)
    found = [(row.id, row.name) for row in manifest.operating_points]
    default = POINTS[BALANCED] if names else None
    problem = None
    if found != list(enumerate(names)):
        problem = f"operating_points are {found}, expected {list(enumerate(names))}"
    elif manifest.default_point != default:
        problem = f"default_point is {manifest.default_point!r}, expected {default!r}"
    else:
        entries = {route.entry for route in manifest.routes}
        astray = [(row, e) for row in manifest.operating_points for e in row.shares or () if e not in entries]
        if astray:
            row, entry = astray[0]
            problem = f"operating point {row.name} sends users to {entry!r}, which is not exported"
    if problem:
        raise Refused(Code.POINTS_DISAGREE, problem, where=where, fix=AGAIN)


def check_item_map(path: Path, manifest: Manifest, *, shown: Path) -> None:
    """The item map is the one the manifest knows, in UTF-8, and has the rows 1..V in order, no item twice.

    Args:
        path: the file.
        manifest: of its package.
        shown: how errors name it.

    Raises:
        Refused: names the file and the row.
    """
    if sha256_file(path) != manifest.item_map_sha256:
        problem: str | None = "its SHA-256 is not the manifest's item_map_sha256"
    else:
        problem = _item_map_problem(path, manifest.items)
    if problem:
        raise Refused(Code.ITEMS_DISAGREE, problem, where=shown, fix=AGAIN)


def _item_map_problem(path: Path, items: int) -> str | None:
    count = 0
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file, strict=True)  # a stray quote means different things to different readers
            header = next(rows, None)
            if header != ITEM_MAP_COLUMNS:
                return f"the columns are {header}, expected {ITEM_MAP_COLUMNS}"
            for count, row in enumerate(rows, start=1):
                if len(row) != len(ITEM_MAP_COLUMNS) or row[0] != str(count):
                    return f"row {count} is {row}, expected index {count}, item_id and title"
                if row[1] in seen:
                    return f"row {count} has the item_id {row[1]!r} of an earlier row"
                seen.add(row[1])
    except UnicodeDecodeError as error:
        return f"is not UTF-8 after row {count} (byte 0x{error.object[error.start]:02x})"
    except csv.Error as error:
        return f"is no CSV after row {count} ({error})"
    return None if count == items else f"holds {count} items, the manifest says {items}"
