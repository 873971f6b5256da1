"""Modules and certificates that the commands load when the agent starts: each costs time at every start."""

import os
import subprocess
import sys

from pathlib import Path

import pytest
import trustme

_COMMANDS = """
import sys
from netpolq import cli
print(*sys.modules)
"""
_SUPERVISE = """
import gc, ssl
from netpolq import cli
cli.main(["supervise", "no document"])
print(*(context.cert_store_stats()["x509_ca"] for context in gc.get_objects() if isinstance(context, ssl.SSLContext)))
print(ssl.create_default_context().cert_store_stats()["x509_ca"])
"""


def _printed(code: str, **variables: str) -> list[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("SSL_CERT_")} | variables
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment)
    return done.stdout.splitlines()


def test_a_command_imports_no_module_that_only_others_need() -> None:
    (modules,) = _printed(_COMMANDS)
    assert "netpolq.cli.run" in modules.split()
    assert not {"asyncio", "aiohttp", "psutil", "yaml", "prometheus_client", "importlib.metadata", "rich"} & set(modules.split())


@pytest.fixture
def certificates(tmp_path: Path) -> str:
    """A file with the certificate of one authority."""
    path = tmp_path / "authority.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


def test_the_supervisor_loads_default_certificates_only_when_a_connection_needs_them(certificates: str) -> None:
    """A kubeconfig without an authority relies on them."""
    imported, later = _printed(_SUPERVISE, SSL_CERT_FILE=certificates, SSL_CERT_DIR=os.devnull)
    assert set(imported.split()) == {"0"}
    assert later == "1"


def test_the_supervisor_finds_the_certificates_of_the_system() -> None:
    code = "import os; from netpolq import cli; cli.main(['supervise', 'no document']); print('SSL_CERT_FILE' in os.environ)"
    assert _printed(code) == ["False"]
