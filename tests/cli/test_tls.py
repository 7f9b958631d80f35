"""`pierhead tls init`: a CA, a certificate, and who has to be told of it."""

import re
import ssl
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from registry.certificates import server_context
from registry.cli.tls import app
from registry.config import Tls
from registry.config_sources import ConfigurationError
from registry.config_sources import load as load_settings
from registry.tls_authority import AuthorityProblem, parse_host
from tests.running import ROOT, eventually

ALL = ("ca.crt", "ca.key", "server.crt", "server.key")


def init(out: Path, *arguments: str) -> Result:
    """Run `pierhead tls init`."""
    return CliRunner().invoke(app, ["init", "--out", str(out), *arguments])


def load(file: Path) -> x509.Certificate:
    """Return the certificate in a file."""
    return x509.load_pem_x509_certificate(file.read_bytes())


def contents(out: Path) -> dict[str, bytes]:
    """Return what lies in a directory."""
    return {file.name: file.read_bytes() for file in out.iterdir()}


def test_a_server_can_be_started_with_what_is_made(tmp_path: Path) -> None:
    ended = init(tmp_path / "deep" / "tls", "--host", "registry.lan", "--host", "10.0.0.5", "--host", "[::1]")

    assert ended.exit_code == 0
    out = tmp_path / "deep" / "tls"
    assert sorted(contents(out)) == sorted(ALL)
    assert {stat.S_IMODE((out / name).stat().st_mode) for name in ("ca.key", "server.key")} == {0o600}
    tls = Tls(certificate=out / "server.crt", key=out / "server.key")
    assert server_context(tls, now=datetime.now(UTC)).not_after > datetime.now(UTC)


