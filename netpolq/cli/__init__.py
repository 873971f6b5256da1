"""The commands of the program `netpolq`: one module for each command, and `dispatch`, which selects the command and reports errors."""

from netpolq.cli.dispatch import COMMANDS, main

__all__ = ["COMMANDS", "main"]
