"""`canet-mobile data`: import a log, describe a dataset."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from canet_mobile.errors import UsageError, quoted

FORMATS = ("csv", "tsv", "parquet", "recbole", "sequences")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group()
def data() -> None:
    """Import interaction logs and look at them.

    \b
    Examples:
      canet-mobile data import clicks.csv --out datasets/clicks
      canet-mobile data describe datasets/clicks
    """


@data.command(name="import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Dataset folder to make.")
@click.option("--name", help="Name of the dataset [default: the folder's].")
@click.option("--format", "format_", metavar="|".join(FORMATS), help="Format [default: found from the file].")
@click.option(
    "--separator",
    metavar="CHAR",
    help="Between two fields: a character, ::, tab, blank, comma, semicolon or pipe [default: found].",
)
@click.option("--user", metavar="COL", help="Column of the user or session [default: found by its name].")
@click.option("--item", metavar="COL", help="Column of the item [default: found by its name].")
@click.option(
    "--time",
    metavar="COL",
    help="Column of the time, DATE+CLOCK for two, or none [default: the finest known name, or file order].",
)
@click.option("--no-header", is_flag=True, help="The first line is a row: columns are column_1, column_2...")
@click.option(
    "--keep", multiple=True, metavar="ID", help="An id such as NA or null that is one; may be repeated."
)
@click.option(
    "--max-bytes",
    metavar="SIZE",
    default="64G",
    show_default=True,
    help="The most that a .gz file may unpack to: 500M, 64G or a number of bytes.",
)
@click.option("--items-file", type=click.Path(path_type=Path), help="Table of items, for their titles.")
@click.option("--title", metavar="COL", help="Title column of --items-file [default: found by its name].")
@click.option("--min-item-count", type=int, default=5, show_default=True, help="Users an item needs.")
@click.option(
    "--min-history", type=int, default=5, show_default=True, help="Items a history needs, 3 or more."
)
@click.option("--session-length", type=int, metavar="N", help="Cut histories into sessions of N items.")
@click.option(
    "--session-gap",
    metavar="DURATION",
    help="Drop sessions whose last two items are further apart: 90s, 30m, 2h, 1d or none [default: 2h].",
)
@click.option(
    "--force", is_flag=True, help="Replace the dataset that stands at --out; nothing else is ever replaced."
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def import_(
    *,
    source: Path,
    out: Path,
    name: str | None,
    format_: str | None,
    separator: str | None,
    user: str | None,
    item: str | None,
    time: str | None,
    no_header: bool,
    keep: tuple[str, ...],
    max_bytes: str,
    items_file: Path | None,
    title: str | None,
    min_item_count: int,
    min_history: int,
    session_length: int | None,
    session_gap: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Import the log SOURCE into a dataset folder.

    SOURCE is a CSV or TSV file (also .gz), a Parquet file or folder (as Spark writes it), a RecBole .inter
    file, a MovieLens .dat file, or a file of `user item item ...` lines. Every row arrives, or SOURCE is
    refused with its line. Histories are ordered by time, equal times by their order in the source. Rare items
    and short histories are dropped until neither is left.

    \b
    Examples:
      canet-mobile data import clicks.csv --out datasets/clicks
      canet-mobile data import orders/ --out datasets/orders --user buyer --item sku --time bought_at
      canet-mobile data import ml-100k.inter --out datasets/ml-100k --items-file ml-100k.item
      canet-mobile data import ratings.dat --out datasets/ml-1m
      canet-mobile data import plays.txt --out datasets/plays --separator pipe --no-header --user column_2
      canet-mobile data import listens.tsv --out datasets/fm20 --session-length 20 --session-gap 2h
    """
    if session_gap is not None and session_length is None:
        raise UsageError("--session-gap needs --session-length", fix="pass both, or neither")
    from canet_mobile.data.importer import ImportOptions, import_log

    options = ImportOptions(
        name=name,
        format=format_,  # type: ignore[arg-type]  # checked by open_source
        separator=separator,
        user=user,
        item=item,
        time=time,
        header=not no_header,
        keep=keep,
        max_bytes=parse_size(max_bytes),
        items_file=items_file,
        title=title,
        min_item_count=min_item_count,
        min_history=min_history,
        session_length=session_length,
        session_gap_s=parse_duration(session_gap or "2h"),
    )
    with _progress() as progress:
        dataset = import_log(source, out, options, force=force, progress=progress)
    if as_json:
        click.echo(json.dumps(dataset.manifest, indent=2, ensure_ascii=False))
        return
    _print_import(dataset.manifest, out)
    click.echo(f"next: canet-mobile data describe {quoted(out)}", err=True)


