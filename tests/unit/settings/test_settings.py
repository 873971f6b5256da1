"""Resolution of flags, environment and file into `Settings`."""

import dataclasses
import os
import re
import socket
import tomllib

from pathlib import Path

import pytest

from hypothesis import given
from hypothesis import strategies as st

from netpolq.errors import ExitCode, SettingsError
from netpolq.settings import resolve
from netpolq.settings.definitions import FILE_OPTIONS, GROUPS, OPTIONS
from netpolq.settings.sample_file import sample_file
from netpolq.settings.usage import grouped_flags

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)


def refused(arguments: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        resolve(arguments, environ or {})
    assert caught.value.exit_code == ExitCode.USAGE
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def write(folder: Path, text: str) -> list[str]:
    path = folder / "netpolq.toml"
    path.write_text(text)
    return ["--config", str(path)]


def test_defaults_of_upstream_flags_are_those_of_the_upstream_agent() -> None:
    found = resolve([], {})
    assert found.fail_open
    assert found.strict_mode
    assert not found.disable_nri
    assert (found.kubeconfig, found.queue_first, found.verbosity) == ("", 100, 0)
    assert found.metrics_bind_address == ("", 9080)


def test_defaults_of_the_other_flags() -> None:
    found = resolve([], {})
    assert found.manifests is None
    assert found.netfilter_bug_1766_fix is None
    assert (found.mark_mask, found.ct_label) == (0x70, 120)
    assert (found.dataplane, found.node_egress, found.logging_format) == ("auto", "judge", "text")
    assert found.deny_with == "drop"
    assert found.run_dir == Path("/run/netpolq")
    assert found.fanout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nfqueue-id", "200", "--fail-open=false"],
        ["--nfqueue-id=200", "--no-fail-open"],
        ["-nfqueue-id", "200", "-fail-open=false"],
        ["-nfqueue-id=0xc8", "-fail-open=F", "--"],
        ["-nfqueue-id=7", "-fail-open", "-fail-open=No", "-nfqueue-id=200"],
    ],
)
def test_a_flag_may_be_written_in_the_forms_of_go_and_of_argparse(arguments: list[str]) -> None:
    found = resolve(arguments, {})
    assert found.queue_first == 200
    assert not found.fail_open


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "t", "yes", "Yes"])
@pytest.mark.parametrize(("negated", "expected"), [("", True), ("no", False)])
def test_a_switch_accepts_the_values_of_go_and_yes_and_no(text: str, negated: str, expected: bool) -> None:
    opposite = {"true": "false", "TRUE": "FALSE", "1": "0", "t": "f", "yes": "no", "Yes": "No"}
    assert resolve([f"--disable-nri={opposite[text] if negated else text}"], {}).disable_nri is expected


def test_a_bare_switch_never_uses_the_next_argument_as_its_value() -> None:
    assert "--fail-open=false" in refused(["--fail-open", "false"])
    found = resolve(["--disable-nri", "--v", "3"], {})
    assert (found.disable_nri, found.verbosity) == (True, 3)


def test_the_bug_1766_fix_is_a_boolean_with_a_third_value() -> None:
    assert resolve(["--netfilter-bug-1766-fix"], {}).netfilter_bug_1766_fix is True
    assert resolve(["--netfilter-bug-1766-fix=false"], {}).netfilter_bug_1766_fix is False
    assert resolve(["--netfilter-bug-1766-fix=auto"], {"NETPOLQ_NETFILTER_BUG_1766_FIX": "true"}).netfilter_bug_1766_fix is None


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--worker", "3"], "did you mean --workers?"),  # no abbreviations
        (["--fanou"], "did you mean --fanout?"),
        (["---v=3"], "'---v' does not exist"),
        (["--no-workers"], "'--no-workers' does not exist"),
        (["--logtostderr"], "--help"),
        (["--"], ""),
        (["manifests"], "'manifests' is not expected"),
        (["-"], "'-' is not expected"),
        (["--", "--v=3"], "'--' is not expected"),
        (["--=3"], "'--' does not exist"),
        (["--v"], "--v: needs a value"),
        (["--manifests", "--fail-open"], "--manifests: needs a value"),
        (["--no-fanout=true"], "--no-fanout: takes no value"),
    ],
)
def test_an_unknown_flag_is_rejected_by_name(arguments: list[str], part: str) -> None:
    if part:
        assert part in refused(arguments)
    else:
        assert resolve(arguments, {}) == resolve([], {})


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("nfqueue-id", ["-1", "65536", "x", "", "1.0", "010", "1_0", "\u0661", "9" * 5000]),
        ("workers", ["0", "257", "all", "true"]),
        ("queue-balance", ["3", "3:", ":3", "4:3", "0:65536", "0:256", "-1:3", "1:2:3", "a:b", " 1:2"]),
        ("v", ["-1", "11", "two"]),
        ("fail-open", ["maybe", "", "2"]),
        ("netfilter-bug-1766-fix", ["sometimes", "AUTO"]),
        ("mark-mask", ["0", "0x60", "0xf0", "0x150", "0x380000000", "0xc0000001", "seven"]),
        ("ct-label", ["-1", "125", "0x100000000", "five"]),
        ("dataplane", ["iptables", "Native", ""]),
        ("node-egress", ["drop"]),
        ("deny-with", ["reset", "Reject", ""]),
        ("logging-format", ["xml"]),
        ("flow-export-file", ["flows.json", "/", "/var/log/", "/var/.."]),
        ("flow-export-file-max-bytes", ["0", "1048575", "64Mi"]),
        ("flow-export-file-keep", ["-1", "1001"]),
        (
            "flow-export-otlp",
            [
                "collector:4318",
                "http://collector:4318",
                "http://collector:4318/",
                "grpc://collector:4317/v1/logs",
                "http:///v1/logs",
                "http://collector:65536/v1/logs",
                "http://user:token@collector/v1/logs",
                "http://collector/v1/logs?key=token",
                "http://collector/v1/logs#part",
                "http://[::1/v1/logs",
                "http://a b/v1/logs",
                "http://a/v1\n/logs",
            ],
        ),
        ("run-dir", ["", "run/netpolq", "/" + "x" * 96]),
        (
            "metrics-bind-address",
            ["", "0", "9080", ":65536", ":http", "::1:9080", "[::1]", "[10.0.0.1]:1", "a b:1", "http://x:1"],
        ),
        ("hostname-override", ["$(NODE_NAME)", " ", "two words"]),
    ],
)
def test_a_wrong_value_is_one_line_with_flag_value_and_what_is_allowed(name: str, bad: list[str]) -> None:
    for text in bad:
        message = refused([f"--{name}={text}"])
        assert message.startswith(f"flag --{name}: invalid value {text!r}; ")
        assert "allowed: " in message


