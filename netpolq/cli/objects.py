"""Where a command reads the objects of a cluster from: manifests, the API server, or the running agent of this node."""

from functools import partial

from netpolq.cli.manifests import require_folder_or_file
from netpolq.errors import SettingsError
from netpolq.explain.known import Read
from netpolq.object_readers import of_agent, of_cluster
from netpolq.settings.command_flags import CLUSTER, CONTEXT, MANIFESTS_TO_READ
from netpolq.settings.definitions import RUN_DIR
from netpolq.settings.options import Values


def reader(values: Values) -> Read:
    """Return the reader of the place that the flags name: manifests, a cluster, otherwise the running agent. Raises `SettingsError`."""
    from netpolq.explain import manifests  # noqa: PLC0415  # see the docstring of `netpolq.cli.dispatch`

    folder, cluster, context = map(values.given, (MANIFESTS_TO_READ, CLUSTER, CONTEXT))
    if folder is not None and cluster is not None:
        raise SettingsError(f"{cluster.origin}: {cluster.text!r} cannot be combined with --manifests; allowed: one of the two")
    if context is not None and cluster is None:
        raise SettingsError(f"{context.origin}: {context.text!r} needs --kubeconfig FILE")
    if folder is not None:
        return manifests.reader(require_folder_or_file(values[MANIFESTS_TO_READ]))
    if cluster is not None:
        if not values[CLUSTER]:
            raise SettingsError(f"{cluster.origin}: a path is required")
        return partial(of_cluster, values[CLUSTER], values[CONTEXT])
    return partial(of_agent, values[RUN_DIR])


CLUSTER_PLACE, AGENT_PLACE = "cluster:", "agent:"
"""Places of objects beside paths. The colon keeps them apart from names of files; `./cluster:` is a path."""


def reader_of_place(name: str, place: str, values: Values) -> Read:
    """Return the reader of an argument that is a path, `cluster:`, `cluster:CONTEXT` or `agent:`. `name`: of the argument.

    Raises `SettingsError`.
    """
    from netpolq.explain import manifests  # noqa: PLC0415

    if place == AGENT_PLACE:
        return partial(of_agent, values[RUN_DIR])
    if place.startswith(CLUSTER_PLACE):
        if not values[CLUSTER]:
            raise SettingsError(f"{name} {place!r} needs --kubeconfig FILE")
        return partial(of_cluster, values[CLUSTER], place.removeprefix(CLUSTER_PLACE))
    return manifests.reader(require_folder_or_file(MANIFESTS_TO_READ.value_type.parse(place), name))
