"""The sample of a configuration file: every option with its text, what is allowed, and its default as a comment."""

import json
import re

from netpolq.settings.definitions import CONFIG, GROUPS
from netpolq.settings.options import ENVIRONMENT_PREFIX, Option
from netpolq.settings.usage import paragraph
from netpolq.settings.value_types import BOOLEAN

_HEAD = f"""\
# Settings of `netpolq run`, for `--config FILE` or {CONFIG.environment}. Every line shows the default. Remove its `#` to set
# another value. Precedence: flag (`--fail-open=false`), environment variable ({ENVIRONMENT_PREFIX}FAIL_OPEN=false), this file.
# Every value can also be a string: mark-mask = "0x70". An unknown key is an error. `netpolq config` prints this file.
"""
_FLAG = re.compile(r"--(?=[a-z])")


def sample_file() -> str:
    """Return the file. As it is, it changes nothing."""
    parts = [_HEAD]
    for heading, options in GROUPS:
        parts += [f"# --- {heading} ---\n", *(_entry(option) for option in options if option is not CONFIG)]
    return "\n".join(parts)


def _entry(option: Option[object]) -> str:
    """Return an option with its text, in which flags are keys."""
    comment = [_FLAG.sub("", option.help), *([] if option.value_type is BOOLEAN else [f"Allowed: {option.value_type.allowed}."])]
    return "\n".join((*(paragraph(text, indent="# ") for text in comment), f"#{option.name} = {_toml(option)}\n"))


def _toml(option: Option[object]) -> str:
    """Return the default in TOML: a number or a boolean bare, and everything else as a string."""
    is_bare = option.default in {"true", "false"} if option.is_switch else option.default[:1].isdigit()
    return option.default if is_bare and option.value_type.toml_type is not str else json.dumps(option.default)
