"""The htpasswd file: read as distribution reads it, read again when it changes, and edited without losing anything."""

import multiprocessing
import os
import stat
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

import tests.properties  # noqa: F401  # no deadlines
from registry.auth.htpasswd import (
    COST,
    BadUser,
    HtpasswdError,
    HtpasswdFile,
    NoSuchUser,
    UserExists,
    add_user,
    check_user,
    parse,
    remove_user,
    set_hash,
    users,
)
from registry.watched import LOOK_SECONDS, SETTLED_SECONDS
from tests.stores import Clock

TAIL = "abcdefghijklmnopqrstuuCtW8hJyoMAwbyLNgvQMhhVwdHpVS.Zm"
ALICE = f"$2y$05${TAIL}"
BOB = f"$2a$10${TAIL}"
CAROL = f"$2b$10${TAIL[::-1]}"


def table(text: str) -> dict[str, str]:
    return dict(parse(text.encode()).hashes)


def test_bcrypt_lines_of_all_letters_are_read() -> None:
    assert table(f"alice:{ALICE}\nbob:{BOB}\ncarol:{CAROL}\n") == {"alice": ALICE, "bob": BOB, "carol": CAROL}


def test_comments_blank_lines_white_space_and_line_ends_of_windows_count_for_nothing() -> None:
    text = f"\ufeff# users\r\n\r\n  alice:{ALICE} \r\n\t# bob:{BOB}\r\n \nbob:{BOB}"

    assert table(text) == {"alice": ALICE, "bob": BOB}


def test_of_two_lines_the_last_one_holds_as_in_distribution_and_the_first_is_told() -> None:
    found = parse(f"alice:{ALICE}\nalice:{BOB}\n".encode(), name="users")

    assert found.hashes == {"alice": BOB}
    assert found.problems == ("users, line 2: the user stands in an earlier line as well, which is not used",)


def test_a_later_line_that_can_not_be_used_holds_as_well() -> None:
    assert table(f"alice:{ALICE}\nalice:secret\n") == {}


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "secret",
        "$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/",
        "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "rqXexS6ZhobKA",
        "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA",
        f"$2x$10${TAIL}",
        f"$2y$10${TAIL}x",
        f"$2y$10${TAIL[1:]}",
        f"$2y$31${TAIL}",
        f"$2y$03${TAIL}",
        f"$2y$1${TAIL}",
        f"{ALICE}:1000:more",
    ],
)
def test_a_hash_that_can_not_be_compared_is_told_by_its_line_and_not_shown(stored: str) -> None:
    found = parse(f"bob:{BOB}\nalice:{stored}\n".encode(), name="users")

    assert found.hashes == {"bob": BOB}
    [problem] = found.problems
    assert problem.startswith("users, line 2: ")
    assert not stored or stored not in problem


@pytest.mark.parametrize("line", [b"alice", b":" + ALICE.encode(), b"ali\x07ce:x", b"\xff:x", b"alice :x"])
def test_what_is_no_line_of_htpasswd_is_refused_with_its_number(line: bytes) -> None:
    with pytest.raises(HtpasswdError, match=r"^users, line 3: [^\n]*$"):
        parse(b"# first\n\n" + line, name="users")


@given(st.binary() | st.text(st.sampled_from("a:$2y0./\n\r #\t"), max_size=99).map(str.encode))
def test_no_text_is_anything_but_a_table_or_a_refusal(text: bytes) -> None:
    try:
        found = parse(text)
    except HtpasswdError:
        return

    assert all(check_user(user) == user for user in found.hashes)


def test_the_cost_of_the_table_is_the_one_that_most_hashes_have() -> None:
    assert parse(f"a:{ALICE}\nb:{BOB}\nc:{CAROL}\n".encode()).cost == 10
    assert parse(b"").cost == COST


def test_the_fingerprint_changes_with_the_line_and_tells_nothing_of_it() -> None:
    one, two = parse(f"a:{ALICE}\nb:{BOB}".encode()), parse(f"a:{BOB}".encode())

    assert one.fingerprint("a") != two.fingerprint("a")
    assert one.fingerprint("b") == two.fingerprint("a")
    assert one.fingerprint("c") is None
    assert TAIL not in f"{one!r}{one.fingerprint('a')}"


