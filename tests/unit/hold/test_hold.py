"""The hold: the sources of pod ranges, the rules of the table, and the messages of the command."""

import json
import subprocess
import sys

from pathlib import Path

import pytest

from netpolq.enums import CONNECTION_LABEL_BITS
from netpolq.errors import ExitCode
from netpolq.hold import cni, command, ruleset
from netpolq.hold.ranges import collapse, listed, parse_ranges

HOST_LOCAL = {"type": "host-local", "ranges": [[{"subnet": "10.5.1.0/24"}], [{"subnet": "fd05:1::/64"}]]}


def write(folder: Path, name: str, document: object) -> Path:
    path = folder / name
    path.write_text(json.dumps(document))
    return path


def found(folder: Path) -> str:
    return listed(cni.read(folder).ranges)


def run(*argv: str, **environ: str) -> int:
    return command.main(argv, environ)


# --- ranges -----------------------------------------------------------------------------------------------------------------------


def test_ranges_of_both_families_are_collapsed_to_as_few_blocks_as_possible() -> None:
    ranges = parse_ranges("fd00:1::/64, 10.0.0.0/25,10.0.0.128/25,10.0.0.7/32")
    assert list(map(str, collapse(ranges))) == ["10.0.0.0/24", "fd00:1::/64"]


def test_no_range_is_none() -> None:
    assert parse_ranges(" ") == ()


def test_a_range_in_mapped_form_is_the_range_of_ipv4_that_packets_have() -> None:
    """The API server interprets it this way. A set of mapped addresses would match no packet, and the pods would be open."""
    assert listed(parse_ranges("::ffff:10.0.1.0/120,fd00::/64")) == "10.0.1.0/24,fd00::/64"


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1",
        "::ffff:0.0.0.0/96",
        "::ffff:127.0.0.0/104",
        "10.0.0.0/33",
        "0.0.0.0/0",
        "::/0",
        "127.0.0.0/8",
        "fe80::/64",
        "ff00::/8",
        "10.0.0.0/24,",
        "pods",
        "10.0.0.0/24;",
    ],
)
def test_other_ranges_are_rejected(text: str) -> None:
    """A hold of every address would cut the node off; a partly parsed list would leave pods open."""
    with pytest.raises(ValueError, match=r"is no|does not appear"):
        parse_ranges(text)


# --- CNI configuration ------------------------------------------------------------------------------------------------------------


def test_host_local_ranges_of_a_list_of_plugins(tmp_path: Path) -> None:
    write(tmp_path, "10-net.conflist", {"plugins": [{"type": "ptp", "ipam": HOST_LOCAL}, {"type": "portmap"}]})
    assert found(tmp_path) == "10.5.1.0/24,fd05:1::/64"


def test_host_local_subnet_of_a_single_plugin(tmp_path: Path) -> None:
    write(tmp_path, "10-net.conf", {"type": "bridge", "ipam": {"type": "host-local", "subnet": "10.6.0.0/24"}})
    assert found(tmp_path) == "10.6.0.0/24"


def test_ranges_that_are_not_grouped_in_sets(tmp_path: Path) -> None:
    write(tmp_path, "10-net.conf", {"type": "ptp", "ipam": {"ranges": [{"subnet": "10.7.0.0/24"}]}})
    assert found(tmp_path) == "10.7.0.0/24"


def test_pools_of_calico_as_far_as_they_are_blocks(tmp_path: Path) -> None:
    ipam = {"type": "calico-ipam", "ipv4_pools": ["10.8.0.0/16", "default-pool"], "ipv6_pools": ["fd08::/48"]}
    write(tmp_path, "10-calico.conflist", {"plugins": [{"type": "calico", "ipam": ipam}]})
    answer = cni.read(tmp_path)
    assert listed(answer.ranges) == "10.8.0.0/16,fd08::/48"
    assert ["'default-pool'" in problem for problem in answer.problems] == [True]


def test_a_plugin_that_another_delegates_to_is_found(tmp_path: Path) -> None:
    multus = {"type": "multus", "delegates": [{"plugins": [{"type": "macvlan", "ipam": HOST_LOCAL}]}]}
    write(tmp_path, "00-multus.conf", multus)
    assert found(tmp_path) == "10.5.1.0/24,fd05:1::/64"


