"""Settings: precedence, and precise words for everything that is wrong."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from registry.addresses import TcpAddress, is_within, parse_address, parse_network
from registry.config import Settings, cores
from registry.config_sources import SECTIONS, ConfigurationError, load, variables
from registry.quantities import BYTES, SECONDS, Bytes, Seconds
from registry.stores import BucketPlace


def problems(
    tmp_path: Path,
    text: str = "",
    *,
    environment: dict[str, str] | None = None,
    options: dict[str, object] | None = None,
) -> list[str]:
    """Return what is wrong with a configuration; the path of its file is cut away."""
    file = tmp_path / "pierhead.toml"
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load(options=options or {}, environment=environment or {}, file=file)
    return [problem.removeprefix(f"{file}: ") for problem in raised.value.problems]


def test_nothing_needs_to_be_configured() -> None:
    settings = load(options={}, environment={}).settings

    assert (settings.listen, settings.data, settings.workers) == ("127.0.0.1:5000", Path("data"), cores())


def test_command_line_stands_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('listen = "127.0.0.1:1"\nprefix = "/file"\nworkers = 3\n[limits]\nuploads_max = 7\n')

    found = load(
        options={"listen": "127.0.0.1:3", "workers": None},
        environment={"PIERHEAD_CONFIG": str(file), "PIERHEAD_LISTEN": "127.0.0.1:2", "PIERHEAD_PREFIX": "/environment"},
    )

    assert found.settings.listen == "127.0.0.1:3"
    assert found.settings.prefix == "/environment"
    assert found.settings.workers == 3
    assert found.settings.limits.uploads_max == 7
    assert found.settings.limits.connections_max == 2000
    assert found.origins[("listen",)] == "--listen"
    assert found.origins[("prefix",)] == "PIERHEAD_PREFIX"
    assert found.origins[("limits", "uploads_max")] == f"{file}: limits.uploads_max"


def test_a_file_in_the_working_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pierhead.toml").write_text("workers = 5\n")

    assert load(options={}, environment={}).settings.workers == 5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("lisen = 1", "lisen: unknown key: did you mean listen?"),
        ("header_seconds = 1", "header_seconds: unknown key: did you mean limits.header_seconds?"),
        ("[limits]\nheader_second = 1", "limits.header_second: unknown key: did you mean limits.header_seconds?"),
        ("[limit]\nheader_seconds = 1", "limit: unknown section: did you mean [limits]?"),
        ("[log]\nlevel = 'info'", "log.level: unknown key: did you mean log_level?"),
        ("[upload]\nidle_seconds = 1", "upload.idle_seconds: unknown key: did you mean limits.upload_idle_seconds?"),
        (
            "[http]",
            f"http: unknown section: there are {', '.join(f'[{section}]' for section in SECTIONS)}",
        ),
        ("limits = 3", "limits: a section: write [limits] on a line of its own, and its keys below"),
    ],
)
def test_an_unknown_key_names_the_nearest_one(tmp_path: Path, text: str, told: str) -> None:
    assert problems(tmp_path, text) == [told]


def test_what_kubernetes_puts_into_the_environment_is_passed_over() -> None:
    names = ["PIERHEAD_PORT", "PIERHEAD_SERVICE_HOST", "PIERHEAD_SERVICE_PORT_HTTP", "PIERHEAD_PORT_5000_TCP_ADDR"]

    assert load(options={}, environment=dict.fromkeys(names, "tcp://10.0.0.1:5000")).origins == {}


def test_an_unknown_variable_names_the_nearest_one(tmp_path: Path) -> None:
    wrong = {"PIERHEAD_LISTN": "x", "PIERHEAD_UPLOADS_MAX": "3", "HOME": "/"}

    assert problems(tmp_path, environment=wrong) == [
        "PIERHEAD_LISTN: unknown variable: did you mean PIERHEAD_LISTEN?",
        "PIERHEAD_UPLOADS_MAX: unknown variable: did you mean PIERHEAD_LIMITS_UPLOADS_MAX?",
    ]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('listen = "5000"', "listen: expected host:port"),
        ('listen = "127.0.0.1:70000"', "listen: expected host:port"),
        ('listen = "::1:5000"', "an IPv6 address stands in brackets: [::1]:5000"),
        ('listen = "unix:run/x"', "the path of a unix socket begins with a slash"),
        ('listen = "0.0.0.0:5000"', "allow_anonymous_push = true"),
        ('listen = ":5000"', "is reached from other machines"),
        ("listen = 5000", "listen: input should be a valid string (it is 5000)"),
        ('data = ""', "data: expected the path of a directory of its own"),
        ("data = 3", "data: expected a directory as a text"),
        ('data = "~/images"', "write the whole path"),
        ("workers = true", "workers: expected a number, not true or false (it is true)"),
        ("workers = 0", "workers: input should be greater than or equal to 1"),
        ('workers = "many"', "workers: input should be a valid integer"),
        ('prefix = "registry"', "prefix: expected a path that begins with a slash: /registry"),
        ('prefix = "/registry/"', "prefix: expected a path that does not end in a slash: /registry"),
        ('prefix = "/"', "leave it out for the root"),
        ('prefix = "/a/../b"', "expected a path without them"),
        ('prefix = "/a//b"', "expected a path without them"),
        ('prefix = "/a b"', "prefix: expected letters, digits and"),
        ('prefix = "/v2"', "/v2/ follows the prefix anyway: leave it out"),
        ("trusted_proxies = [1]", "trusted_proxies: 1 is neither an address nor a network"),
        ("trusted_proxies = 1", "trusted_proxies: expected a list of texts"),
        ('trusted_proxies = ["10.0.0.0/33"]', "'10.0.0.0/33' is neither an address nor a network"),
        ('trusted_proxies = ["10.0.0.1/8"]', "neither an address nor a network"),
        ('manifest_types = ["Text/HTML; x=y"]', "is not a media type in lower case"),
        ('log_level = "loud"', "log_level: input should be 'debug', 'info', 'warning' or 'error'"),
        ('[limits]\nmanifest_bytes_max = "4 MB"', "4 MiB or 10 GiB (it is '4 MB')"),
        ('[limits]\nsweep_seconds = "soon"', "500ms, 30s, 5m, 1h or 1d (it is 'soon')"),
        ('quota = "team"', "quota: expected a JSON list of objects"),
        ('[[quota]]\nrepositories = "team"', "quota: entry 1: bytes: field required"),
        ('[[quota]]\nrepositories = "team/**"\nbytes = 1', "below it already: write team (it is 'team/**')"),
        ('[[quota]]\nrepositories = "team/"\nbytes = 1', "below it already: write team (it is 'team/')"),
        ('[[quota]]\nrepositories = "Te*m"\nbytes = 1', "entry 1: repositories: 'Te*m' is no prefix"),
        ('[[quota]]\nrepositories = ""\nbytes = 1', "'' is no prefix"),
        ('[[quota]]\nrepositories = "team"\nbytes = "50 GB"', "4 MiB or 10 GiB (it is '50 GB')"),
        ('[[quota]]\nrepositories = "a"\nbytes = 1\n[[quota]]\nrepositories = "a"\nbytes = 2', "two quotas of a"),
        ("[usage]\nwarn_percent = [80, 101]", "usage.warn_percent: expected numbers from 1 to 100"),
        ("[limits]\nsweep_seconds = true", "limits.sweep_seconds: expected a number"),
        ("[limits]\nsweep_seconds = -1", "limits.sweep_seconds: input should be greater than 0"),
        ("[limits]\nsweep_seconds = inf", "limits.sweep_seconds: input should be a finite number"),
        ("[s3]\nredirect = 2", "s3.redirect: input should be a valid boolean"),
        ('[s3]\nredirect_endpoint = "store.example"', "s3.redirect_endpoint: expected scheme, host and port without"),
        ('[s3]\nredirect_endpoint = "https://store.example/s3"', "without a path, such as https://store.example:9000"),
        ("[s3]\nredirect_networks = []", "no network at all: to redirect nobody say redirect = false"),
        ('[s3]\nredirect_networks = ["10.0.0.0/33"]', "'10.0.0.0/33' is neither an address nor a network"),
        ("[s3]\nredirect_networks = true", "s3.redirect_networks: expected a list of texts"),
        ('[s3]\nredirect_seconds = "8d"', "s3.redirect_seconds: input should be less than or equal to 604800"),
        ('[s3]\nredirect_seconds = "500ms"', "s3.redirect_seconds: input should be greater than or equal to 1"),
        ("listen = ", "not TOML"),
    ],
)
def test_each_bad_value_says_what_is_wrong_and_what_is_expected(tmp_path: Path, text: str, part: str) -> None:
    [problem] = problems(tmp_path, text)

    assert part in problem


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path, "nonsense = 1\nworkers = 0\n", environment={"PIERHEAD_PREFIX": "x"}, options={"log_level": "x"}
    )

    assert [problem.partition(":")[0] for problem in found] == ["nonsense", "workers", "PIERHEAD_PREFIX", "--log-level"]


def test_an_address_that_others_reach_is_told_together_with_what_else_is_wrong(tmp_path: Path) -> None:
    found = problems(tmp_path, "workers = 0\n", environment={"PIERHEAD_LISTEN": "0.0.0.0:5000"})

    assert [problem.partition(":")[0] for problem in found] == ["PIERHEAD_LISTEN", "workers"]


@pytest.mark.parametrize("listen", ["0.0.0.0:1", ":1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "host.example:1"])
def test_public_addresses_need_to_be_asked_for_by_name(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="allow_anonymous_push = true"):
        load(options={"listen": listen}, environment={})

    assert load(options={"listen": listen, "allow_anonymous_push": True}, environment={}).settings.listen == listen


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "127.8.0.1:1", "[::1]:1", "localhost:1", "unix:/run/p.sock"])
def test_loopback_and_unix_sockets_need_not_be_asked_for(listen: str) -> None:
    assert load(options={"listen": listen}, environment={}).settings.listen == listen


def test_a_file_in_the_working_directory_that_leads_nowhere_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pierhead.toml").symlink_to("/absent/pierhead.toml")

    with pytest.raises(ConfigurationError, match="can't be read"):
        load(options={}, environment={})


def test_a_named_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml: the configuration file can't be read"):
        load(options={}, environment={}, file=tmp_path / "absent.toml")


@pytest.mark.parametrize("value", ['["127.0.0.1", "10.0.0.0/8"]', "127.0.0.1, 10.0.0.0/8"])
def test_a_list_in_the_environment_is_json_or_has_commas(value: str) -> None:
    settings = load(options={}, environment={"PIERHEAD_TRUSTED_PROXIES": value}).settings

    assert settings.trusted_proxies == (ipaddress.ip_network("127.0.0.1"), ipaddress.ip_network("10.0.0.0/8"))


def test_networks_of_ipv4_mapped_addresses_are_those_of_ipv4() -> None:
    settings = load(
        options={},
        environment={"PIERHEAD_S3_REDIRECT_NETWORKS": "::ffff:10.0.0.0/104, ::ffff:192.0.2.1, fd00::/8, ::/0"},
    ).settings

    networks = [ipaddress.ip_network(text) for text in ("10.0.0.0/8", "192.0.2.1", "fd00::/8", "::/0")]
    assert settings.s3.redirect_networks == tuple(networks)
    assert settings.s3.redirect
    assert Settings().s3.redirect_networks is None


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("::ffff:a01:203", True),
        ("fd00::1", True),
        ("11.0.0.1", False),
        ("::ffff:11.0.0.1", False),
        ("fe80::1", False),
        ("::10.1.2.3", False),
        ("unix", False),
        ("", False),
    ],
)
def test_an_address_is_looked_for_in_networks_of_its_own_kind(address: str, inside: bool) -> None:
    networks = [parse_network(text) for text in ("10.0.0.0/8", "fd00::/8")]

    assert is_within(address, networks) == inside


def test_only_named_proxies_and_unix_sockets_are_trusted() -> None:
    settings = Settings.model_validate({"trusted_proxies": ["10.0.0.0/8", "::1"]})

    assert [settings.trusts(peer) for peer in ("10.1.2.3", "::ffff:10.1.2.3", "::1", "unix")] == [True] * 4
    assert [settings.trusts(peer) for peer in ("11.0.0.1", "::2", "x", "")] == [False] * 4
    assert not Settings().trusts("127.0.0.1")


@given(st.integers(0, 1 << 40), st.sampled_from(sorted(BYTES)), st.sampled_from(["", " "]))
def test_sizes_are_numbers_with_binary_units(number: int, unit: str, space: str) -> None:
    assert TypeAdapter(Bytes).validate_python(f"{number}{space}{unit.upper()}") == number * BYTES[unit]


@given(st.integers(0, 1 << 30), st.sampled_from(sorted(SECONDS)))
def test_times_are_numbers_with_units(number: int, unit: str) -> None:
    assert TypeAdapter(Seconds).validate_python(f"{number}{unit}") == pytest.approx(number * SECONDS[unit])


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    if isinstance(address, TcpAddress):
        assert 0 <= address.port <= 65535
    else:
        assert address.is_absolute()


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_ip_address_can_be_listened_on(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    if "%" not in host:
        assert parse_address(f"{host}:{port}") == TcpAddress(str(address), port)


@given(
    st.dictionaries(st.sampled_from(sorted(variables())), st.text() | st.sampled_from(["1", "[", '["x"]', "/a", "1h"]))
)
def test_any_environment_is_a_configuration_or_one_line_for_each_problem(environment: dict[str, str]) -> None:
    told: list[str] = []
    try:
        assert set(load(options={}, environment=environment).origins.values()) == set(environment)
    except ConfigurationError as error:
        told = error.problems

    assert {problem.partition(":")[0] for problem in told} <= {*environment, *SECTIONS}
    assert not any("\n" in problem for problem in told)


@given(st.text(max_size=12))
def test_any_text_is_a_size_and_a_time_or_is_refused(text: str) -> None:
    for adapter in (TypeAdapter[float](Bytes), TypeAdapter[float](Seconds)):
        try:
            value = adapter.validate_python(text)
        except ValidationError:
            continue
        assert value >= 0


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("s3://images", BucketPlace("images")),
        ("s3://images/", BucketPlace("images")),
        ("s3://images/registry/eu", BucketPlace("images", "registry/eu")),
        ("/srv/images", Path("/srv/images")),
        ("s3:/srv", Path("s3:/srv")),
    ],
)
def test_data_is_a_directory_or_a_bucket(text: str, place: Path | BucketPlace) -> None:
    assert load(options={"data": text}, environment={}).settings.data == place
    assert str(place).rstrip("/") == text.rstrip("/")


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///x", "s3://a b", "s3://a/../b", "s3://a/b//c", "s3://u:p@h/b", "gs://a"]
)
def test_what_is_no_bucket_is_an_error_that_says_what_is_expected(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        load(options={"data": text}, environment={})
