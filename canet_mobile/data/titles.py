"""The titles of a log's items, from a table beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl

from canet_mobile.data.columns import choose_column
from canet_mobile.data.formats import MAX_BYTES, open_source
from canet_mobile.data.names import ITEM_NAMES, TITLE_NAMES
from canet_mobile.data.reading import check_parts
from canet_mobile.data.refuse import as_id, explain
from canet_mobile.data.source import column_names, prepare, scan_table
from canet_mobile.errors import CanetError, UsageError


def read_titles(
    path: Path,
    scratch: Path,
    item_ids: pl.Series,
    item: str | None,
    title: str | None,
    *,
    max_bytes: int = MAX_BYTES,
    note: Callable[[str], None] = lambda message: None,
) -> tuple[pl.Series, str]:
    """The title of each item (null when the file has none), and the column they stand in.

    Args:
        path: a table with a header, in any format but `sequences`.
        scratch: an existing folder.
        item_ids: [V] the log's items.
        item, title: columns asked for; None finds them.
        max_bytes: the most that a gzipped file may unpack to.
        note: told how many items have no title, and of titles that differ for one item.

    Raises:
        CanetError: the file or a column is missing, or no item of the log is in it.
    """
    folder = scratch / "items"
    folder.mkdir()
    source = open_source(path, folder, max_bytes=max_bytes, note=note)
    if source.format == "sequences" or (source.split and not source.header):
        raise CanetError(
            "is not a table with a header", where=path, fix="pass a CSV, TSV, .item or Parquet file"
        )
    check_parts(source)
    names = column_names(source)
    key = choose_column("item", names, ITEM_NAMES, item if item in names else None, path)
    value = choose_column("title", names, TITLE_NAMES, title, path)
    listed = f"columns: {', '.join(names)}"
    if key is None:
        raise UsageError(f"no column is named like an item; {listed}", where=path, fix="rename it item_id")
    if value is None:
        raise UsageError(f"no column is named like a title; {listed}", where=path, fix="pass --title COLUMN")
    ids, position = pl.DataFrame({"item_id": item_ids.cast(pl.String)}), names.index(key)
    known = set(ids["item_id"])
    try:
        source = prepare(source, folder, lambda fields: fields[position].strip().strip('"') in known)
        table = scan_table(source)
        schema = table.collect_schema()
        text = pl.col(value).cast(pl.String).str.strip_chars()
        found = (
            table.select(
                as_id(key, schema[key], source).alias("item_id"),
                pl.when(text != "").then(text).alias("title"),
            )
            .drop_nulls()
            .collect()
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        explain(source, error)
    first = found.unique("item_id", keep="first", maintain_order=True)
    titles = ids.join(first, on="item_id", how="left", maintain_order="left")["title"]
    missing = titles.null_count()
    example = (
        f"the log's first item without one is {ids['item_id'].filter(titles.is_null())[0]!r}"
        if missing
        else ""
    )
    if len(found):
        example += f", the file's first is {first['item_id'][0]!r}"
    if missing == len(titles):
        raise CanetError(
            f"column {key!r} holds none of the log's items ({example})",
            where=path,
            fix="check that both files use the same item ids",
        )
    if missing:
        note(f"note: {path} has titles for {len(titles) - missing:,} of {len(titles):,} items; {example}")
    differing = found.unique().group_by("item_id").len().filter(pl.col("len") > 1).height
    if differing:
        note(f"note: {path} has more than one title for {differing:,} items; the first one is taken")
    return titles, value
