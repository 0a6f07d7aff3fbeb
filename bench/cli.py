"""The ``replaceme-bench`` command. Heavy imports wait until a verb needs them."""

from __future__ import annotations

import errno
from typing import Any

import click

from bench.exits import EXIT_INTERRUPTED, EXIT_WRONG
from bench.verbs import (
    card,
    compare,
    generate,
    heal,
    history,
    inspect,
    listing,
    pick,
    plan,
    plot,
    prune,
    report,
    run,
    schema,
    show,
    verify,
)
from replaceme.errors import InputError, OutputError


def _refuse(ctx: click.Context, error: Exception | None) -> None:
    """End with a message, if there is one."""
    if error is None:
        ctx.exit(0)
    from bench.render.escape import visible_lines

    click.echo(f"Error: {visible_lines(str(error))}", err=True)
    ctx.exit(EXIT_WRONG)


def _explain(error: OSError) -> Exception | None:
    """What to say of an error of the system; ``None`` where only the reader of the output has gone.

    Verbs handle the errors of their files themselves. Left are those of a path that no file can have,
    and of one that this user may not open.

    Raises:
        OSError: any other, which is a defect of ours.
    """
    from bench.console import give_up_output
    from replaceme.io.yaml_file import shown

    if error.filename is None:
        try:
            give_up_output(error)
        except OutputError as reason:
            return reason
        return None
    if error.errno not in (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP):
        raise error
    return InputError(f"{shown(str(error.filename))}: {error.strerror}.")


class _Group(click.Group):
    """Turns the two user errors into a message and an exit code, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InputError, OutputError) as error:
            _refuse(ctx, error)
        except OSError as error:
            _refuse(ctx, _explain(error))
        except KeyboardInterrupt:
            resumes = ctx.invoked_subcommand in ("run", "heal", "generate")
            hint = "; the same command continues where it stopped" if resumes else ""
            click.echo(f"Interrupted{hint}.", err=True)
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="replaceme")
def main() -> None:
    """Depth-prune language models and measure whether the result is good enough."""


COMMANDS = (
    run.run,
    plan.plan,
    verify.verify,
    report.report,
    compare.compare,
    history.history,
    pick.pick,
    show.show,
    plot.plot,
    card.card,
    schema.schema,
    listing.list_names,
    inspect.inspect,
    prune.prune,
    prune.apply,
    heal.heal,
    generate.generate,
)
for command in COMMANDS:
    main.add_command(command)
