"""Kubeconfig files that cannot be used: each is one line that names it."""

from pathlib import Path

import pytest

from netpolq.errors import BootError
from netpolq.sources.kubernetes.connection import Connection

KUBECONFIGS = {
    "missing": None,
    "empty": "",
    "no mapping": "just words\n",
    "not YAML": "a: [\n- b: {\n",
    "no context": "apiVersion: v1\nkind: Config\nclusters: []\nusers: []\ncontexts: []\n",
    "an unknown context": "current-context: x\nclusters: []\nusers: []\ncontexts: []\n",
    "entries without names": "current-context: x\nclusters: [1]\nusers: []\ncontexts: []\n",
    "a list as a mapping": "current-context: x\nclusters: {}\nusers: []\ncontexts: {a: b}\n",
    "a missing authority": """
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "https://127.0.0.1:1", certificate-authority: /nowhere/ca.crt}}]
users: [{name: x, user: {token: t}}]
""",
    "a missing certificate": """
current-context: x
contexts: [{name: x, context: {cluster: x, user: x}}]
clusters: [{name: x, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: x, user: {client-certificate: /nowhere/client.crt, client-key: /nowhere/client.key}}]
""",
}


async def error_of(paths: str | Path) -> str:
    with pytest.raises(BootError) as raised:
        await Connection(str(paths)).open()
    (line,) = str(raised.value).splitlines()
    return line


@pytest.mark.parametrize("kind", KUBECONFIGS)
async def test_a_kubeconfig_that_cannot_be_used_is_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "kubeconfig"
    text = KUBECONFIGS[kind]
    if text is not None:
        path.write_text(text)
    line = await error_of(path)
    assert f"--kubeconfig {path} cannot be used: " in line
    if "/nowhere" in (text or ""):
        assert "/nowhere/" in line


async def test_a_kubeconfig_that_is_a_folder_is_one_line_that_names_it(tmp_path: Path) -> None:
    assert f"{tmp_path}: Is a directory" in await error_of(tmp_path)


@pytest.mark.parametrize("paths", ["~/config", "~/absent:~/config", "{home}/config"])
async def test_several_files_and_a_tilde_are_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: str) -> None:
    """`~` is the home directory, with or without a shell to expand it. A missing file of several is ignored."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config").write_text("")
    assert f"{tmp_path}/config: the file is empty" in await error_of(paths.format(home=tmp_path))
