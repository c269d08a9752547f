"""The command line: one small module per command, loaded only when it is called."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence

import click

from canet_mobile import __version__
from canet_mobile.errors import EXIT_ERROR, EXIT_INTERRUPTED, CanetError, UsageError, nearest
from canet_mobile.telemetry import switch_off

# Each command is the function of its own name in the module of its own name. The help line stands here so
# that --help imports nothing.
COMMANDS = {
    "data": "Import an interaction log; describe a data set.",
    "train": "Train CANet, a plain SASRec or a compared method.",
    "route": "Fit a new router to a trained supernet: another budget or unit of cost.",
    "evaluate": "Judge a run on held-out users, beside honest references.",
    "compare": "Train and judge many methods on one data set, side by side.",
    "costs": "Print what every submodel of a routing space costs.",
    "export": "Turn a run into one package per phone runtime.",
    "inspect": "Tell what is inside a data set, run or package.",
    "replay": "Replay held-out users through a package's runtime.",
    "parity": "Check a package against PyTorch; exit 3 when it fails.",
    "doctor": "Tell which toolkits, compilers and devices are here.",
    "demo": "Train, evaluate, export, check and replay the embedded data set.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        switch_off()  # before the command imports a toolkit
        return getattr(importlib.import_module(f"canet_mobile.cli.{cmd_name}"), cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            guess = nearest(name, COMMANDS)
            hint = f" Did you mean {guess!r}?" if guess else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="canet-mobile")
def command() -> None:
    """One weight-shared recommender, 36 personal-sized submodels, routed per user, exported to phones.

    \b
    Examples:
      canet-mobile demo                          everything on the embedded data set, in minutes
      canet-mobile data import log.csv --out shop
      canet-mobile train --data shop
      canet-mobile evaluate
      canet-mobile export --target executorch

    Results go to stdout (--json for machines), progress to stderr. Exit codes: 0 ok, 1 error, 2 wrong usage,
    3 parity failed, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with the error's own code."""
    if arguments is None:
        _begin_in_utf8()
    sys.exit(run(arguments))


def _begin_in_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where the locale would garble names of files.

    Python takes UTF-8 in the C locale by itself, unless it is told not to; then, and in older locales, a name
    like Café reaches the toolkits as something that none of them can open.
    """
    garbled = os.name == "posix" and sys.getfilesystemencoding() != "utf-8"
    if garbled and "utf8" not in sys._xoptions:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Only bugs leave a traceback.

    With ``--json`` an error stands on stdout too, as ``{"error": {"code", "where", "what", "fix"}}``.
    """
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        result = command.main(arguments, prog_name="canet-mobile", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except CanetError as error:
        click.echo(f"error: {error}", err=True)
        if as_json and not error.is_told:
            click.echo(json.dumps(error.to_json(), ensure_ascii=False))
        return error.exit_code
    except click.ClickException as error:
        error.show()
        if as_json:
            click.echo(json.dumps(UsageError(error.format_message()).to_json(), ensure_ascii=False))
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; nothing half-written was left behind", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_ERROR