def test_the_range_of_flannel_is_in_its_subnet_file(tmp_path: Path) -> None:
    subnet = tmp_path / "subnet.env"
    subnet.write_text(
        "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_IPV6_NETWORK=fd44::/56\nFLANNEL_MTU=1450\n"
    )
    write(tmp_path, "10-flannel.conflist", {"plugins": [{"type": "flannel", "subnetFile": str(subnet), "delegate": {}}]})
    assert found(tmp_path) == "10.244.0.0/16,fd44::/56"


def test_the_ranges_of_all_files_are_held(tmp_path: Path) -> None:
    write(tmp_path, "10-a.conf", {"ipam": {"subnet": "10.1.0.0/24"}})
    write(tmp_path, "20-b.json", {"ipam": {"subnet": "10.2.0.0/24"}})
    write(tmp_path, "30-c.conf.bak", {"ipam": {"subnet": "10.3.0.0/24"}})
    assert found(tmp_path) == "10.1.0.0/24,10.2.0.0/24"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        "null",
        "\x00",
        '{"ipam": 3}',
        '{"ipam": {"ranges": [[3], {"subnet": 4}, null]}}',
        '{"ipam": {"subnet": "usePodCidr"}}',
        '{"ipam": {"type": "calico-ipam", "ipv4_pools": 3}}',
        '{"type": "flannel", "subnetFile": "/nonexistent/subnet.env"}',
        '{"type": "flannel", "subnetFile": "/dev/null"}',
    ],
)
def test_a_file_without_a_range_is_a_problem_and_hides_no_other_file(tmp_path: Path, text: str) -> None:
    bad = tmp_path / "10-bad.conf"
    bad.write_text(text)
    write(tmp_path, "20-good.conf", {"ipam": {"subnet": "10.2.0.0/24"}})
    answer = cni.read(tmp_path)
    assert listed(answer.ranges) == "10.2.0.0/24"
    assert len(answer.problems) >= 1


def test_a_missing_or_empty_directory_is_a_problem(tmp_path: Path) -> None:
    assert "No such file" in cni.read(tmp_path / "none").problems[0]
    assert "no CNI configuration" in cni.read(tmp_path).problems[0]


# --- the table --------------------------------------------------------------------------------------------------------------------


def test_the_script_never_deletes_and_empties_what_it_fills() -> None:
    """To delete a base chain makes the kernel drop the packets that wait in queues; to fill one twice doubles its rules."""
    lines = ruleset.render(parse_ranges("10.0.0.0/24")).splitlines()
    assert {line.split()[0] for line in lines} == {"add", "flush"}
    for hook in ("forward", "input", "output"):
        flush = lines.index(f"flush chain inet netpolq_hold {hook}")
        rules = [number for number, line in enumerate(lines) if line.startswith(f"add rule inet netpolq_hold {hook} ")]
        assert rules
        assert min(rules) > flush


def test_a_family_without_a_range_has_an_empty_set() -> None:
    script = ruleset.render(parse_ranges("10.0.0.0/24"))
    assert "flush set inet netpolq_hold pods_v6\n" in script
    assert "add element inet netpolq_hold pods_v6" not in script


def test_connections_that_the_agent_accepted_pass_whatever_their_mark() -> None:
    """Other programs set and restore connection marks."""
    script = ruleset.render(parse_ranges("10.0.0.0/24"), ct_label=20)
    assert len([line for line in script.splitlines() if line.endswith(" ct label 20 accept")]) == 3
    assert "mark" not in script


# --- the command ------------------------------------------------------------------------------------------------------------------


def test_exit_codes_are_those_of_netpolq() -> None:
    mine = (command.OK, command.FAILED, command.USAGE, command.PRIVILEGES, command.KERNEL)
    assert mine == (ExitCode.OK, ExitCode.FAILED, ExitCode.USAGE, ExitCode.PRIVILEGES, ExitCode.KERNEL)


