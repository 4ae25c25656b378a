"""``nanogpt completion``: a script that completes commands and options in a shell."""

from __future__ import annotations

import sys
from typing import Any, Literal, cast

from cyclopts import App

from nanogpt_core.cli.exit_codes import CommandError

_EXAMPLES = """\
Examples:
  nanogpt completion bash > ~/.local/share/bash-completion/completions/nanogpt
  nanogpt completion zsh > ~/.zfunc/_nanogpt        (a folder in $fpath)
  nanogpt completion fish > ~/.config/fish/completions/nanogpt.fish
  nanogpt completion powershell >> $PROFILE
"""

command = App(name="completion", help_epilogue=_EXAMPLES)


@command.default
def completion(shell: Literal["bash", "zsh", "fish", "powershell"], /) -> None:
    """Print a script that completes commands and options in a shell.

    Args:
        shell: The shell.
    """
    from nanogpt_core.cli.app import make_app

    try:
        script = make_app().generate_completion(prog_name="nanogpt", shell=cast("Any", shell))
    except ValueError as error:  # cyclopts 4, the last for Python 3.10, does not know PowerShell
        raise CommandError(f"No script for {shell}: the installed cyclopts does not support it.") from error
    sys.stdout.write(script)
