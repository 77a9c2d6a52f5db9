"""Completion of the command line in a shell, by shtab if it is installed."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

#: Shells that shtab knows.
SHELLS = ("bash", "zsh", "tcsh")
_FILES, _FOLDERS = ("weights", "report", "reports"), ("images", "out")


class PrintCompletion(argparse.Action):
    """Prints what a shell has to read to complete the words of a command, and ends the process."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, shell: Any, option: Any = None) -> None:
        """Print it, for the shell that was named."""
        try:
            import shtab
        except ImportError:
            parser.error(f"{option} needs shtab: pip install shtab")
        for action in _actions(parser):
            if action.dest in (*_FILES, *_FOLDERS):
                action.complete = shtab.FILE if action.dest in _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
        print(shtab.complete(parser, shell=str(shell)))
        parser.exit()


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Every argument of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