@pytest.mark.parametrize("user", ["", "a:b", "a\nb", " a", "a\u00a0", "#a", "é" * 128, "\ud800", "\x85a"])
def test_names_that_no_client_could_send_or_no_line_could_hold_are_refused(user: str) -> None:
    with pytest.raises(BadUser):
        check_user(user)


@pytest.mark.parametrize("user", ["a", "a b", "Jörg", "a@example.org", "a#", "robot$ci", "é" * 127])
def test_other_names_are_taken(user: str) -> None:
    assert check_user(user) == user


# The file as it changes


class Watched:
    """A file of users, and one who reads it; time goes on only by `later`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.write(f"alice:{ALICE}\n")
        self.file = HtpasswdFile(path, clock=self.clock)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        os.utime(self.path, (self.clock.now, self.clock.now))

    def later(self, seconds: float = LOOK_SECONDS) -> set[str]:
        self.clock.now += seconds
        return set(self.file.current().hashes)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "htpasswd")


def test_a_change_is_seen_at_the_next_look_and_not_before(watched: Watched) -> None:
    assert watched.later() == {"alice"}
    watched.write(f"bob:{BOB}\n")

    assert watched.later(LOOK_SECONDS / 2) == {"alice"}
    assert watched.later(LOOK_SECONDS / 2) == {"bob"}


def test_a_file_that_has_not_changed_is_not_read_again(watched: Watched) -> None:
    watched.later(SETTLED_SECONDS + 1)
    before = watched.file.current()

    assert watched.later() == {"alice"}
    assert watched.file.current() is before


def test_a_file_that_was_just_written_is_read_again_since_a_second_write_may_look_the_same(watched: Watched) -> None:
    # Times of files move in ticks of the kernel's clock, some milliseconds each.
    watched.later()
    before = watched.file.current()

    watched.later()

    assert watched.file.current() is not before


def test_another_file_in_its_place_is_seen_even_if_time_and_size_are_equal(watched: Watched) -> None:
    watched.later(SETTLED_SECONDS + 1)
    before = watched.path.stat()
    other = watched.path.with_name("other")
    other.write_text(f"ALICE:{ALICE}\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(watched.path)

    assert watched.later() == {"ALICE"}


def test_a_broken_file_changes_nothing_and_is_told_once_for_each_change(watched: Watched) -> None:
    watched.later()
    with capture_logs() as logs:
        watched.write("alice\n")
        assert [watched.later() for _ in range(5)] == [{"alice"}] * 5
        assert len(logs) == 1
        watched.write("alice\n\nbob\n")
        assert watched.later() == {"alice"}
        watched.path.unlink()
        assert [watched.later() for _ in range(3)] == [{"alice"}] * 3

    assert [line["log_level"] for line in logs] == ["error"] * 3
    assert "line 1" in logs[0]["reason"]
    assert "No such file" in logs[2]["reason"]
    watched.write(f"bob:{BOB}\n")
    assert watched.later() == {"bob"}


def test_lines_that_can_not_be_used_are_one_warning_for_each_change(watched: Watched) -> None:
    watched.write("alice:secret\nbob:secret\n")

    with capture_logs() as logs:
        for _ in range(5):
            watched.later()
        watched.write(f"alice:secret\nbob:{BOB}\n")
        assert watched.later() == {"bob"}

    assert [line["lines"] for line in logs if line["log_level"] == "warning"] == [2, 1]
    assert "secret" not in str(logs)


def test_loading_what_is_not_there_or_is_no_file_or_is_broken_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").write_text("alice")
    for name in ("absent", "fifo", "broken", "."):
        with pytest.raises(HtpasswdError, match=r"^[^\n]*$"):
            HtpasswdFile(tmp_path / name).load()


def test_before_it_could_be_read_nobody_is_there(tmp_path: Path) -> None:
    with capture_logs() as logs:
        assert not HtpasswdFile(tmp_path / "absent").current().hashes

    assert len(logs) == 1


# Edits


def test_an_added_user_stands_at_the_end_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    before = f"# ours\r\n\r\nalice:{ALICE}".encode()
    path.write_bytes(before)

    add_user(path, "bob", BOB)

    assert path.read_bytes() == before + f"\r\nbob:{BOB}\r\n".encode()
    with pytest.raises(UserExists):
        add_user(path, "alice", BOB)


def test_a_new_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    add_user(tmp_path / "htpasswd", "alice", ALICE)

    assert (tmp_path / "htpasswd").read_text() == f"alice:{ALICE}\n"
    assert stat.S_IMODE((tmp_path / "htpasswd").stat().st_mode) == 0o600


def test_a_new_hash_takes_the_place_of_the_line_that_held_and_others_of_the_user_go(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"alice:old\n# alice:x\nbob:{BOB}\r\n alice:{BOB}\r\ncarol:{CAROL}")

    set_hash(path, "alice", ALICE)

    assert path.read_bytes().decode() == f"# alice:x\nbob:{BOB}\r\nalice:{ALICE}\r\ncarol:{CAROL}"


def test_a_removed_user_is_gone_from_all_lines_and_can_not_be_removed_again(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"alice:old\nbob:{BOB}\nalice:{ALICE}\n")

    remove_user(path, "alice")

    assert path.read_text() == f"bob:{BOB}\n"
    with pytest.raises(NoSuchUser):
        remove_user(path, "alice")
    with pytest.raises(NoSuchUser):
        set_hash(path, "alice", ALICE)


def test_a_file_of_which_a_line_can_not_be_read_is_not_edited(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text("what is this\n")

    with pytest.raises(HtpasswdError, match="line 1"):
        add_user(path, "alice", ALICE)

    assert [each.name for each in tmp_path.iterdir()] == ["htpasswd"]
    assert path.read_text() == "what is this\n"


def test_mode_and_symbolic_link_are_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "htpasswd"
    real.write_text(f"alice:{ALICE}\n")
    real.chmod(0o640)
    link.symlink_to("real")

    add_user(link, "bob", BOB)

    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [name for name, _ in users(real)] == ["alice", "bob"]


@pytest.mark.usefixtures("as_root")
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"alice:{ALICE}\n")
    os.chown(path, 12345, 23456)
    path.chmod(0o4640)

    remove_user(path, "alice")

    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o4640)


def test_a_missing_directory_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(HtpasswdError, match=r"^[^\n]*No such file"):
        add_user(tmp_path / "absent" / "htpasswd", "alice", ALICE)


def _add_some(path: Path, prefix: str) -> None:
    for number in range(20):
        add_user(path, f"{prefix}{number}", ALICE)


def test_editors_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    context = multiprocessing.get_context("spawn")
    editors = [context.Process(target=_add_some, args=(path, prefix)) for prefix in "abc"]
    for editor in editors:
        editor.start()
    for editor in editors:
        editor.join(60)

    assert {name for name, _ in users(path)} == {f"{prefix}{number}" for prefix in "abc" for number in range(20)}
    assert [each.name for each in tmp_path.iterdir()] == ["htpasswd"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "set", "remove"])), max_size=12))
def test_any_edits_leave_what_a_dictionary_would_hold(edits: list[tuple[str, str]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "htpasswd"
        path.write_text(f"# users\nb:{BOB}\na:x\na:{ALICE}")
        model = {"b": BOB, "a": ALICE}
        for number, (user, edit) in enumerate(edits):
            stored = f"$2b$10${number:053}"
            try:
                if edit == "add":
                    add_user(path, user, stored)
                elif edit == "set":
                    set_hash(path, user, stored)
                else:
                    remove_user(path, user)
            except (UserExists, NoSuchUser):
                assert (user in model) == (edit == "add")
                continue
            if edit == "remove":
                del model[user]
            else:
                model[user] = stored
            assert parse(path.read_bytes()).hashes == model
        assert path.read_text().startswith("# users")


def test_the_hash_of_another_program_can_be_compared() -> None:
    stored = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).replace(b"$2b$", b"$2y$")

    [found] = table(f"alice:{stored.decode()}").values()

    assert bcrypt.checkpw(b"secret", found.encode())
