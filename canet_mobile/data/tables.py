"""Parquet files by their names: the one place where Polars is given a path to read or write.

Polars takes a path for a pattern (``[ ] * ?``), a URL or a place below the home folder (``~``). What stands
in our own folders is a name and nothing else, so Polars is given the open file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read a Parquet file, or some of its columns.

    Raises:
        OSError: it cannot be opened.
        polars.exceptions.PolarsError: it is no Parquet, or lacks a column.
    """
    with path.open("rb") as file:
        return pl.read_parquet(file, columns=None if columns is None else list(columns))


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a table as one Parquet file.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        frame.write_parquet(file)
