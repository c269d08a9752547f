"""The titles of a log's items, from a table beside it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from canet_mobile.data.formats import ITEM_NAMES, TITLE_NAMES, choose_column, open_source, scan_table
from canet_mobile.data.reading import as_id, checked_names, explain
from canet_mobile.errors import CanetError, UsageError


def read_titles(
    path: Path, scratch: Path, item_ids: pl.Series, item: str | None, title: str | None
) -> tuple[pl.Series, str]:
    """The title of each item (null when the file has none), and the column they stand in.

    Raises:
        CanetError: the file or a column is missing, or no item of the log is in it.
    """
    folder = scratch / "items"
    folder.mkdir()
    source = open_source(path, folder)
    if source.format == "sequences":
        raise CanetError(
            "is not a table with a header", where=path, fix="pass a CSV, TSV, .item or Parquet file"
        )
    names = checked_names(source)
    key = choose_column("item", names, ITEM_NAMES, item if item in names else None, path)
    value = choose_column("title", names, TITLE_NAMES, title, path)
    listed = f"columns: {', '.join(names)}"
    if key is None:
        raise UsageError(f"no column is named like an item; {listed}", where=path, fix="rename it item_id")
    if value is None:
        raise UsageError(f"no column is named like a title; {listed}", where=path, fix="pass --title COLUMN")
    try:
        table = scan_table(source)
        schema = table.collect_schema()
        text = pl.col(value).cast(pl.String).str.strip_chars()
        known = (
            table.select(
                as_id(key, schema[key], source).alias("item_id"),
                pl.when(text != "").then(text).alias("title"),
            )
            .drop_nulls()
            .collect()
            .unique("item_id", keep="first", maintain_order=True)
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        explain(source, error)
    ids = pl.DataFrame({"item_id": item_ids.cast(pl.String)})
    titles = ids.join(known, on="item_id", how="left", maintain_order="left")["title"]
    if titles.null_count() == len(titles):
        raise CanetError(
            f"column {key!r} holds none of the log's items (the log's first is {ids['item_id'][0]!r})",
            where=path,
            fix="check that both files use the same item ids",
        )
    return titles, value
