"""What verbs say of a model in the same words."""

from __future__ import annotations

import click

TRUST_REMOTE_CODE = click.option(
    "--trust-remote-code", is_flag=True, help="Run code that comes with the model."
)
