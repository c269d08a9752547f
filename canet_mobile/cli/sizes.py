"""The table of a package's bytes, as `export` and `inspect` print it."""

from __future__ import annotations

from typing import Any

import click

PARTS = ("item_table", "classifier", "layers", "router", "graph")


def size_text(count: int | None) -> str:
    """Bytes in MB or kB (powers of ten); ``not measured`` for None."""
    if count is None:
        return "not measured"
    return f"{count / 1e6:.2f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def print_sizes(manifest: dict[str, Any], routes: int) -> None:
    """Bytes by part, then what sharing saves: against the full model alone, and one file per route."""
    sizes = manifest["sizes"]
    total = sizes["total_bytes"]
    for part in PARTS:
        size = sizes[f"{part}_bytes"]
        click.echo(f"{part.replace('_', ' '):<18}{size_text(size):>14}{size / max(total, 1):>8.1%}")
    is_one = manifest["interface"]["style"] != "files"
    click.echo(f"{manifest['model_file'] if is_one else 'all files':<18}{size_text(total):>14}")
    alone, separate = sizes["full_model_alone_bytes"], sizes["separate_files_bytes"]
    if alone:
        ratio = f"computed; ours is {total / alone:.2f} times it"
        click.echo(f"{'full model alone':<18}{size_text(alone):>14}   {ratio}")
    if separate:
        share = f"computed; ours is {total / separate:.1%} of it"
        click.echo(f"{routes + 1:>2} separate files {size_text(separate):>14}   {share}")
