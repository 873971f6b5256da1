"""The flags of `netpolq ui` about access: to the page, and of the page to agents."""

from enum import StrEnum

from netpolq.settings.options import Option, OptionGroup
from netpolq.settings.value_types import Completion, integers, modes, optional, paths, text


class Authentication(StrEnum):
    """How a user is known. none: not at all; token: by the token of a file; kubernetes: by a token that the API server knows."""

    NONE = "none"
    TOKEN = "token"  # noqa: S105 - a word
    KUBERNETES = "kubernetes"


_FILE = paths(metavar="FILE", allowed="a path", completion=Completion.FILES)

AUTHENTICATION: Option[Authentication | None] = Option(
    name="authentication",
    value_type=optional(modes(Authentication, metavar="HOW"), None),
    default="",
    help="How users of the page are known. none: not at all. token: by the token in --token-file. kubernetes: by a token that the API "
    "server knows, if its user has the verb get of the nonResourceURL /netpolq/ui. Empty: token with --token-file, otherwise none, which "
    "only a loopback address of --listen allows.",
)
TOKEN_FILE = Option(
    name="token-file",
    value_type=_FILE,
    default="",
    help="File with one token of at least 32 random characters, for all users. It is read again when it changes.",
)
TLS_CERTIFICATE = Option(
    name="tls-certificate",
    value_type=_FILE,
    default="",
    help="File with the certificate chain (PEM) of the page. It and the key are read again when they change.",
)
TLS_KEY = Option(
    name="tls-key",
    value_type=_FILE,
    default="",
    help="File with the private key (PEM, without a passphrase) of --tls-certificate.",
)
ALLOWED_HOSTS = Option(
    name="allowed-host",
    value_type=text(metavar="NAME", allowed="a host name without a port; several separated by commas"),
    default="",
    help="Further name by which browsers open the page. May be repeated. The address of --listen and localhost are always allowed.",
    is_list=True,
)
AGENT_TLS_CERTIFICATE = Option(
    name="agent-tls-certificate",
    value_type=_FILE,
    default="",
    help="File with the client certificate chain (PEM) for agents. With it the agents are read at their --report-bind-address instead of "
    "in their containers. In a pod the API server is that of the cluster, without --kubeconfig.",
)
AGENT_TLS_KEY = Option(
    name="agent-tls-key",
    value_type=_FILE,
    default="",
    help="File with the private key (PEM, without a passphrase) of --agent-tls-certificate.",
)
AGENT_TLS_CA = Option(
    name="agent-tls-ca",
    value_type=_FILE,
    default="",
    help="File with the certificates (PEM) of the authorities of agents, whose certificates must have the DNS name netpolq-agent.",
)
REPORT_PORT = Option(
    name="report-port",
    value_type=integers(1, 65535, metavar="PORT"),
    default="9443",
    help="Port of --report-bind-address of the agents.",
)

ACCESS_GROUP = OptionGroup("Access to the page", (AUTHENTICATION, TOKEN_FILE, TLS_CERTIFICATE, TLS_KEY, ALLOWED_HOSTS))
AGENT_TLS = (AGENT_TLS_CERTIFICATE, AGENT_TLS_KEY, AGENT_TLS_CA)
AGENT_TLS_GROUP = OptionGroup("Agents over TLS", (*AGENT_TLS, REPORT_PORT))
