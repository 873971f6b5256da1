"""The text of a manifest file: from its bytes to JSON or YAML documents."""

from collections.abc import Iterator

from netpolq.sources.decode.json_values import json_documents
from netpolq.sources.decode.yaml_values import Document, TextError, documents

_WIDE_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
"""Byte order marks. Those of UTF-32 come first, because one of them starts like one of UTF-16."""


def read_documents(origin: str, data: bytes) -> Iterator[Document]:
    """The documents of a file, without empty ones. `origin`: its path. Raises `TextError` for a file that is not text.

    As in kubectl, a file that starts with a brace is tried as JSON, whatever its name; every other file is YAML.
    """
    text = _text(data)
    is_json = origin.casefold().endswith(".json")
    if is_json or text.lstrip().startswith("{"):
        try:
            yield from json_documents(text)
        except TextError:
            if is_json and text.lstrip().startswith(("{", "[")) and "\n---" not in text:
                raise
        else:
            return
    yield from (document for document in documents(text) if document.value is not None or document.duplicates)


def _text(data: bytes) -> str:
    """The text of a file: UTF-8, with or without a byte order mark."""
    if not data.strip():
        # Many writers empty a file first, and a crash leaves an empty one. To withdraw objects, the user deletes the file.
        raise TextError("the file is empty")
    for mark, name in _WIDE_MARKS.items():
        if data.startswith(mark):
            raise TextError(f"the file is {name} and must be UTF-8")
    if (position := data.find(b"\0")) >= 0:
        raise TextError(f"line {_line(data, position)}: a NUL byte")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"line {_line(data, error.start)}: not UTF-8 (byte {data[error.start]:#04x})") from error


def _line(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
