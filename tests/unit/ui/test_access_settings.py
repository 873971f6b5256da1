"""Which flags of access are refused together."""

from pathlib import Path

import pytest

from netpolq.errors import SettingsError
from netpolq.ipc.agent_settings import BindAddress
from netpolq.settings.ui_access_flags import Authentication
from netpolq.ui.access.settings import check

FILE = Path("/file")
TLS = {"tls_certificate": FILE, "tls_key": FILE}


def refused(address: str, **flags: Path | Authentication) -> str:
    with pytest.raises(SettingsError) as caught:
        check(listen=BindAddress.parse(address), **flags)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"])
def test_a_loopback_address_needs_nothing(address: str) -> None:
    assert check(listen=BindAddress.parse(address)).authentication is Authentication.NONE


@pytest.mark.parametrize("address", [":1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[fd00::1]:1", "node-1:1", "127.0.0.1.example:1"])
def test_every_other_address_needs_tls_and_a_way_to_know_users(address: str) -> None:
    listen = BindAddress.parse(address)
    assert "needs --token-file FILE or --authentication kubernetes" in refused(address)
    assert "needs --token-file FILE" in refused(address, **TLS)
    assert "needs --token-file FILE" in refused(address, **TLS, authentication=Authentication.NONE)
    assert "tokens need --tls-certificate" in refused(address, token_file=FILE)
    assert "tokens need --tls-certificate" in refused(address, authentication=Authentication.KUBERNETES)
    assert check(listen=listen, **TLS, token_file=FILE).authentication is Authentication.TOKEN  # type: ignore[arg-type]
    kubernetes = check(listen=listen, authentication=Authentication.KUBERNETES, **TLS)  # type: ignore[arg-type]
    assert kubernetes.authentication is Authentication.KUBERNETES


def test_half_of_a_pair_is_named() -> None:
    assert refused("127.0.0.1:1", tls_certificate=FILE) == "--tls-certificate needs --tls-key, too"
    assert refused("127.0.0.1:1", tls_key=FILE) == "--tls-key needs --tls-certificate, too"
    assert refused("127.0.0.1:1", authentication=Authentication.TOKEN) == "--authentication token needs --token-file"
    for other in (Authentication.NONE, Authentication.KUBERNETES):
        assert "--token-file cannot be combined" in refused("127.0.0.1:1", token_file=FILE, authentication=other)
