"""What the commands that read the agents of a cluster have in common: which agents their flags name."""

from typing import TYPE_CHECKING

from netpolq.errors import SettingsError
from netpolq.settings import command_flags as flags
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values

if TYPE_CHECKING:
    from netpolq.flow_view.exec_command import Cluster

CLUSTER_ONLY = (flags.AGENT_NAMESPACE, flags.AGENT_SELECTOR, flags.FLOW_NODES, flags.AGENT_TIMEOUT)
"""Flags about the agents of a cluster."""


def check_cluster_only(values: Values, *, is_cluster: bool, advice: str) -> None:
    """Raises `SettingsError` if one of these flags is wrong, or is given without a cluster. `advice`: what is needed."""
    for option in CLUSTER_ONLY:
        values[option]  # checks it
        if not is_cluster and (given := values.given(option)) is not None:
            raise SettingsError(f"{given.origin}: is for the agents of a cluster; {advice}")


def cluster_of(values: Values, kubeconfig: str, context: str) -> "Cluster":
    """Return how to reach the agents that the flags name."""
    from netpolq.flow_view.exec_command import Cluster  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    given = values.given(RUN_DIR)
    return Cluster(
        kubeconfig=kubeconfig,
        context=context,
        namespace=values[flags.AGENT_NAMESPACE],
        selector=values[flags.AGENT_SELECTOR],
        nodes=frozenset(filter(None, values[flags.FLOW_NODES].split(","))),
        run_dir=str(values[RUN_DIR]) if given is not None and given.origin.startswith("flag") else None,
        timeout_s=float(values[flags.AGENT_TIMEOUT]),
    )
