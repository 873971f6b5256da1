"""The scripts that complete commands, flags and values in bash and zsh, made from the descriptions of the commands."""

import re

from collections.abc import Iterable, Mapping

from netpolq.cli.command import Command
from netpolq.settings.options import Option
from netpolq.settings.value_types import Completion

SHELLS = ("bash", "zsh")

_BASH = """\
# Completion of netpolq in bash, printed by `netpolq completion bash`.
_netpolq() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words="" paths=""
    COMPREPLY=()
    # readline makes three words of --flag=value.
    if [[ $word == = ]]; then
        word="" before="$before="
    elif [[ $before == = ]]; then
        before=${COMP_WORDS[COMP_CWORD-2]}=
    fi
    # Flags also have the form -flag.
    [[ $before == -[!-]?* ]] && before=-$before
    if ((COMP_CWORD == 1)); then
        words="@commands@"
    else
        case ${COMP_WORDS[1]}:$before in
@values@
            *)
                case ${COMP_WORDS[1]} in
@flags@
                esac
                ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen ${paths:+"$paths"} -W "$words" -- "$word")
    [[ -z $paths ]] || compopt -o filenames 2>/dev/null
}
complete -F _netpolq netpolq
"""

_ZSH = """\
#compdef netpolq
# Completion of netpolq in zsh, printed by `netpolq completion zsh`.
_netpolq() {
    local -a commands=(
@commands@
    )
    if ((CURRENT == 2)); then
        _describe command commands
        return
    fi
    shift words
    ((CURRENT--))
    case $words[1] in
@flags@
    esac
}
if [[ $funcstack[1] == _netpolq ]]; then
    _netpolq "$@"  # loaded from a folder of $fpath
else
    compdef _netpolq netpolq
fi
"""

_BASH_PATHS = {Completion.NOTHING: [], Completion.FILES: ["paths=-f"], Completion.FOLDERS: ["paths=-d"]}
_ZSH_ACTION = {Completion.NOTHING: " ", Completion.FILES: "_files", Completion.FOLDERS: "_files -/"}


def script(shell: str, commands: Mapping[str, Command]) -> str:
    """Return the script for one of the `SHELLS`. `commands`: those to complete."""
    return (_bash if shell == "bash" else _zsh)(commands)


def _bash(commands: Mapping[str, Command]) -> str:
    values, flags = [], []
    for name, command in commands.items():
        for option in command.options:
            # A switch never uses the next argument as its value.
            forms = [f"{name}:--{option.name}=", *([] if option.is_switch else [f"{name}:--{option.name}"])]
            forms += [form for letter in option.letter for form in (f"{name}:-{letter}", f"{name}:--{letter}=")]
            offered = [f'words="{" ".join(option.value_type.choices)}"'] if option.value_type.choices else []
            offered += _BASH_PATHS[option.value_type.completion]
            values.append(" ".join((f"            {'|'.join(forms)})", *offered, ";;")))
        words = " ".join((*_first_words(name, commands), *_flags(command.options)))
        offered = [f'words="{words}"', *_BASH_PATHS[command.paths]]
        flags.append(f"                    {name}) {' '.join(offered)} ;;")
    return _filled(_BASH, {"commands": " ".join(commands), "values": "\n".join(values), "flags": "\n".join(flags)})


def _flags(options: Iterable[Option[object]]) -> Iterable[str]:
    for option in options:
        yield f"--{option.name}"
        if option.is_negatable:
            yield f"--no-{option.name}"
    yield "--help"


def _zsh(commands: Mapping[str, Command]) -> str:
    described = [f"        {_quoted(f'{name}:{command.summary}')}" for name, command in commands.items()]
    flags = []
    for name, command in commands.items():
        specs = [spec for option in command.options for spec in _zsh_specs(option)]
        if first := _first_words(name, commands):
            specs.append(f":{name}:({' '.join(first)})")
        if command.paths is not Completion.NOTHING:
            specs.append(f"*:path:{_ZSH_ACTION[command.paths]}")
        lines = " \\\n".join(f"                {_quoted(spec)}" for spec in (*specs, "--help[Show the help page.]"))
        flags.append(f"        {name})\n            _arguments \\\n{lines}\n            ;;")
    return _filled(_ZSH, {"commands": "\n".join(described), "flags": "\n".join(flags)})


def _zsh_specs(option: Option[object]) -> Iterable[str]:
    """Return the arguments of zsh's `_arguments` for a flag."""
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.help.partition(". ")[0].removesuffix(".") + ".")
    action = (
        f"({' '.join(option.value_type.choices)})" if option.value_type.choices else _ZSH_ACTION[option.value_type.completion]
    )
    value = f"{option.value_type.metavar}:{action}".replace("A:B", "A\\:B")
    if option.is_negatable:
        yield f"--{option.name}=-[{text}]::{value}"
        yield f"--no-{option.name}[The opposite of --{option.name}.]"
    elif option.is_switch:
        yield f"--{option.name}[{text}]"
    else:
        yield f"--{option.name}=[{text}]:{value}"
        yield from (f"-{letter}[{text}]:{value}" for letter in option.letter)


def _first_words(name: str, commands: Mapping[str, Command]) -> tuple[str, ...]:
    return tuple(commands) if name == "help" else commands[name].words


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _filled(template: str, parts: Mapping[str, str]) -> str:
    return re.sub(r"(?m)@(\w+)@", lambda match: parts[match[1]], template)
