"""Does a package agree with itself? What its manifest says in two places, and its item map."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from canet_mobile.errors import CanetError
from canet_mobile.files import sha256_file
from canet_mobile.model.points import BALANCED, POINTS

ITEM_MAP = "items.csv"
ITEM_MAP_COLUMNS = ["index", "item_id", "title"]
AGAIN = "export or copy the package again"


def check_shapes(manifest: dict[str, Any], where: Path) -> None:
    """Shapes, types and lengths are those that length and k give.

    Raises:
        CanetError: names the field, what it is and what it should be.
    """
    length, k, items = manifest["length"], manifest["k"], manifest["items"]
    outputs = manifest["outputs"]
    index = outputs["router"]["route"]["dtype"]
    expected = {
        "input.shape": (manifest["input"]["shape"], [1, length]),
        "outputs.router.route": (outputs["router"]["route"], {"shape": [1], "dtype": index}),
        "outputs.route.scores": (outputs["route"]["scores"], {"shape": [1, k], "dtype": "float32"}),
        "outputs.route.ids": (outputs["route"]["ids"], {"shape": [1, k], "dtype": index}),
    }
    for name, (found, wanted) in expected.items():
        if found != wanted:
            raise CanetError(f"{name} is {found}, expected {wanted}", where=where, fix=AGAIN)
    lengths = manifest["lengths"]
    if lengths != sorted({*lengths}) or lengths[-1] != length:
        raise CanetError(f"lengths {lengths} do not ascend to length {length}", where=where, fix=AGAIN)
    for name, row in (("router", manifest["router"]), *((row["entry"], row) for row in manifest["routes"])):
        told = [shorter["length"] for shorter in row["shorter"]]
        if told != lengths[:-1]:
            what = f"{name}.shorter tells of lengths {told}, expected {lengths[:-1]}"
            raise CanetError(what, where=where, fix=AGAIN)
    if k > items:
        raise CanetError(f"k = {k} is more than the {items} items", where=where, fix=AGAIN)


def check_points(manifest: dict[str, Any], where: Path) -> None:
    """Operating points: all of POINTS in order where there is a router, and none where there is none.

    Raises:
        CanetError: names what is listed and what should be, or an entry that is not exported.
    """
    names = [] if manifest["router"]["table"] is None else list(POINTS)
    found = [(row["id"], row["name"]) for row in manifest["operating_points"]]
    if found != list(enumerate(names)):
        raise CanetError(
            f"operating_points are {found}, expected {list(enumerate(names))}", where=where, fix=AGAIN
        )
    default = POINTS[BALANCED] if names else None
    if manifest["default_point"] != default:
        raise CanetError(
            f"default_point is {manifest['default_point']!r}, expected {default!r}", where=where, fix=AGAIN
        )
    entries = {route["entry"] for route in manifest["routes"]}
    for row in manifest["operating_points"]:
        for entry in row["shares"] or ():
            if entry not in entries:
                raise CanetError(
                    f"operating point {row['name']} sends users to {entry!r}, which is not exported",
                    where=where,
                    fix=AGAIN,
                )


def check_item_map(path: Path, manifest: dict[str, Any]) -> None:
    """The item map is the one the manifest knows, and has the rows 1..V in order.

    Raises:
        CanetError: names the file and the row.
    """
    if sha256_file(path) != manifest["item_map_sha256"]:
        raise CanetError("its SHA-256 is not the manifest's item_map_sha256", where=path, fix=AGAIN)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, None)
        if header != ITEM_MAP_COLUMNS:
            raise CanetError(f"the columns are {header}, expected {ITEM_MAP_COLUMNS}", where=path, fix=AGAIN)
        count = 0
        for count, row in enumerate(rows, start=1):
            if len(row) != len(ITEM_MAP_COLUMNS) or row[0] != str(count):
                raise CanetError(
                    f"row {count} is {row}, expected index {count}, item_id and title", where=path, fix=AGAIN
                )
    if count != manifest["items"]:
        raise CanetError(f"holds {count} items, the manifest says {manifest['items']}", where=path, fix=AGAIN)
