"""Parsers of option texts. Every parser raises `ValueError` for an invalid text."""

import os
import re

from collections.abc import Callable
from pathlib import Path

from netpolq.ipc.agent_settings import MAX_QUEUE, MAX_WORKERS, QueueRange
from netpolq.ipc.run_dir import STATUS_SOCKET

_MAX_SOCKET_PATH_BYTES = 107
"""Source: unix(7): `sun_path` has 108 bytes, the last of them NUL."""

_TRUE = frozenset({"1", "t", "true", "yes"})
_FALSE = frozenset({"0", "f", "false", "no"})
_NUMBER = re.compile(r"0|[1-9][0-9]{0,19}|0[xX][0-9a-fA-F]{1,16}")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")


def boolean(text: str) -> bool:
    """Return the truth value. Source: Go's strconv.ParseBool, case-insensitive, extended by yes and no."""
    folded = text.lower()
    if folded in _TRUE:
        return True
    if folded in _FALSE:
        return False
    raise ValueError


def boolean_or_auto(text: str) -> bool | None:
    """Return None for `auto`."""
    return None if text == "auto" else boolean(text)


def integer(lowest: int, highest: int) -> Callable[[str], int]:
    """Return a parser of decimal and hexadecimal numbers from `lowest` to `highest`, both included."""

    def parse(text: str) -> int:
        number = _number(text)
        if not lowest <= number <= highest:
            raise ValueError
        return number

    return parse


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError  # this includes a leading zero, which Go reads as octal
    return int(text, 0)


def worker_count(text: str) -> int | None:
    """Return None for `auto`."""
    return None if text == "auto" else integer(1, MAX_WORKERS)(text)


def queue_range(text: str) -> QueueRange | None:
    """Return the range of `A:B`, or None for the empty text, which means "not given"."""
    if not text:
        return None
    first, _colon, last = text.partition(":")
    found = QueueRange(_number(first), _number(last))
    if not found.first <= found.last <= MAX_QUEUE or found.last - found.first >= MAX_WORKERS:
        raise ValueError
    return found


def mark_mask(text: str) -> int:
    """Return a mask of three adjacent bits of a 32-bit mark."""
    mask = integer(1, 0xFFFFFFFF)(text)
    if mask != 0b111 * (mask & -mask):
        raise ValueError
    return mask


def host_name(text: str) -> str:
    """Return a node name in lower case, without surrounding space; empty for the empty text, which means "not given".

    Source: kubelet's `nodeutil.GetHostname`. The check of the characters detects a `$(NODE_NAME)` that was not expanded.
    """
    name = text.strip().lower()
    if text and not _HOST_NAME.fullmatch(name):
        raise ValueError
    return name


def plain_text(text: str) -> str:
    """Return the text itself, if it can be an argument of a program."""
    if "\0" in text:
        raise ValueError
    os.fsencode(text)
    return text


def one_of(*values: str) -> Callable[[str], str]:
    """Return a parser that accepts only these values."""

    def parse(text: str) -> str:
        if text not in values:
            raise ValueError
        return text

    return parse


def path_or_none(text: str) -> Path | None:
    """Return the path, or None for the empty text."""
    return Path(plain_text(text)) if text else None


def run_directory(text: str) -> Path:
    """Return an absolute path, short enough for the address of the status socket below it."""
    path = Path(plain_text(text))
    if not path.is_absolute() or len(os.fsencode(path / STATUS_SOCKET)) > _MAX_SOCKET_PATH_BYTES:
        raise ValueError
    return path
