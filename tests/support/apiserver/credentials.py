"""Credentials of the test API server: certificates made at run time, tokens that change, and the client files with both."""

import ssl

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import orjson
import trustme

USER = "system:serviceaccount:kube-system:netpolq"


class ClientCertificate(NamedTuple):
    """Certificate and key as PEM texts."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority of one test."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    @property
    def certificate(self) -> bytes:
        """The certificate of the authority as PEM."""
        return self._authority.cert_pem.bytes()

    def server_context(self, *hosts: str) -> ssl.SSLContext:
        """The TLS context of a server. A client certificate may be missing, and is checked if it is presented, as in the real server."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert(*hosts).configure_cert(context)
        self._authority.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client(self, user: str = USER) -> ClientCertificate:
        issued = self._authority.issue_cert(common_name=user, organization_name="netpolq")
        return ClientCertificate(b"".join(pem.bytes() for pem in issued.cert_chain_pems), issued.private_key_pem.bytes())


class Kubeconfig(NamedTuple):
    """The content of a kubeconfig, written as JSON, which is YAML too. Certificates are files beside it."""

    url: str
    authority: bytes | None
    token: str | None = None
    token_file: Path | None = None
    client_certificate: ClientCertificate | None = None
    exec_plugin: Sequence[str] = ()
    """A command that prints an ExecCredential."""

    def write(self, path: Path, *, context: str = "test") -> Path:
        """Write the file and the files that it refers to. Returns the path."""
        cluster: dict[str, object] = {"server": self.url}
        user: dict[str, object] = {}
        if self.authority:
            cluster["certificate-authority"] = _beside(path, "ca.crt", self.authority)
        if self.token is not None:
            user["token"] = self.token
        if self.token_file:
            user["tokenFile"] = str(self.token_file)
        if self.client_certificate:
            user["client-certificate"] = _beside(path, "client.crt", self.client_certificate.certificate)
            user["client-key"] = _beside(path, "client.key", self.client_certificate.key)
        if self.exec_plugin:
            command, *arguments = self.exec_plugin
            version = "client.authentication.k8s.io/v1"
            user["exec"] = {"apiVersion": version, "command": command, "args": arguments, "interactiveMode": "Never"}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "netpolq", "user": user}],
            "contexts": [{"name": context, "context": {"cluster": "test", "user": "netpolq"}}],
            "current-context": context,
        }
        path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
        return path


def write_service_account(folder: Path, authority: bytes, token: str) -> Path:
    """The files that a pod finds in /var/run/secrets/kubernetes.io/serviceaccount. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (("ca.crt", authority), ("token", token.encode()), ("namespace", b"kube-system")):
        # Replaced in one step, as the kubelet does.
        fresh = folder / f".{name}"
        fresh.write_bytes(content)
        fresh.replace(folder / name)
    return folder


def _beside(path: Path, suffix: str, content: bytes) -> str:
    written = path.with_name(f"{path.name}.{suffix}")
    written.touch(mode=0o600)
    written.write_bytes(content)
    return str(written)
