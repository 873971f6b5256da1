"""Types of plain YAML scalars, as kubectl's parser reads them.

Source: YAML 1.1 without base 60 and dates: null, booleans (yes, no, on, off, y, n too) and numbers; all else is text.
"""

import re

_INTEGER = re.compile(r"[-+]?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]{0,19})")
_NUMBER = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_TRUE = ("y", "yes", "on", "true")
_FALSE = ("n", "no", "off", "false")
_CONSTANTS: dict[str, object] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
for _names, _value in ((_TRUE, True), (_FALSE, False)):
    _CONSTANTS.update({form: _value for name in _names for form in (name, name.capitalize(), name.upper())})
for _name, _number in ((".nan", float("nan")), (".inf", float("inf")), ("+.inf", float("inf")), ("-.inf", float("-inf"))):
    _CONSTANTS.update(dict.fromkeys((_name, _name.upper(), _name[:-3] + _name[-3:].capitalize()), _number))


def plain_value(text: str) -> object:
    """The value of a scalar without quotes and tag."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in "+-.0123456789":
        return text
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(digits):
        bare = digits.lstrip("+-")
        base = 8 if len(bare) > 1 and bare[0] == "0" and bare[1] in "01234567" else 0
        return int(digits, base)
    if _NUMBER.fullmatch(digits):
        return float(digits)
    return text
