"""The commands `matrix` and `diff`: show which workloads may reach which, and what a change of manifests changes about that."""

from collections.abc import Sequence

from netpolq.cli.command import Command, plain
from netpolq.cli.manifests import require_folder_or_file
from netpolq.enums import Protocol
from netpolq.errors import ExitCode, SettingsError
from netpolq.settings.command_flags import (
    DIFF_OPTIONS,
    GROUP_BY,
    MANIFESTS_TO_READ,
    MATRIX_OPTIONS,
    MATRIX_OUTPUT,
    ONE_PORT,
    OUTPUT,
    TRANSPORT,
)
from netpolq.settings.options import Values, from_argv
from netpolq.settings.value_types import Completion


def _run_matrix(argv: Sequence[str]) -> int:
    from netpolq import reachability  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    values = Values(from_argv(MATRIX_OPTIONS, argv))
    return reachability.show_matrix(
        manifests=require_folder_or_file(values[MANIFESTS_TO_READ]),
        by=reachability.By(values[GROUP_BY]),
        protocol=Protocol[values[TRANSPORT]] if values[TRANSPORT] else None,
        port=values[ONE_PORT],
        output=reachability.MatrixFormat(values[MATRIX_OUTPUT]),
    )


def _run_diff(argv: Sequence[str]) -> int:
    from netpolq import reachability  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    paths, rest = argv[:2], argv[2:]
    if len(paths) < 2 or any(path.startswith("-") for path in paths):
        raise SettingsError(
            "OLD and NEW are required, before any flag, as in `netpolq diff OLD NEW`; allowed: a folder or a file"
        )
    values = Values(from_argv(DIFF_OPTIONS, rest))
    old, new = (
        require_folder_or_file(MANIFESTS_TO_READ.value_type.parse(path), name)
        for name, path in zip(("OLD", "NEW"), paths, strict=True)
    )
    return reachability.show_difference(old=old, new=new, as_json=values[OUTPUT] == "json")


MATRIX = Command(
    run=_run_matrix,
    usage="--manifests PATH [flags]",
    summary="Show offline which workloads may reach which.",
    about=(
        "Rows are sources, columns are destinations; `outside` is an address that belongs to no pod and that no address block of a policy "
        "contains. A cell has `all` or `none`, or the allowed ports; `some`: for a part of the pods or addresses only; `-`: there are no "
        "two addresses to connect. Every port that a policy distinguishes is evaluated, as by `netpolq explain`. `other protocols` are "
        "those without ports, such as ICMP.",
        "Pods of a namespace with equal labels are one workload; labels that controllers add do not count. Pods that own no address "
        "(hostNetwork, completed, or none yet) are in no row; -o json lists them. Domain names in policies match nothing here.",
    ),
    groups=plain(*MATRIX_OPTIONS),
    # Each example was run, with manifests like those of its test.
    examples=(
        "# which workloads may reach which, and at which ports",
        "netpolq matrix --manifests manifests",
        "# from which namespaces can a database be reached",
        "netpolq matrix --manifests manifests --by namespace --port 5432",
        "# one protocol; a single file; a table for a document, or for a spreadsheet",
        "netpolq matrix --manifests policies.yaml --protocol UDP -o markdown",
        "netpolq matrix --manifests policies.yaml -o csv > matrix.csv",
    ),
)
DIFF = Command(
    run=_run_diff,
    usage="OLD NEW [flags]",
    summary="Show offline which connections a change of manifests allows or denies.",
    about=(
        "OLD and NEW: folders or files of manifests. For each pair of workloads (as of `netpolq matrix`) and for `outside`, the answer "
        "lists the ports at which connections are allowed in one version and denied in the other, and the policy and rule that decide in "
        "each. Workloads that are in one version only are listed and not compared; so are namespaces and pods.",
    ),
    groups=plain(*DIFF_OPTIONS),
    paths=Completion.FILES,
    exit_codes={ExitCode.OK: "No connection changes.", ExitCode.UNEXPECTED: "A connection changes."},
    # Each example was run, with manifests like those of its test.
    examples=(
        "# what does a change of policies allow or deny",
        "netpolq diff manifests manifests-new",
        "# two files, for a program",
        "netpolq diff policies.yaml policies-new.yaml -o json",
    ),
)
