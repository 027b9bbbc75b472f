"""The commands. Exit status: 0 fine, 1 an audit's --fail-on found something, 2 an error."""

from __future__ import annotations

import re
import warnings

import click

from transferkit._version import __version__
from transferkit.cli.audit import audit_command
from transferkit.cli.backbones import cache_command, info_command, list_command
from transferkit.cli.compare import compare_command, rank_command
from transferkit.cli.train import demo_command, predict_command, train_command
from transferkit.errors import TransferkitError

ERROR_STATUS = 2


class Application(click.Group):
    """A group of commands that prints the library's own errors without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error of the library ends it with its message and status 2."""
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: click.echo(
                f"Warning: {in_shell(ctx, str(message))}", err=True
            )
            try:
                return super().invoke(ctx)
            except TransferkitError as error:
                click.echo(f"Error: {in_shell(ctx, str(error))}", err=True)
                ctx.exit(ERROR_STATUS)


def in_shell(context: click.Context, message: str) -> str:
    """A message with options as the command takes them: ``--weights none`` for weights=None."""
    command = main.get_command(context, context.invoked_subcommand or "")
    known = {one.name: one for one in command.params} if command else {}

    def shell(found: re.Match[str]) -> str:
        option = known.get(found["name"])
        if not isinstance(option, click.Option):
            return found[0]
        value = "none" if found["value"] == "None" else found["value"].strip("'")
        return option.opts[0] if option.is_flag else f"{option.opts[0]} {value}"

    # the arguments of a call stay, such as those of create_classifier(..., dropout=0.5)
    setting = r"\w\([^()]*\)|\b(?P<name>\w+)=(?P<value>None|'[^']*'|[\d.]*\d)"
    return re.sub(setting, shell, message)


@click.group(cls=Application, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="transferkit")
def main() -> None:
    """Transfer learning for image classification.

    Choose a backbone, train it on a folder of images, and get an honest test score.
    """


COMMANDS = (
    list_command,
    info_command,
    train_command,
    predict_command,
    compare_command,
    rank_command,
    audit_command,
    cache_command,
    demo_command,
)
for command in COMMANDS:
    main.add_command(command)
