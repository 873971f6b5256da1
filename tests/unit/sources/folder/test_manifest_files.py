"""Reading the files of a manifest folder."""

import json
import os

from pathlib import Path

import pytest

from netpolq.addresses import parse_address
from netpolq.errors import NetpolqError
from netpolq.model import Namespace, NetworkPolicy, Pod
from netpolq.sources.folder.manifest_file import MAX_REJECTIONS
from netpolq.sources.folder.source import load
from tests.support.manifest_texts import BAD_RULE, complaints, names, namespace, policy


def test_every_manifest_below_the_folder_is_read_and_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.yml").write_text(namespace("b"))
    (tmp_path / "a.yaml").write_text(f"# header\n---\n{namespace('a1')}---\n---\n{namespace('a2')}")
    (tmp_path / "deep" / "er" / "c.json").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}})
    )
    (tmp_path / "d.yaml").write_text("apiVersion: v1\nkind: ConfigMap\n---\napiVersion: v1\nkind: ConfigMap\n")
    for unread in ("e.txt", "e.yaml~", "e.yaml.bak", ".e.yaml", "4913", ".hidden/e.yaml"):
        (tmp_path / unread).write_text(namespace("e"))
    update = load(tmp_path)
    assert names(update) == ["Namespace a1", "Namespace a2", "Namespace b", "Namespace c"]
    assert update.ignored == {"ConfigMap": 2}
    assert update.rejections == ()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.yaml", b"", "the file is empty"),
        ("a.json", b" \n", "the file is empty"),
        ("a.yaml", b"a: 1\nb: \xff\n", "line 2: not UTF-8 (byte 0xff)"),
        ("a.yaml", b"a: 1\nb: \x00\n", "line 2: a NUL byte"),
        ("a.yaml", b"\xff\xfea\x00", "the file is UTF-16 and must be UTF-8"),
        ("a.json", b'{"a": 1,\n"b": }', "line 2, column 6"),
        ("a.json", b"[" * 100_000, "line 1"),
        ("a.yaml", b"[" * 100_000, "nested more than 200 levels deep"),
        ("a.yaml", b"- " * 100_000, "nested more than 200 levels deep"),
        ("a.yaml", b"a: 1\n b: 2\n", "line 2, column 3: mapping values"),
        ("a.yaml", b"a: \x01", "control characters"),
        ("a.yaml", b"&a [*a]", "alias *a has no anchor before it"),
        ("a.yaml", b"? [a]\n: b", "a key must be a scalar"),
        ("a.json", b"null", "must be a kind"),
        ("a.yaml", b"text", "must be an object"),
    ],
)
def test_an_unreadable_file_is_reported_with_its_place(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    (rejection,) = load(tmp_path).rejections
    assert rejection.origin == name
    assert message in rejection.message


def test_a_bomb_of_aliases_or_merge_keys_is_refused_at_once(tmp_path: Path) -> None:
    """Without a bound it would be 2^40 values."""
    listed = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    merged = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
    (tmp_path / "a.yaml").write_text(listed)
    (tmp_path / "b.yaml").write_text(merged)
    assert [("aliases repeat" in rejection.message) for rejection in load(tmp_path).rejections] == [True, True]


def test_anchors_and_merge_keys_are_read(tmp_path: Path) -> None:
    text = (
        "apiVersion: v1\nkind: List\nitems:\n- &one {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n"
        "- {<<: *one, metadata: {name: b}}\n"
    )
    (tmp_path / "a.yaml").write_text(text)
    assert names(load(tmp_path)) == ["Namespace a", "Namespace b"]


@pytest.mark.parametrize(
    ("scalar", "is_text"),
    [
        ("abc", True),
        ("'1'", True),
        ("!!str 1", True),
        ("2006-01-02", True),
        ("1.2.3", True),
        ("1", False),
        ("010", False),
        ("1e3", False),
        ("1_000", False),
        ("0x1f", False),
        ("1.5", False),
        ("yes", False),
        ("y", False),
        ("on", False),
    ],
)
def test_plain_scalars_are_typed_as_kubectl_types_them(tmp_path: Path, scalar: str, is_text: bool) -> None:
    """A label value must be a string: the API server refuses what kubectl would send it as a number or boolean."""
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: a, labels: {{k: {scalar}}}}}\n")
    assert complaints(load(tmp_path)) == ([] if is_text else [("a.yaml", 1, "metadata.labels['k']")])