def test_a_wrong_value_names_the_variable_or_the_file_it_came_from(tmp_path: Path) -> None:
    assert refused([], {"NETPOLQ_WORKERS": "many"}).startswith("environment variable NETPOLQ_WORKERS: invalid value 'many'; ")
    arguments = write(tmp_path, 'v = "loud"')
    assert refused(arguments).startswith(f"file {arguments[1]!r}, key 'v': invalid value 'loud'; ")


def test_an_error_about_a_value_with_line_ends_is_one_line() -> None:
    refused(["--v=1\n2\u2028\r\x1b[2J"])


@given(st.sampled_from(FILE_OPTIONS).map(lambda option: option.name), texts)
def test_any_text_gives_settings_or_one_line(name: str, text: str) -> None:
    message = "settings"
    try:
        resolve([f"--{name}={text}"], {})
    except SettingsError as error:
        message = str(error)
    assert len(message.splitlines()) == 1


def test_flag_before_environment_before_file_before_default(tmp_path: Path) -> None:
    arguments = write(tmp_path, "v = 1\nfanout = false\nnfqueue-id = 7")
    found = resolve([*arguments, "--v=3"], {"NETPOLQ_V": "2", "NETPOLQ_FANOUT": "true"})
    assert (found.verbosity, found.fanout, found.queue_first, found.fail_open) == (3, True, 7, True)


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    _flag, path = write(tmp_path, "v = 4")
    assert resolve([], {"NETPOLQ_CONFIG": path}).verbosity == 4
    assert resolve(["--config="], {"NETPOLQ_CONFIG": path}).verbosity == 0


def test_variables_of_no_option_are_ignored() -> None:
    """A Service called netpolq adds such variables to every pod of its namespace."""
    assert resolve([], {"NETPOLQ_SERVICE_HOST": "10.96.0.7", "NETPOLQ_PORT": "tcp://10.96.0.7:80"}) == resolve([], {})


def test_a_file_accepts_toml_types_and_strings(tmp_path: Path) -> None:
    typed = resolve(write(tmp_path, "mark-mask = 0x700\nworkers = 3\nfail-open = false\nnetfilter-bug-1766-fix = true"), {})
    strings = resolve(
        write(tmp_path, 'mark-mask = "0x700"\nworkers = "3"\nfail-open = "false"\nnetfilter-bug-1766-fix = "true"'), {}
    )
    assert typed == strings
    assert (typed.mark_mask, typed.queue_count, typed.fail_open, typed.netfilter_bug_1766_fix) == (0x700, 3, False, True)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("wrokers = 3", "key 'wrokers': does not exist; did you mean 'workers'?"),
        ("[run]\nv = 3", "key 'run': does not exist"),
        ('config = "other.toml"', "key 'config': does not exist"),
        ("workers = true", "key 'workers': invalid value True"),
        ("fail-open = 1", "key 'fail-open': invalid value 1"),
        ("v = 1.5", "key 'v': invalid value 1.5"),
        ("run-dir = ['/run']", "key 'run-dir': invalid value ['/run']"),
        ('kubeconfig = "a\\u0000b"', "key 'kubeconfig': invalid value 'a\\x00b'"),
        ("v = ", "not TOML"),
        ("v = 1\nv = 2", "not TOML"),
    ],
)
def test_an_invalid_file_is_rejected_with_file_and_key(tmp_path: Path, text: str, part: str) -> None:
    arguments = write(tmp_path, text)
    message = refused(arguments)
    assert message.startswith(f"file {arguments[1]!r}")
    assert part in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "No such file" in refused(["--config", str(tmp_path / "none.toml")])
    assert "Is a directory" in refused([], {"NETPOLQ_CONFIG": str(tmp_path)})
    (tmp_path / "latin.toml").write_bytes(b"kubeconfig = '\xe9'")
    assert "not TOML" in refused(["--config", str(tmp_path / "latin.toml")])