def test_the_certificates_say_what_they_are_for(tmp_path: Path) -> None:
    init(tmp_path, "--host", "Registry.lan", "--host", "10.0.0.5")

    authority, server = load(tmp_path / "ca.crt"), load(tmp_path / "server.crt")
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    assert authority.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["registry.lan"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5"]
    usage = server.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    for certificate, days in ((authority, 3650), (server, 825)):
        public = certificate.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert public.curve.name == "secp256r1"
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        assert timedelta(days=days - 1) < left <= timedelta(days=days)


def test_openssl_believes_the_chain_and_the_name(tmp_path: Path, require_tool: Callable[[str], str]) -> None:
    init(tmp_path, "--host", "registry.lan")
    openssl = require_tool("openssl")
    command = [openssl, "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(tmp_path / "ca.crt")]

    def verified(host: str) -> bool:
        arguments = ["-verify_hostname", host, str(tmp_path / "server.crt")]
        return subprocess.run([*command, *arguments], check=False, capture_output=True).returncode == 0

    assert (verified("registry.lan"), verified("other.lan")) == (True, False)


def test_it_says_what_to_configure_and_where_clients_want_the_ca(tmp_path: Path) -> None:
    said = init(tmp_path, "--host", "registry.lan", "--port", "5001").stdout

    assert f'certificate = "{tmp_path}/server.crt"' in said
    assert f'key = "{tmp_path}/server.key"' in said
    for place in (
        "/etc/docker/certs.d/registry.lan:5001/ca.crt",
        "/etc/containers/certs.d/registry.lan:5001/ca.crt",
        "/etc/containerd/certs.d/registry.lan:5001/hosts.toml",
        "/usr/local/share/ca-certificates/",
    ):
        assert place in said


def test_port_443_is_no_part_of_the_name_of_a_registry(tmp_path: Path) -> None:
    assert "/etc/docker/certs.d/[::1]/ca.crt" in init(tmp_path, "--host", "::1", "--port", "443").stdout


def test_nothing_is_overwritten_unless_asked_for(tmp_path: Path) -> None:
    init(tmp_path, "--host", "a.lan")
    before = contents(tmp_path)

    ended = init(tmp_path, "--host", "b.lan")

    assert ended.exit_code == 2
    assert ended.stderr.startswith(f"pierhead: {tmp_path}/server.crt exists: say --force")
    assert contents(tmp_path) == before


def test_a_renewal_keeps_the_ca_so_that_clients_need_nothing_new(tmp_path: Path) -> None:
    init(tmp_path, "--host", "a.lan")
    before = contents(tmp_path)

    ended = init(tmp_path, "--host", "a.lan", "--force")

    assert ended.exit_code == 0
    assert "the CA that was there" in ended.stdout
    after = contents(tmp_path)
    assert [name for name in ALL if after[name] == before[name]] == ["ca.crt", "ca.key"]
    load(tmp_path / "server.crt").verify_directly_issued_by(load(tmp_path / "ca.crt"))


def test_a_certificate_does_not_outlive_its_ca(tmp_path: Path) -> None:
    init(tmp_path, "--host", "a.lan", "--ca-days", "10", "--days", "20")

    assert load(tmp_path / "server.crt").not_valid_after_utc == load(tmp_path / "ca.crt").not_valid_after_utc


@pytest.mark.parametrize("gone", ["ca.crt", "ca.key"])
def test_half_a_ca_is_not_made_whole(tmp_path: Path, gone: str) -> None:
    init(tmp_path, "--host", "a.lan")
    (tmp_path / gone).unlink()
    before = contents(tmp_path)

    ended = init(tmp_path, "--host", "a.lan", "--force")

    assert ended.exit_code == 2
    assert f"{gone} is missing" in ended.stderr
    assert contents(tmp_path) == before


def test_a_ca_of_two_halves_is_refused(tmp_path: Path) -> None:
    init(tmp_path / "one", "--host", "a.lan")
    init(tmp_path / "two", "--host", "a.lan")
    (tmp_path / "one" / "ca.key").write_bytes((tmp_path / "two" / "ca.key").read_bytes())

    ended = init(tmp_path / "one", "--host", "a.lan", "--force")

    assert ended.exit_code == 2
    assert "are not a CA of pierhead tls init" in ended.stderr


@pytest.mark.parametrize("host", ["", "https://a.lan", "a.lan:5000", "a b", "-a.lan", "*", "*.lan:1", "1.2.3", "[a]"])
def test_what_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    ended = init(tmp_path, f"--host={host}")

    assert ended.exit_code == 2
    assert "is neither an IP address nor the name of a host" in ended.stderr
    assert not contents(tmp_path)


def test_a_directory_that_can_not_be_is_exit_code_3(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    ended = init(tmp_path / "file" / "tls", "--host", "a.lan")

    assert ended.exit_code == 3
    assert ended.stderr == f"pierhead: {tmp_path}/file/tls: Not a directory\n"


def test_more_days_than_there_are_is_refused(tmp_path: Path) -> None:
    assert init(tmp_path, "--host", "a.lan", "--days", "99999999999").exit_code == 2


@given(st.text(max_size=60) | st.from_regex(r"\A[a-z0-9.*:-]{1,60}\Z"))
def test_any_text_is_a_host_of_which_a_certificate_can_be_made_or_is_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except AuthorityProblem:
        return
    assert (x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)).value == host


def test_python_takes_every_name_for_what_it_is(tmp_path: Path) -> None:
    """A wildcard and an address in brackets are names that a client's library has to recognise."""
    init(tmp_path, "--host", "*.lan.example", "--host", "[2001:db8::1]")

    decoded = ssl._ssl._test_decode_cert(str(tmp_path / "server.crt"))  # type: ignore[attr-defined]

    assert decoded["subjectAltName"] == (("DNS", "*.lan.example"), ("IP Address", "2001:DB8:0:0:0:0:0:1"))


def test_the_options_of_serve_stand_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "some.toml"
    file.write_text('[tls]\ncertificate = "/file.crt"\nkey = "/file.key"\nclient_ca = "/file.ca"\n')

    found = load_settings(options={"tls.certificate": Path("/option.crt"), "tls.key": None}, environment={}, file=file)

    tls = found.settings.tls
    assert (tls.certificate, tls.key, tls.client_ca) == (Path("/option.crt"), Path("/file.key"), Path("/file.ca"))
    assert found.origins[("tls", "certificate")] == "--tls-cert"


def test_each_key_is_a_variable_of_the_environment() -> None:
    environment = {
        "PIERHEAD_TLS_CERTIFICATE": "/a.crt",
        "PIERHEAD_TLS_KEY": "/a.key",
        "PIERHEAD_TLS_CLIENT_CA": "/ca.crt",
        "PIERHEAD_TLS_CLIENT_CERTIFICATES": "required",
        "PIERHEAD_TLS_MINIMUM": "1.3",
    }

    tls = load_settings(options={}, environment=environment).settings.tls

    assert (tls.certificate, tls.clients, tls.minimum) == (Path("/a.crt"), "required", "1.3")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[tls]\ncertificate = "/a"\n', "tls.certificate is set and tls.key is not: both are needed"),
        ("[tls]\nminimum = 1.2\n", "tls.minimum: input should be '1.2' or '1.3'"),
        ("[tls]\ncert = 1\n", "tls.cert: unknown key: did you mean tls."),
        ("tls = true\n", "tls: a section: write [tls] on a line of its own"),
    ],
)
def test_what_is_wrong_with_the_section_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "some.toml"
    file.write_text(text)

    with pytest.raises(ConfigurationError) as raised:
        load_settings(options={}, environment={}, file=file)

    [problem] = raised.value.problems
    assert told in problem


def test_pierhead_serves_https_with_what_tls_init_made(tmp_path: Path) -> None:
    init(tmp_path / "tls", "--host", "127.0.0.1")
    log = tmp_path / "log"
    arguments = ["--tls-cert", str(tmp_path / "tls" / "server.crt"), "--tls-key", str(tmp_path / "tls" / "server.key")]
    command = [sys.executable, "-m", "registry", "serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    try:
        found = eventually(lambda: re.search(r"serving (https://[^\s,]+)", log.read_text()), seconds=30)
        assert found is not None
        trusted = ssl.create_default_context(cafile=tmp_path / "tls" / "ca.crt")
        with urllib.request.urlopen(f"{found[1]}/v2/", timeout=10, context=trusted) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        assert process.wait(30) == 0
