"""What a shell offers when Tab is pressed: commands, then options; and the script that makes it ask."""

from __future__ import annotations

import contextlib
import io
import re
from typing import Literal

from neurobridge.errors import UserError

BASH = """_neurobridge() {
    local words
    words=$(neurobridge --complete "${COMP_WORDS[@]:1:COMP_CWORD-1}" 2>/dev/null)
    COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
    [[ ${#COMPREPLY[@]} -eq 0 ]] && COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o filenames -F _neurobridge neurobridge
"""
ZSH = f"autoload -U +X bashcompinit && bashcompinit\n{BASH}"


def completion(shell: Literal["bash", "zsh"]) -> None:
    """Print what makes Tab complete commands and options: eval "$(neurobridge completion bash)" in your ~/.bashrc.

    Args:
        shell: bash or zsh.
    """
    print({"bash": BASH, "zsh": ZSH}[shell], end="")


def offered(words: list[str]) -> list[str]:
    """What may follow ``words`` on the command line."""
    from neurobridge.cli import COMMANDS, call

    name = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in COMMANDS), None)
    if name is None:
        here = [c.split() for c in COMMANDS if c.split()[: len(words)] == words]
        return sorted({parts[len(words)] for parts in here if len(parts) > len(words)})
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit, UserError):
        call(name, ["--help"])
    return sorted(set(re.findall(r"(?<![\w-])--[\w.]+", told.getvalue())))
