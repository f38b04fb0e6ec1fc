"""Options of a command, read off the signature of its function: typed, in YAML too, one sentence for what is wrong."""

from __future__ import annotations

import difflib
import json
import re
from argparse import SUPPRESS
from collections.abc import Callable
from typing import NoReturn

from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter, auto_cli

from neurobridge.errors import UserError

READ_BY = {
    "pretrain": ("window", "model", "pretrain", "mixture", "train"),
    "adapt": ("adapt", "train"),
    "align": ("image", "align", "train"),
    "adapter": ("image", "generator", "train"),
    "reconstruct": ("encoding", "generator", "reconstruct"),
    "evaluate": ("evaluate",),
    "report": (),
}  # stage -> the groups of options that its --help shows


UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .*? Given value: (.*)"
)


def call_with(function: Callable, argv: list[str], name: str) -> object:
    """Call ``function`` with the options in ``argv``. Raises UserError, in one sentence, for those it does not take."""
    first = "[RUN]" if name == "pretrain" else "RUN"  # the folder of a run, which has all options
    usage = {"usage": f"neurobridge {name} {first} [options]"} if name in READ_BY else {}
    return auto_cli(function, args=argv, parser_class=Parser, prog=f"neurobridge {name}", allow_abbrev=False, **usage)


class Short(DefaultHelpFormatter):
    """A sentence and a default an option, side by side with its name; types are in what it says of wrong values."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=42, width=118)

    def _get_help_string(self, action):
        text = super()._get_help_string(action) or ""
        return re.sub(r"\(type: (?:(?!default:).)*default:", "(default:", text, flags=re.DOTALL)

    def _format_action_invocation(self, action):
        return action.option_strings[0] if action.option_strings else super()._format_action_invocation(action)


class Parser(ArgumentParser):
    """Truth values are flags (--quick, --no_quick); help is of the command itself; errors are one sentence."""

    def add_argument(self, *args, **options):
        if options.get("type") is bool:
            del options["type"]
            options["action"] = ActionYesNo(no_prefix="no_")
        return super().add_argument(*args, **options)

    def parse_args(self, args=None, *rest, **options):  # pyright: ignore
        """``[201025]`` for an option that takes names is a name, though YAML would read a number."""
        of_names = {
            name
            for action in self._actions
            if re.search(r"\b(list|tuple)\[str\b", str(getattr(action, "_typehint", "")))
            for name in action.option_strings
        }
        told = list(args or ())
        for at, word in enumerate(told):
            option, sign, value = word.partition("=")
            if option in of_names and sign:
                told[at] = f"{option}={_names(value)}"
            elif at and told[at - 1] in of_names:
                told[at] = _names(word)
        return super().parse_args(None if args is None else told, *rest, **options)

    def format_help(self) -> str:
        stage = self.prog.removeprefix("neurobridge ")
        if stage not in READ_BY:
            return super().format_help()
        self.formatter_class = Short
        groups = {action.dest.partition(".")[0] for action in self._actions if "." in action.dest}
        for action in self._actions:
            group, _, rest = action.dest.partition(".")
            if (rest and group not in READ_BY[stage]) or action.dest in groups:
                action.help = SUPPRESS
        return super().format_help() + "\nOptions of the other stages: neurobridge run --help\n"

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        parser = getattr(ex, "subcommand_parser", None) or self
        told = re.sub(r'Parser key "([\w.]+)"', r"--\1", " ".join(message.split()))
        told = re.sub(r"Expected a <class '(\w+)'>\. Got value:", r"expected \1, got", told)
        told = re.sub(r"Expected a typing.Literal\[(.*?)\]\. Got value:", r"expected one of \1, got", told)
        told = UNION.sub(lambda found: f"expected {_kinds(found[1])}, got {found[2]}", told)
        names = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
        for word in re.findall(r"--[\w.]+|(?<=Key ')[\w.]+(?=')", told):
            near = difflib.get_close_matches(f"--{word.removeprefix('--')}", names, n=1, cutoff=0.7)
            if near and near[0] != f"--{word.removeprefix('--')}":
                told += f"; did you mean {near[0]}?"
                break
        raise UserError(f"{told.rstrip('.')} ('{parser.prog} --help' shows the options)") from ex


def _names(value: str) -> str:
    """``[a, 7]`` with each name in quotes; anything else as it is."""
    inside = re.fullmatch(r"\[([^\[\]{}'\"]+)\]", value.strip())
    return json.dumps([name.strip() for name in inside[1].split(",")]) if inside else value


def _kinds(subtypes: str) -> str:
    """'float or null' of "<class 'float'>, <class 'NoneType'>"."""
    plain = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", subtypes)
    return plain.replace("NoneType", "null").replace(", ", " or ")