def test_queue_balance_is_the_exact_range() -> None:
    found = resolve(["--queue-balance", "7:9"], {})
    assert (found.queue_first, found.queue_count) == (7, 3)
    assert resolve(["--queue-balance=65533:65533"], {}).queue_count == 1


@pytest.mark.parametrize("other", ["--nfqueue-id=7", "--workers=2", "--workers=auto"])
def test_queue_balance_excludes_the_flags_it_replaces(other: str) -> None:
    message = refused(["--queue-balance=7:8", other])
    assert "--queue-balance" in message
    assert other.partition("=")[0] in message


def test_the_queues_come_from_the_highest_layer_that_gives_either_form(tmp_path: Path) -> None:
    arguments = write(tmp_path, 'queue-balance = "1:4"')
    assert resolve(arguments, {}).queue_count == 4
    found = resolve(arguments, {"NETPOLQ_WORKERS": "2"})
    assert (found.queue_first, found.queue_count) == (100, 2)
    found = resolve([*arguments, "--queue-balance=5:5"], {"NETPOLQ_WORKERS": "2"})
    assert (found.queue_first, found.queue_count) == (5, 1)


def test_workers_must_fit_below_the_last_queue_number() -> None:
    assert resolve(["--nfqueue-id=65532", "--workers=2"], {}).all_queues == range(65532, 65536)
    message = refused(["--nfqueue-id=65532", "--workers=3"])
    assert "--nfqueue-id" in message
    assert "--workers" in message
    assert "65534" in message


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (":9080", "", 9080),
        ("127.0.0.1:1", "127.0.0.1", 1),
        ("[::1]:65535", "::1", 65535),
        ("[::]:0", "::", 0),
        ("localhost:80", "localhost", 80),
    ],
)
def test_the_metrics_address_has_the_syntax_of_go(text: str, host: str, port: int) -> None:
    found = resolve(["--metrics-bind-address", text], {})
    assert found.metrics_bind_address == (host, port)


def test_the_host_name_is_trimmed_and_lower_case_as_the_kubelet_has_it() -> None:
    assert resolve(["--hostname-override= Node-1.Example "], {}).hostname == "node-1.example"
    assert resolve([], {}).hostname == socket.gethostname().strip().lower()


@pytest.mark.parametrize("text", ["0x70", "112", "0X70"])
def test_masks_are_hexadecimal_or_decimal(text: str) -> None:
    assert resolve(["--mark-mask", text], {}).mark_mask == 0x70
    assert resolve(["--mark-mask", "0xe0000000", "--ct-label", "7"], {}).mark_mask == 0xE0000000


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve([], {}).fail_open = False  # type: ignore[misc]


def test_the_sample_file_shows_every_option_with_its_default(tmp_path: Path) -> None:
    text = re.sub(r"^#(?=\S)", "", sample_file(), flags=re.MULTILINE)
    assert list(tomllib.loads(text)) == [option.name for option in FILE_OPTIONS]
    assert resolve(write(tmp_path, text), {}) == resolve([], {})


def test_the_sample_file_changes_nothing_as_it_is() -> None:
    assert tomllib.loads(sample_file()) == {}


def test_the_sample_file_explains_every_option_by_its_keys() -> None:
    text = " ".join(re.sub(r"^#", "", sample_file(), flags=re.MULTILINE).split())
    for option in FILE_OPTIONS:
        assert " ".join(re.sub(r"--(?=[a-z])", "", option.help).split()) in text
    assert "unless v is 2 or more" in text


def test_help_names_every_flag_default_and_variable_under_its_group() -> None:
    text = grouped_flags(GROUPS)
    flat = " ".join(text.split())
    for option in OPTIONS:
        assert f"--{option.name}" in flat
        assert (
            f"Allowed: {option.value_type.allowed}. Default: {option.default or 'none'}. Environment: {option.environment}."
            in flat
        )
    headings = [line.removesuffix(":") for line in text.splitlines() if line and not line.startswith(" ")]
    assert headings == [group.heading for group in GROUPS]


def test_help_marks_exactly_the_upstream_flags() -> None:
    marked = set(re.findall(r"^  --([a-z0-9-]+).* \*$", grouped_flags(GROUPS), flags=re.MULTILINE))
    assert marked == {
        "kubeconfig",
        "fail-open",
        "nfqueue-id",
        "metrics-bind-address",
        "hostname-override",
        "netfilter-bug-1766-fix",
        "disable-nri",
        "strict-mode",
        "v",
    }


def test_resolve_reads_only_the_environment_that_is_passed_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "NETPOLQ_V", "9")
    assert resolve([], {}).verbosity == 0