@pytest.mark.parametrize("address", ["fd00::1", "1:2:3:4:5:6:7:8", "10.0.0.1"])
def test_addresses_need_no_quotes(tmp_path: Path, address: str) -> None:
    """To a YAML 1.1 parser, digits between colons may be a number in base 60."""
    (tmp_path / "a.yaml").write_text(f"apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nstatus:\n  podIP: {address}\n")
    (pod,) = load(tmp_path).upserted
    assert isinstance(pod, Pod)
    assert pod.ips == (parse_address(address),)


def test_a_byte_order_mark_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf" + namespace("a").encode())
    assert names(load(tmp_path)) == ["Namespace a"]


def test_on_first_sight_good_documents_are_used_and_a_bad_policy_isolates(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"{namespace('a')}---\nkey: [\n---\n{policy('web', BAD_RULE)}---\n{namespace('b')}")
    update = load(tmp_path)
    assert names(update) == ["Namespace a", "NetworkPolicy default/web", "Namespace b"]
    web = update.upserted[1]
    assert isinstance(web, NetworkPolicy)
    assert web.ingress == ()
    assert complaints(update) == [("a.yaml", 2, ""), ("a.yaml", 3, "spec.ingress[0].ports[0].port")]
    assert update.rejections[1].key == "NetworkPolicy default/web"
    assert update.rejections[1].consequence == "isolates the pods it selects (Ingress) and admits nothing"


def test_policies_without_usable_names_all_isolate(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(f"{policy('Bad')}---\n{policy('Worse')}")
    assert len([item for item in load(tmp_path).upserted if isinstance(item, NetworkPolicy)]) == 4


def test_of_an_object_in_two_files_the_first_by_path_wins_and_both_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(namespace("one", team="a"))
    (tmp_path / "b.yaml").write_text(namespace("one", team="b"))
    update = load(tmp_path)
    (item,) = update.upserted
    assert isinstance(item, Namespace)
    assert item.labels["team"] == "a"
    (rejection,) = update.rejections
    assert (rejection.origin, rejection.key, rejection.message) == ("b.yaml", "Namespace one", "is also in a.yaml document 1")


def test_links_are_followed_each_directory_is_read_once_and_loops_end(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    folder = tmp_path / "folder"
    (folder / "real").mkdir(parents=True)
    outside.mkdir()
    (outside / "x").write_text(namespace("x"))
    (outside / "y.yaml").write_text(namespace("why"))
    (folder / "real" / "z.yaml").write_text(namespace("z"))
    (folder / "x.yaml").symlink_to("../outside/x")
    (folder / "sub").symlink_to(outside)
    (folder / "real" / "loop").symlink_to("..")
    (folder / "self.yaml").symlink_to("self.yaml")
    (folder / "gone.yaml").symlink_to("nothing")
    update = load(folder)
    assert sorted(names(update)) == ["Namespace why", "Namespace x", "Namespace z"]
    assert [origin for origin, _, _ in complaints(update)] == ["gone.yaml", "self.yaml"]


def test_what_is_no_regular_file_is_reported_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    (tmp_path / "dir.yaml").mkdir()
    (tmp_path / "dir.yaml" / "b.yaml").write_text(namespace("b"))
    update = load(tmp_path)
    assert names(update) == ["Namespace b"]
    assert [rejection.message for rejection in update.rejections] == ["not a regular file"]


def test_file_names_of_any_bytes_are_shown_in_printable_form(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.yaml")).write_text("key: [")
    (rejection,) = load(tmp_path).rejections
    assert rejection.origin == r"\udcff\n.yaml"


def test_complaints_about_one_file_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("---\ntext\n" * (MAX_REJECTIONS + 7))
    rejections = load(tmp_path).rejections
    assert len(rejections) == MAX_REJECTIONS + 1
    assert "7 more" in rejections[-1].message


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NetpolqError, match="No such file"):
        load(tmp_path / "none")