@data.command()
@click.argument("directory", type=click.Path(path_type=Path), required=False)
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Top items to list.")
@click.option("--json", "as_json", is_flag=True, help="Print the description as JSON.")
def describe(directory: Path | None, top: int, as_json: bool) -> None:
    """Describe the dataset in DIRECTORY (default: the embedded one, imported on first use).

    \b
    Examples:
      canet-mobile data describe
      canet-mobile data describe datasets/clicks --top 20
      canet-mobile data describe datasets/clicks --json
    """
    from canet_mobile.data import describe as describing
    from canet_mobile.data.dataset import load_dataset
    from canet_mobile.data.embedded_set import embedded_dataset

    with _progress() as progress:
        dataset = load_dataset(directory) if directory else embedded_dataset(progress=progress)
        progress("counting")
        description = describing.describe(dataset, top=top)
    if as_json:
        click.echo(json.dumps(description, indent=2, ensure_ascii=False))
    else:
        _print_description(description)


def parse_duration(text: str) -> float | None:
    """Seconds of ``90s``, ``30m``, ``2h`` or ``1d``; None for ``none``."""
    if text == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise UsageError(f"--session-gap {text!r} is not a duration", fix="write 90s, 30m, 2h, 1d or none")
    return float(match[1]) * _SECONDS[match[2]]


def parse_size(text: str) -> int:
    """Bytes of ``500M``, ``64G`` or a plain number."""
    match = re.fullmatch(r"(\d+)([KMGT]?)i?B?", text, re.IGNORECASE)
    if match is None or int(match[1]) == 0:
        raise UsageError(f"--max-bytes {text!r} is not a size", fix="write 500M, 64G or a number of bytes")
    return int(match[1]) << {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}[match[2].upper()]


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done; notes stay, the rest is replaced by what comes next."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:

        def report(message: str) -> None:
            if message.startswith("note: "):
                console.print(message, markup=False, highlight=False)
            else:
                status.update(message.replace("[", "\\["))

        yield report


def _print_import(manifest: dict[str, Any], out: Path) -> None:
    counts, stages, columns = manifest["counts"], manifest["stages"], manifest["columns"]
    options = manifest["options"]
    roles = ", ".join(f"{role} = {column}" for role, column in columns.items() if column)
    rows: list[tuple[str, str]] = [
        ("dataset", f"{manifest['name']} in {out}"),
        ("read as", f"{manifest['format']}{': ' + roles if roles else ''}"),
        ("interactions read", f"{stages['read']:,}"),
        (f"  of items with < {options['min_item_count']} users", f"-{stages['dropped_rare_items']:,}"),
        (f"  of histories with < {options['min_history']} items", f"-{stages['dropped_short_histories']:,}"),
    ]
    if options["session_length"] is not None:
        rows.append(
            (f"  outside sessions of {options['session_length']}", f"-{stages['dropped_sessions']:,}")
        )
    rows += [
        ("interactions kept", f"{counts['interactions']:,}"),
        ("users", f"{counts['users']:,}"),
        *([("sessions", f"{counts['histories']:,}")] if options["session_length"] is not None else []),
        ("items", f"{counts['items']:,}"),
        ("content", manifest["content_hash"][:16]),
    ]
    _print_rows(rows)


def _print_description(found: dict[str, Any]) -> None:
    counts, length, head = found["counts"], found["history_length"], found["head"]
    sessions = counts["histories"] != counts["users"]
    quantiles = "  ".join(f"{name} {value}" for name, value in length.items() if name != "mean")
    _print_rows(
        [
            ("dataset", f"{found['name']} in {found['directory']}"),
            ("users", f"{counts['users']:,}"),
            *([("sessions", f"{counts['histories']:,}")] if sessions else []),
            ("items", f"{counts['items']:,}"),
            ("interactions", f"{counts['interactions']:,}"),
            ("density", f"{found['density']:.3%}"),
            ("history length", f"mean {length['mean']:.1f}  {quantiles}"),
            ("last item seen before", f"{found['repeats']['last_item']:.1%} of the histories"),
            ("any target seen before", f"{found['repeats']['all_targets']:.1%}"),
            ("time", _span(found["time"])),
            (
                "head items (top 20 %)",
                f"{head['items']:,}, {head['share_of_interactions']:.1%} of interactions",
            ),
            ("head / tail users", f"{head['users']:,} / {head['tail_users']:,}"),
            ("content", found["content_hash"][:16]),
        ]
    )
    for rank, item in enumerate(found["top_items"], 1):
        label = f"top item {rank}"
        title = f"  {item['title']}" if item["title"] else ""
        click.echo(f"{label:<24}{item['count']:>7,}  {item['item_id']}{title}")


def _span(span: dict[str, Any] | None) -> str:
    if span is None:
        return "none: the order of the log"
    return f"{span['first'][:10]} to {span['last'][:10]} ({span['days']:.0f} days)"


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(max(len(label) for label, _ in rows) + 2, 24)
    for label, value in rows:
        click.echo(f"{label:<{width}}{value}")
