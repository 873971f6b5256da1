"""Certificates of the report: those of an agent and of its clients, in files."""

import ssl

from pathlib import Path

import trustme

from netpolq.tls import TlsContext, TlsFile, server_context

AGENT_NAME, CLIENT_NAME = "netpolq-agent", "netpolq-ui"


class ReportCertificates:
    """Two authorities, one of agents and one of clients, in a folder. `certificate`, `key`, `client_ca`: files of the agent."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.certificate, self.key, self.client_ca = (folder / name for name in ("tls.crt", "tls.key", "client-ca.crt"))
        self.agents, self.clients = trustme.CA(), trustme.CA()
        self.write()

    def write(self, name: str = AGENT_NAME) -> None:
        """Write the agent's files with a new certificate. `name`: another DNS name, of another server."""
        _write_issued(self.agents.issue_cert(name), self.certificate, self.key)
        _replace(self.client_ca, self.clients.cert_pem.bytes())

    def rotate(self) -> None:
        """Replace both authorities and the agent's files. What was issued before is of no use any more."""
        self.agents, self.clients = trustme.CA(), trustme.CA()
        self.write()

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags of `netpolq run`, without the address."""
        return (
            f"--report-tls-certificate={self.certificate}",
            f"--report-tls-key={self.key}",
            f"--report-tls-client-ca={self.client_ca}",
        )

    def server_context(self) -> TlsContext:
        """The context of the agent, as it makes it from its flags."""
        return server_context(
            TlsFile(flag="--report-tls-certificate", path=self.certificate),
            TlsFile(flag="--report-tls-key", path=self.key),
            TlsFile(flag="--report-tls-client-ca", path=self.client_ca),
        )

    def client(self, name: str = CLIENT_NAME, issuer: trustme.CA | None = None) -> ssl.SSLContext:
        """The context of a client with a certificate."""
        context = self.anonymous()
        (issuer or self.clients).issue_cert(name).configure_cert(context)
        return context

    def anonymous(self) -> ssl.SSLContext:
        """The context of a client without a certificate."""
        context = ssl.create_default_context(cadata=self.agents.cert_pem.bytes().decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def client_files(self, folder: Path, name: str = CLIENT_NAME) -> tuple[Path, Path, Path]:
        """Write certificate, key and the agents' authority for a client. Returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key, authority = (folder / file for file in ("tls.crt", "tls.key", "ca.crt"))
        _write_issued(self.clients.issue_cert(name), certificate, key)
        _replace(authority, self.agents.cert_pem.bytes())
        return certificate, key, authority


def _write_issued(issued: trustme.LeafCert, certificate: Path, key: Path) -> None:
    _replace(certificate, b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    _replace(key, issued.private_key_pem.bytes())


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step, as the kubelet does."""
    fresh = path.with_name(f".{path.name}")
    fresh.touch(mode=0o600)
    fresh.write_bytes(content)
    fresh.replace(path)
