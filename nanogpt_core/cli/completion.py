"""``nanogpt completion``: a script that completes commands and options in a shell."""

from __future__ import annotations

import sys
from typing import Literal

from cyclopts import App

__all__ = ["completion"]

_EXAMPLES = """\
Examples:
  nanogpt completion bash > ~/.local/share/bash-completion/completions/nanogpt
  nanogpt completion zsh > ~/.zfunc/_nanogpt        (a folder in $fpath)
  nanogpt completion fish > ~/.config/fish/completions/nanogpt.fish
  nanogpt completion powershell >> $PROFILE
"""

command = App(name="completion", help_format="plaintext", help_epilogue=_EXAMPLES)


@command.default
def completion(shell: Literal["bash", "zsh", "fish", "powershell"], /) -> None:
    """Print a script that completes commands and options in a shell.

    Args:
        shell: The shell.
    """
    from nanogpt_core.cli.app import make_app

    sys.stdout.write(make_app().generate_completion(prog_name="nanogpt", shell=shell))
