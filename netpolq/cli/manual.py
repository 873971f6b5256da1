"""The manual page `netpolq.1`, made from the descriptions of the commands. Source: man(7), groff_man(7)."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version

from netpolq.cli.command import Command
from netpolq.errors import ExitCode
from netpolq.hold import command as hold_command
from netpolq.ipc.run_dir import NAMES_FILE, SNAPSHOT_FILE, STATUS_SOCKET, TAKEOVER_KEY
from netpolq.settings.definitions import CNI_CONF_DIR, RUN_DIR
from netpolq.settings.options import ENVIRONMENT_PREFIX, OptionGroup
from netpolq.settings.usage import facts, flag_forms

_SUMMARY = "Kubernetes network policies enforced from NFQUEUE"

_DESCRIPTION = (
    "netpolq enforces Kubernetes network policies on a node. The kernel hands the first packet of each connection of an isolated pod to "
    "user space. A pool of worker processes evaluates it there, and conntrack remembers the verdict.",
    "The agent is netpolq run. The other commands show its state, collect it for a report of a problem, change its log verbosity, "
    "explain verdicts, and act before its start and after its end.",
)

_FILES: Mapping[str, str] = {
    f"{RUN_DIR.default}/{STATUS_SOCKET}": "Socket for netpolq status, pods, names, flows, loglevel and support-bundle.",
    f"{RUN_DIR.default}/{SNAPSHOT_FILE}": "The newest snapshot of the policies, with which the next agent starts.",
    f"{RUN_DIR.default}/{NAMES_FILE}": "Addresses that DNS answers gave for names in policies, with which the next agent starts.",
    f"{RUN_DIR.default}/{TAKEOVER_KEY}": "Key that an agent with --takeover must read.",
    CNI_CONF_DIR.default: "CNI configuration, which provides the ranges of the node's pods if --pod-cidrs is empty.",
}


def manual(commands: Mapping[str, Command]) -> str:
    """Return the page. `commands`: those to describe. `run` is among them."""
    return "\n".join(_lines(commands)) + "\n"


def _lines(commands: Mapping[str, Command]) -> Iterator[str]:
    yield f'.TH NETPOLQ 1 "" "netpolq {_escaped(version("netpolq"))}" "User Commands"'
    yield from (".nr HY 0", ".nh", ".ad l")  # no hyphens in names of variables
    yield from (".SH NAME", f"netpolq \\- {_escaped(_SUMMARY)}")
    yield from (".SH SYNOPSIS", ".nf")
    for name, command in commands.items():
        yield f"\\fBnetpolq {name}\\fR {_escaped(command.usage)}".rstrip()
    yield ".fi"
    yield from (".SH DESCRIPTION", *_paragraphs(_DESCRIPTION))
    yield ".SH COMMANDS"
    for name, command in commands.items():
        yield f".SS netpolq {name}"
        yield from _hold() if name == "hold" else _command(command)
    yield from (
        ".SH ENVIRONMENT",
        f"Every flag of netpolq run has a variable, as in {ENVIRONMENT_PREFIX}FAIL_OPEN for \\-\\-fail\\-open.",
    )
    yield from _entry("KUBECONFIG", "Kubeconfig files, if \\-\\-kubeconfig and \\-\\-manifests are empty.")
    yield ".SH FILES"
    for path, text in _FILES.items():
        yield from _entry(_escaped(path), _escaped(text))
    yield from (".SH EXIT STATUS", *_exit_codes(commands["run"].exit_codes))
    yield from (".SH SEE ALSO", ".BR nft (8),", ".BR conntrack (8)")


def _command(command: Command) -> Iterator[str]:
    yield from _paragraphs((command.summary, *command.about))
    for group in command.groups:
        yield from _flags(group)
    if command.examples:
        yield from _preformatted("Examples:", command.examples)


def _hold() -> Iterator[str]:
    """Return the help page of `netpolq hold`, which is a text: from the second part on, paragraphs and lists with a heading."""
    for block in hold_command.HELP.strip().split("\n\n")[1:]:
        first, *rest = block.splitlines()
        yield from _preformatted(first, rest) if first.endswith(":") else _paragraphs([" ".join((first, *rest))])


def _flags(group: OptionGroup) -> Iterator[str]:
    if group.heading:
        yield from (".PP", f"\\fI{_escaped(group.heading)}\\fR")
    for option in group.options:
        mark = " *" if option.upstream else ""
        yield from _entry(_escaped(", ".join(flag_forms(option))) + mark, _escaped(option.help))
        yield from (".br", _escaped(facts(option)))


def _exit_codes(codes: Mapping[ExitCode, str]) -> Iterator[str]:
    for code, text in codes.items():
        yield from _entry(str(code.value), _escaped(text))


def _paragraphs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        yield from (".PP", _escaped(text))


def _preformatted(heading: str, lines: Iterable[str]) -> Iterator[str]:
    yield from (".PP", _escaped(heading), ".PP", ".EX", *(_escaped(line) for line in lines), ".EE")


def _entry(tag: str, text: str) -> Iterator[str]:
    """Return an entry with a tag. Both are roff."""
    yield from (".TP", f"\\fB{tag}\\fR", text)


def _escaped(text: str) -> str:
    """Return a line of text in roff: no control line, and with dashes and quotes that can be copied."""
    for character, name in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga"), ("^", "\\(ha"), ("~", "\\(ti")):
        text = text.replace(character, name)
    return f"\\&{text}" if text.startswith(".") else text
