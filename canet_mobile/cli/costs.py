"""`canet-mobile costs`: what every route of a routing space costs, before anything is trained."""

from __future__ import annotations

import json

import click

from canet_mobile.errors import UsageError


@click.command()
@click.option("--items", type=click.IntRange(min=1), required=True, help="Number of items V.")
@click.option("--length", type=click.IntRange(min=1), required=True, help="Input length L.")
@click.option("--embedding", default="64,96,128", show_default=True, help="Embedding widths.")
@click.option("--hidden", default="64,96,128", show_default=True, help="Hidden widths, multiples of 4.")
@click.option("--depth", default="2,4,6,8", show_default=True, help="Numbers of blocks.")
@click.option("--json", "as_json", is_flag=True, help="Print schemas/costs.schema.json instead of a table.")
def costs(items: int, length: int, embedding: str, hidden: str, depth: str, as_json: bool) -> None:
    """Print the MFLOPs of every route, by the paper's count and as executed.

    \b
    Examples:
      canet-mobile costs --items 199013 --length 20
      canet-mobile costs --items 12000 --length 50 --embedding 64 --hidden 64 --depth 1,2,4
      canet-mobile costs --items 112705 --length 20 --json
    """
    lists = {"embedding": embedding, "hidden": hidden, "depth": depth}
    sizes = {name: _sizes(name, text) for name, text in lists.items()}
    from canet_mobile.evaluate.report import costs_text
    from canet_mobile.model.costs import cost_document
    from canet_mobile.model.space import RoutingSpace

    document = cost_document(items, length, RoutingSpace(**sizes))
    click.echo(json.dumps(document, indent=2) if as_json else costs_text(document))


def _sizes(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--{name} {text!r} is not a list of whole numbers", fix=f"write it as --{name} 64,96,128"
        ) from None
