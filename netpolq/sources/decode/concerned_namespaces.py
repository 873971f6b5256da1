"""Namespaces that an unreadable object or text concerns.

The unreadable parts of a manifest isolate pods in these namespaces. The search prefers too many namespaces to too few.
"""

import re

from collections.abc import Iterator
from typing import NamedTuple

from netpolq.sources.decode.kinds import CLUSTER_WIDE

DEFAULT_NAMESPACE = "default"

_NAME = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_IS_NAME = re.compile(_NAME)
_COMMENT = re.compile(r"^[^\S\r\n]*#.*$", re.MULTILINE)
_KEY = r"(?<![\w.-])[\"']?(?i:{})[\"']?\s*[:=]\s*"
_END = r"(?![-\w.{$<%])"
_NAMED = re.compile(_KEY.format("namespace") + rf"[\"']?({_NAME})" + _END)
_ANY_NAMESPACE = re.compile(_KEY.format("namespace"))
_NAMES = re.compile(_KEY.format("name") + rf"[\"']?({_NAME})" + _END)
_KIND = re.compile(_KEY.format("kind") + r"[\"']?([A-Za-z]+)")
_MAX_VALUES = 10_000
"""Maximum number of values searched in one body."""
_MAX_NAMESPACES = 100
_CLUSTER_WIDE = frozenset(kind.casefold() for kind in CLUSTER_WIDE)
_FREE_MAPS = frozenset({"labels", "annotations", "matchLabels"})


class ConcernedNamespaces(NamedTuple):
    """`namespaces`: those named in a text. `is_complete`: whether the text concerns no other namespace and no unknown pod. A text with
    cluster-wide objects alone concerns none.
    """

    namespaces: tuple[str, ...]
    is_complete: bool

    @property
    def is_cluster_wide(self) -> bool:
        """Whether the text has cluster-wide objects alone."""
        return self.is_complete and not self.namespaces


def named_namespaces(value: object) -> tuple[str, ...]:
    """Every namespace in a field `namespace` of a body, in any spelling and at any depth."""
    found: dict[str, None] = {}
    pending, looked_at = [value], 0
    while pending and looked_at < _MAX_VALUES and len(found) < _MAX_NAMESPACES:
        item = pending.pop()
        looked_at += 1
        if isinstance(item, list):
            pending.extend(item[: _MAX_VALUES - looked_at])
        elif isinstance(item, dict):
            for key, inner in item.items():
                if isinstance(inner, dict | list) and key not in _FREE_MAPS:
                    pending.append(inner)
                elif isinstance(inner, str) and _plain(key) == "namespace" and _IS_NAME.fullmatch(inner):
                    found[inner] = None
    return tuple(found)


def namespaces_of(body: object) -> tuple[str, ...]:
    """The namespaces of an object of unclear kind; `default` if its metadata names none. Empty if unknown."""
    if not isinstance(body, dict):
        return named_namespaces(body)
    metadata = body.get("metadata")
    kind = body.get("kind")
    if isinstance(kind, str) and _plain(kind) in {"namespace", "namespaces"}:
        name = metadata.get("name") if isinstance(metadata, dict) else None
        return (name,) if isinstance(name, str) and _IS_NAME.fullmatch(name) else ()
    named = named_namespaces(body)
    if named or not isinstance(metadata, dict):
        return named
    return () if any(_plain(key) == "namespace" and value for key, value in metadata.items()) else (DEFAULT_NAMESPACE,)


def namespaces_in(text: str) -> ConcernedNamespaces:
    """The namespaces named in a text that is not valid YAML or JSON (a template, a manifest with an error), or has duplicate keys."""
    text = _COMMENT.sub("", text)
    kinds = [_plain(kind).removesuffix("list") for kind in _KIND.findall(text)]
    used = {kind for kind in kinds if kind}
    if used and used <= _CLUSTER_WIDE:
        return ConcernedNamespaces((), is_complete=True)
    namespaces = dict.fromkeys(_some(_NAMED, text))
    mentions = len(_ANY_NAMESPACE.findall(text))
    is_complete = mentions == len(_NAMED.findall(text))
    if kinds.count("namespace"):
        namespaces.update(dict.fromkeys(_some(_NAMES, text)))
    if sum(1 for kind in kinds if "polic" in kind and kind not in _CLUSTER_WIDE) > mentions:
        namespaces[DEFAULT_NAMESPACE] = None
    return ConcernedNamespaces(
        tuple(namespaces), bool(namespaces) and is_complete and not any(kind.startswith("pod") for kind in kinds)
    )


def _some(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    found: dict[str, None] = {}
    for match in pattern.finditer(text):
        found[match[1]] = None
        if len(found) >= _MAX_NAMESPACES:
            break
    return iter(found)


def _plain(key: object) -> str:
    return "".join(character for character in key.casefold() if character.isalnum()) if isinstance(key, str) else ""