def test_the_command_imports_nothing_of_the_agent() -> None:
    """It runs at boot, before everything else: milliseconds count."""
    code = (
        "import sys; sys.argv = ['netpolq', 'hold', '--pod-cidrs=10.0.0.0/24', '--print']; from netpolq.__main__ import main; "
        "code = main(); print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    modules = {name for name in done.stderr.split() if name.startswith("netpolq")}
    assert modules == {
        "netpolq",
        "netpolq.__main__",
        *(f"netpolq.hold{name}" for name in ("", ".command", ".ranges", ".ruleset")),
    }
    assert modules.isdisjoint({"json", "asyncio", "subprocess", "argparse"})


def test_print_shows_the_script_of_all_given_ranges(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--pod-cidrs", "10.0.0.0/24", "-pod-cidrs=fd00::/64,10.1.0.0/24", "--ct-label=4", "--print") == ExitCode.OK
    assert capsys.readouterr().out == ruleset.render(parse_ranges("10.0.0.0/24,10.1.0.0/24,fd00::/64"), ct_label=4)


def test_the_environment_gives_what_no_flag_gives(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"NETPOLQ_POD_CIDRS": "10.0.0.0/24", "NETPOLQ_CT_LABEL": "8"}
    assert run("--print", **environ) == ExitCode.OK
    assert run("--print", "--pod-cidrs=10.1.0.0/24", **environ) == ExitCode.OK
    expected = [ruleset.render(parse_ranges(one), ct_label=8) for one in ("10.0.0.0/24", "10.1.0.0/24")]
    assert capsys.readouterr().out == "".join(expected)


def test_the_cni_configuration_gives_the_ranges_where_none_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, "10-net.conf", {"ipam": HOST_LOCAL})
    (tmp_path / "20-bad.conf").write_text("{")
    assert run("--print", "--cni-conf-dir", str(tmp_path)) == ExitCode.OK
    printed = capsys.readouterr()
    assert printed.out == ruleset.render(parse_ranges("10.5.1.0/24,fd05:1::/64"))
    (line,) = printed.err.splitlines()
    assert line.startswith("netpolq: warning: ")
    assert "20-bad.conf" in line


def test_without_any_range_it_fails_and_names_the_flag_to_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print", "--cni-conf-dir", str(tmp_path)) == ExitCode.FAILED
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert "nothing is held" in line
    assert str(tmp_path) in line
    assert "--pod-cidrs" in line


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--pod-cidrs"], "--pod-cidrs"),
        (["--pod-cidrs", "--print"], "--pod-cidrs"),
        (["--pod-cidrs=10.0.0.0"], "10.244.1.0/24"),
        (["--pod-cidrs=0.0.0.0/0"], "0.0.0.0/0"),
        (["--pod-cidrs=10.0.0.0/24", "--pod-cidrs=x"], "'x'"),
        (["--ct-label=-1", "--pod-cidrs=10.0.0.0/24"], f"0 to {ruleset.MAX_CT_LABEL}"),
        ([f"--ct-label={ruleset.MAX_CT_LABEL + 1}", "--pod-cidrs=10.0.0.0/24"], f"0 to {ruleset.MAX_CT_LABEL}"),
        (["--ct-label=x", "--pod-cidrs=10.0.0.0/24"], f"0 to {ruleset.MAX_CT_LABEL}"),
        (["--release", "--pod-cidrs=10.0.0.0/24"], "--release"),
        (["--release", "--print"], "--release"),
        (["--print=true"], "--print"),
        (["10.0.0.0/24"], "'10.0.0.0/24'"),
        (["--pod-cidr=10.0.0.0/24"], "--pod-cidrs"),
    ],
)
def test_a_wrong_argument_is_named_and_changes_nothing(
    argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == ExitCode.USAGE
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("netpolq: error: ")
    assert expected in line


def test_a_wrong_variable_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print", NETPOLQ_POD_CIDRS="x") == ExitCode.USAGE
    assert "NETPOLQ_POD_CIDRS" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_shows_flags_examples_and_exit_codes(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--print", flag) == ExitCode.OK
    page = capsys.readouterr().out
    assert page.startswith("usage: netpolq hold")
    for text in ("--pod-cidrs", "--release", "Examples:", "Exit codes:"):
        assert text in page


def test_the_agents_bits_fit_behind_the_highest_first_one() -> None:
    """A label has 128 bits (NF_CT_LABELS_MAX_SIZE of linux/netfilter/nf_conntrack_labels.h)."""
    assert ruleset.DEFAULT_CT_LABEL <= ruleset.MAX_CT_LABEL == 128 - CONNECTION_LABEL_BITS
