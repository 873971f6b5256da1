"""The command `explain`: shows which policies decide a connection, from manifests and without an agent."""

from collections.abc import Sequence

from netpolq.cli.command import Command, plain
from netpolq.cli.manifests import require_folder_or_file
from netpolq.errors import SettingsError
from netpolq.settings.command_flags import (
    DESTINATION,
    ENGINE,
    EXPECT,
    EXPLAIN_OPTIONS,
    MANIFESTS_TO_READ,
    NAMES,
    OUTPUT,
    PACKETS,
    PORT,
    PROTOCOL,
    QUESTION,
    SOURCE,
    VIA_SERVICE,
)
from netpolq.settings.options import Values, from_argv


def _run(argv: Sequence[str]) -> int:
    from netpolq import explain  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    values = Values(from_argv(EXPLAIN_OPTIONS, argv))
    if values[PACKETS] and (given := next(filter(None, map(values.given, QUESTION)), None)):
        raise SettingsError(f"{given.origin}: {given.text!r} cannot be combined with --packets; each line has its own value")
    return explain.run(
        manifests=require_folder_or_file(values[MANIFESTS_TO_READ]),
        source=values[SOURCE] or None,
        destination=values[DESTINATION] or None,
        protocol=values[PROTOCOL],
        port=values[PORT] or None,
        via_service=values[VIA_SERVICE],
        names=values[NAMES],
        packets=values[PACKETS] or None,
        evaluator=values[ENGINE],
        output=values[OUTPUT],
        expect=values[EXPECT] or None,
    )


EXPLAIN = Command(
    run=_run,
    usage="--manifests PATH [flags]",
    summary="Show offline which policies decide a connection.",
    about=(
        "Give either --src and --dst, or --packets. The command needs neither an agent nor privileges. For a denied connection the "
        "answer lists each isolating policy with the part of its closest rule that does not match (peer, port or protocol), and the "
        "smallest addition to a policy that would allow the connection. It resolves no domain names: --name gives the addresses of "
        "names, and the answer lists the rules that would allow the connection by a name.",
    ),
    groups=plain(*EXPLAIN_OPTIONS),
    # Each example was run, with manifests like those of its test.
    examples=(
        "# can the frontend reach the database, and if not, what is missing",
        "netpolq explain --manifests manifests --src shop/frontend --dst shop/db --port 5432",
        "# a named port; a single file; addresses that belong to no pod",
        "netpolq explain --manifests policies.yaml --src 192.0.2.7 --dst shop/db:postgres",
        "netpolq explain --manifests manifests --src [fd00::7] --dst [fd00::1]:5432 -o json",
        "# a test in CI: exit code 8 if the connection is allowed",
        "netpolq explain --manifests manifests --src other/pod --dst shop/db --port 5432 --expect deny",
        "# a rule with domain names",
        "netpolq explain --manifests manifests --src shop/web --dst 192.0.2.1:443 --name deb.debian.org=192.0.2.1",
        "# many packets, one JSON object a line",
        "netpolq explain --manifests manifests --packets questions.jsonl",
    ),
)
