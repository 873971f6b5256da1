"""The YAML that is written is read as the same values."""

import pytest
import yaml

from hypothesis import given
from hypothesis import strategies as st

from netpolq.recommendation.yaml_writer import Commented, document, plain

SCALARS = st.integers(0, 65535) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab-/", min_size=1), inner, max_size=3)
)


def as_list_of_maps_or_scalars(value: object) -> object:
    """Manifests have no lists in lists."""
    if isinstance(value, dict):
        return {key: as_list_of_maps_or_scalars(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_list_of_maps_or_scalars(item) for item in value if not isinstance(item, list)]
    return value


@given(st.dictionaries(st.text("ab-/", min_size=1), VALUES, max_size=4))
def test_every_value_is_read_again(value: dict[str, object]) -> None:
    wanted = as_list_of_maps_or_scalars(value)
    assert isinstance(wanted, dict)
    assert (yaml.safe_load(document(wanted)) or {}) == wanted


@pytest.mark.parametrize(
    "text", ["on", "No", "y", "null", "1", "1e3", "0x10", "2001-01-01", "12:30", "", "-", "a: b", "#", "~", "é"]
)
def test_texts_that_look_like_something_else_are_quoted(text: str) -> None:
    assert document({"key": text}).startswith('key: "')
    assert yaml.safe_load(document({"key": [text]})) == {"key": [text]}


def test_comments_are_above_their_value_or_beside_it() -> None:
    value = {"rules": Commented([Commented({"port": Commented(80, beside="web")}, ("first", "x\ny"))], ("all",)), "none": []}
    assert document(value, ("head",)) == ("# head\n# all\nrules:\n  # first\n  # x\\ny\n  - port: 80  # web\nnone: []\n")
    assert plain(value) == {"rules": [{"port": 80}], "none": []}


def test_long_comments_are_wrapped() -> None:
    lines = document({"a": 1}, ("word " * 60,)).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("#   word") for line in lines[1:-1])
    assert max(map(len, lines)) <= 120
