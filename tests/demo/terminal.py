"""Terminal output: colour if the terminal supports it, plain characters if its encoding has no ✓."""

import os
import sys

from enum import StrEnum

WIDTH = 86
_NAME_WIDTH = 21


class Style(StrEnum):
    """Source: ECMA-48 section 8.3.117."""

    BOLD = "1"
    DIM = "2"
    GOOD = "32"
    BAD = "31"
    PART = "33"
    CHANGED = "1;7"


class Terminal:
    """Standard output. Colour only on a terminal, and not if NO_COLOR is set (no-color.org)."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        try:
            "✓✗─→·".encode(sys.stdout.encoding)
        except UnicodeEncodeError:
            self._plain = str.maketrans({"✓": "+", "✗": "-", "─": "-", "→": ">", "·": "."})
        else:
            self._plain = {}

    def styled(self, text: str, *styles: Style) -> str:
        if not self._colour or not text:
            return text
        return f"\x1b[{';'.join(styles)}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        print(text.translate(self._plain), flush=True)

    def section(self, title: str) -> None:
        self.line()
        self.line(self.styled(f"── {title} ".ljust(WIDTH, "─"), Style.BOLD))

    def fact(self, name: str, text: str) -> None:
        self.line(f"  {self.styled(name.ljust(_NAME_WIDTH), Style.DIM)} {text}")

    def good(self, text: str) -> None:
        self.line(f"  {self.styled('✓', Style.GOOD)} {text}")

    def bad(self, text: str) -> None:
        self.line(f"  {self.styled('✗ ' + text, Style.BAD)}")
