"""The settings of access to the page, and which combinations are safe."""

import ipaddress

from dataclasses import dataclass
from pathlib import Path

from netpolq.errors import SettingsError
from netpolq.ipc.agent_settings import BindAddress
from netpolq.settings.ui_access_flags import Authentication


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Checked settings. `listen`: the address; `allowed_hosts`: further names of it. With `tls_certificate` there is `tls_key`."""

    listen: BindAddress
    allowed_hosts: tuple[str, ...]
    tls_certificate: Path | None
    tls_key: Path | None
    token_file: Path | None
    authentication: Authentication


def check(
    *,
    listen: BindAddress,
    allowed_hosts: tuple[str, ...] = (),
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    token_file: Path | None = None,
    authentication: Authentication | None = None,
) -> Access:
    """Return settings that are safe together. `authentication` None: not given. Raises `SettingsError`."""
    if (tls_certificate is None) != (tls_key is None):
        given, missing = ("--tls-certificate", "--tls-key") if tls_key is None else ("--tls-key", "--tls-certificate")
        raise SettingsError(f"{given} needs {missing}, too")
    if authentication is None:
        authentication = Authentication.NONE if token_file is None else Authentication.TOKEN
    if authentication is Authentication.TOKEN and token_file is None:
        raise SettingsError("--authentication token needs --token-file")
    if authentication is not Authentication.TOKEN and token_file is not None:
        raise SettingsError(f"--token-file cannot be combined with --authentication {authentication}; give one of the two")
    if not is_loopback(listen.host):
        if authentication is Authentication.NONE:
            raise SettingsError(
                f"--listen {listen}: other hosts reach this address, so it needs --token-file FILE or --authentication kubernetes, and "
                "--tls-certificate and --tls-key; or listen on 127.0.0.1"
            )
        if tls_certificate is None:
            raise SettingsError(
                f"--listen {listen}: other hosts reach this address, so tokens need --tls-certificate and --tls-key; "
                "or listen on 127.0.0.1"
            )
    return Access(
        listen=listen,
        allowed_hosts=allowed_hosts,
        tls_certificate=tls_certificate,
        tls_key=tls_key,
        token_file=token_file,
        authentication=authentication,
    )


def is_loopback(host: str) -> bool:
    """Whether only this host reaches an address. `host`: empty for all addresses."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
