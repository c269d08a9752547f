"""The item map that ships in a package, whatever ids and titles hold."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from canet_export.manifest import write_items
from canet_mobile.data.importer import ImportOptions, import_log
from canet_mobile.files import sha256_file
from canet_mobile.package.consistency import check_item_map

ODD = ["two\nlines", "one\rmore", "both\r\nof them", 'a "quoted" one', "with, commas", "é\u2028日", "=1+1"]


@pytest.mark.parametrize("count", [len(ODD), 1])
def test_odd_titles_and_ids_are_read_back_as_they_were(tmp_path: Path, count: int) -> None:
    odd = ODD[:count]
    things = [(f"{title}{number}", title) for number in range(3) for title in odd]
    with (tmp_path / "log.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["user_id", "item_id"])
        writer.writerows([user, item] for user in "ab" for item, _ in things)
    with (tmp_path / "titles.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        writer.writerow(["item_id", "title"])
        writer.writerows(things)
    options = ImportOptions(min_item_count=1, min_history=3, items_file=tmp_path / "titles.csv")
    dataset = import_log(tmp_path / "log.csv", tmp_path / "data", options)
    path = tmp_path / "items.csv"
    write_items(path, dataset)
    manifest: Any = SimpleNamespace(item_map_sha256=sha256_file(path), items=len(things))
    check_item_map(path, manifest, shown=path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [(item, title) for _, item, title in rows] == things
