"""A Kubernetes API server for tests. See `server.py`."""

from tests.support.apiserver.credentials import USER, write_service_account
from tests.support.apiserver.faults import (
    Answer,
    CloseAbruptly,
    CutBody,
    CutLine,
    EndStream,
    Fault,
    GoSilent,
    NeverAnswer,
    Replay,
    SendError,
    SendLine,
    Slow,
    WatchFault,
)
from tests.support.apiserver.options import WatchListSupport
from tests.support.apiserver.resources import (
    ADMIN_POLICIES,
    BASELINE_POLICIES,
    CLUSTER_POLICIES,
    DISCOVERY,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    RESOURCES,
    Body,
    Resource,
    Verb,
)
from tests.support.apiserver.server import ApiServer, Request
from tests.support.apiserver.threaded import ThreadedApiServer

__all__ = [
    "ADMIN_POLICIES",
    "BASELINE_POLICIES",
    "CLUSTER_POLICIES",
    "DISCOVERY",
    "NAMESPACES",
    "NETWORK_POLICIES",
    "NODES",
    "PODS",
    "RESOURCES",
    "USER",
    "Answer",
    "ApiServer",
    "Body",
    "CloseAbruptly",
    "CutBody",
    "CutLine",
    "EndStream",
    "Fault",
    "GoSilent",
    "NeverAnswer",
    "Replay",
    "Request",
    "Resource",
    "SendError",
    "SendLine",
    "Slow",
    "ThreadedApiServer",
    "Verb",
    "WatchFault",
    "WatchListSupport",
    "write_service_account",
]
