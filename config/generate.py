"""Writes what repeats the options of `netpolq run`: `config/netpolq.toml`, and the table of flags in `README.md`. See `make options`."""

import re

from collections.abc import Iterator
from pathlib import Path

from netpolq.settings.definitions import OPTIONS
from netpolq.settings.sample_file import sample_file

ROOT = Path(__file__).parents[1]
_TABLE = re.compile(r"(?m)^\| flag \| default \| meaning \|\n(?:\|.*\n)+")


def generated() -> dict[Path, str]:
    """Return the files with the content that they should have."""
    readme = ROOT / "README.md"
    table = "\n".join(_table()) + "\n"
    return {
        ROOT / "config/netpolq.toml": sample_file(),
        readme: _TABLE.sub(lambda _match: table, readme.read_text(encoding="utf-8")),
    }


def _table() -> Iterator[str]:
    yield from ("| flag | default | meaning |", "| --- | --- | --- |")
    for option in OPTIONS:
        default = f" `{option.default}`" if option.default else ""
        form = f"--{option.name}" if option.is_switch else f"--{option.name} {option.value_type.metavar}"
        yield f"| `{form}` |{default} | {_markdown(option.help)} |"


def _markdown(text: str) -> str:
    return re.sub(r"(?<!`)(--[a-z][a-z0-9-]*)", r"`\1`", re.sub(r"[*|<]", r"\\\g<0>", text))


if __name__ == "__main__":
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")
