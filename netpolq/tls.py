"""TLS contexts from files that are read again when they change: certificates are renewed while a program runs.

Only TLS 1.3, and no session is resumed: each handshake checks the certificate of the other side.
"""

import logging
import ssl

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

log = logging.getLogger("tls")


class TlsFileError(Exception):
    """A file cannot be used. The text is one line that names its flag and the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFile:
    """A file in PEM and the flag that names it."""

    flag: str
    path: Path

    def __str__(self) -> str:
        return f"{self.flag} {self.path}"


class TlsContext:
    """The context of the present content of some files. `make`: reads them.

    Raises `TlsFileError` if they are unusable at the start, unless they `may_come_later`: then there is no context yet. Later a file that
    cannot be used leaves the context as it is. In both cases `problem` tells why.
    """

    def __init__(self, files: tuple[TlsFile, ...], make: Callable[[], ssl.SSLContext], *, may_come_later: bool = False) -> None:
        self._files = files
        self._make = make
        self._context: ssl.SSLContext | None = None
        self.generation = 0
        """Rises with each new context."""
        self.problem: str | None = None
        self._seen = self._look()
        try:
            self._read()
        except TlsFileError as error:
            if not may_come_later:
                raise
            self._note(error)

    def current(self) -> ssl.SSLContext:
        """Return the context, of the files as they are now if they can be used. Raises `TlsFileError` while there is none yet."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._read()
            except TlsFileError as error:
                self._note(error)
            else:
                log.info("certificates were read: %s", ", ".join(map(str, self._files)))
        if self._context is None:
            raise TlsFileError(self.problem)
        return self._context

    def _read(self) -> None:
        self._context = self._make()
        self.problem = None
        self.generation += 1

    def _note(self, error: TlsFileError) -> None:
        if self.problem != str(error):
            self.problem = str(error)
            rest = "there are no certificates yet" if self._context is None else "the former certificates stay in use"
            log.warning("%s; %s", error, rest)

    def following(self) -> ssl.SSLContext:
        """Return a context for libraries that keep one: each new connection has the context of the files as they are then."""
        return _Following(self)

    def _look(self) -> Mapping[Path, tuple[int, ...]]:
        return {file.path: _signature(file.path) for file in self._files}


class _Following(ssl.SSLContext):
    """Hands each connection over to the current context of its owner. Event loops make their connections by `wrap_bio`."""

    _owner: TlsContext

    def __new__(cls, owner: TlsContext) -> Self:
        made = super().__new__(cls, owner.current().protocol)
        made._owner = owner
        return made

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return self._owner.current().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def server_context(certificate: TlsFile, key: TlsFile, client_ca: TlsFile | None, *, may_come_later: bool = False) -> TlsContext:
    """The context of a server. `client_ca`: authorities of clients, which then need a certificate. `may_come_later`: see `TlsContext`.

    Raises `TlsFileError`.
    """

    def make() -> ssl.SSLContext:
        context = _only_tls_1_3(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context.num_tickets = 0
        _load_certificate(context, certificate, key)
        if client_ca is not None:
            _load_authorities(context, client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    files = tuple(file for file in (certificate, key, client_ca) if file is not None)
    return TlsContext(files, make, may_come_later=may_come_later)


def client_context(certificate: TlsFile, key: TlsFile, server_ca: TlsFile) -> TlsContext:
    """The context of a client with a certificate, which checks the server's certificate and its name. Raises `TlsFileError`."""

    def make() -> ssl.SSLContext:
        context = _only_tls_1_3(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
        _load_certificate(context, certificate, key)
        _load_authorities(context, server_ca)
        return context

    return TlsContext((certificate, key, server_ca), make)


def dns_names(peer_certificate: object) -> tuple[str, ...]:
    """The DNS names (subjectAltName) of a certificate as `ssl.SSLSocket.getpeercert` returns it, in lower case."""
    if not isinstance(peer_certificate, dict):
        return ()
    return tuple(str(value).lower() for kind, value in peer_certificate.get("subjectAltName", ()) if kind == "DNS")


def _only_tls_1_3(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _load_certificate(context: ssl.SSLContext, certificate: TlsFile, key: TlsFile) -> None:
    for file in (certificate, key):
        _open(file)
    try:
        context.load_cert_chain(certificate.path, key.path, password=_refuse_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        if _reason(error) == "KEY_VALUES_MISMATCH":
            raise TlsFileError(f"{key}: this is not the key of the certificate in {certificate}") from error
        raise TlsFileError(
            f"{certificate} with {key}: {_reason(error)}; allowed: a certificate chain and its key in PEM, without a passphrase"
        ) from error


def _load_authorities(context: ssl.SSLContext, file: TlsFile) -> None:
    _open(file)
    try:
        context.load_verify_locations(file.path)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise TlsFileError(f"{file}: {_reason(error)}; allowed: certificates of authorities in PEM") from error


def _open(file: TlsFile) -> None:
    try:
        file.path.open("rb").close()
    except OSError as error:
        raise TlsFileError(f"{file}: {error.strerror}; name a file that can be read") from error


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not PEM"
    return " ".join(str(error).split()) or type(error).__name__


def _refuse_passphrase() -> str:
    """Called for an encrypted key. Without it, OpenSSL would ask on the terminal."""
    raise ValueError("the key is encrypted")


def _signature(path: Path) -> tuple[int, ...]:
    """What changes with the content of a file; empty if it is missing."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
