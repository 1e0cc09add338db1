"""The commands that need no daemon, as a user runs them: config, id export and import, schema, logs,
doctor; and the metrics that are refused on an address for everybody (scenario 45)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from primed.p2p import identity, peerid

from .test_cli import PRIMED, primed


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local") / "node"
    assert primed("init", "--data-dir", str(folder)).code == 0
    return folder


def at(root: Path, *arguments: str) -> tuple[str, ...]:
    return (*arguments, "--data-dir", str(root))


def test_settings_are_shown_changed_and_checked(root: Path) -> None:
    assert primed(*at(root, "config", "set", "threads", "2")).out.startswith("threads = 2  (from ")
    done = primed(*at(root, "config", "get", "threads", "--json"))
    assert done.json["value"] == 2 and done.json["origin"] == str(root / "primed.toml")
    shown = primed(*at(root, "config", "show", "--origin"))
    assert "niceness" in shown.out and "profile home" in shown.out
    done = primed(*at(root, "config", "set", "therads", "2"))
    assert done.code == 1 and "did you mean threads?" in done.err
    assert primed(*at(root, "config", "validate")).out == "the settings are valid\n"
    done = primed(*at(root, "config", "validate", "--json"), PRIMED_THREADS="x", PRIMED_ROLE="y")
    assert done.code == 1 and len(done.json["findings"]) == 2  # type: ignore[arg-type]
    done = primed(*at(root, "config", "set", "threads", "3"), PRIMED_THREADS="9")
    assert "note: PRIMED_THREADS goes before the file" in done.out


def test_an_identity_moves(root: Path, tmp_path: Path) -> None:
    """Scenario 43: the passphrase comes from a file or stdin; nothing is overwritten."""
    words, file, new = tmp_path / "words", tmp_path / "me.json", tmp_path / "new"
    words.write_text("correct horse battery\nsecond line\n")
    option = ("--passphrase-file", str(words))
    done = primed(*at(root, "id", "export", str(file), *option, "--json"))
    assert done.code == 0 and done.json["file"] == str(file)
    assert primed(*at(root, "id", "export", str(file), *option)).code == 1
    done = primed(*at(root, "id", "import", str(file), *option))
    assert done.code == 1 and "there is an identity already" in done.err
    command = [str(PRIMED), "id", "import", str(file), "--data-dir", str(new)]
    wrong = subprocess.run(command, input="no\n", capture_output=True, text=True, check=False)
    assert wrong.returncode == 1 and "wrong passphrase" in wrong.stderr
    assert not (new / "identity.key").exists()
    right = subprocess.run(
        command, input="correct horse battery\n", capture_output=True, text=True, check=False
    )
    assert right.returncode == 0 and "one key, one machine" in right.stdout
    ours, theirs = identity.load(root / "identity.key"), identity.load(new / "identity.key")
    assert ours.peer == theirs.peer
    told = primed(*at(new, "id", "--json")).json  # what an originator asks for
    assert told["peer"] == peerid.to_text(ours.peer) and told["addresses"] == []
    done = primed(*at(tmp_path / "nothing", "id"))
    assert done.code == 1 and "hint: run: primed init" in done.err
    done = primed(*at(root, "id", "export", str(tmp_path / "x")))
    assert done.code == 1 and "no passphrase was given" in done.err


def test_schemas_are_printed() -> None:
    done = primed("schema", "runs", "show")
    assert done.json["$ref"] == "#/$defs/RunView"
    assert "status" in primed("schema").json
    assert primed("schema", "nope").code == 1


def test_metrics_for_everybody_have_to_be_asked_for(root: Path) -> None:
    """Scenario 45."""
    done = primed(*at(root, "start", "--metrics-listen", "0.0.0.0:9464"))
    assert done.code == 1
    assert "other machines can reach 0.0.0.0:9464" in done.err and "metrics_public" in done.err


def test_the_doctor_says_what_it_finds_without_a_daemon(root: Path) -> None:
    (root / "identity.key").chmod(0o640)
    done = primed(*at(root, "doctor", "--json"))
    (root / "identity.key").chmod(0o600)
    assert done.code == 2 and done.json["daemon"] is False
    checks = {each["id"]: each for each in done.json["checks"]}  # type: ignore[attr-defined]
    assert checks["identity"]["result"] == "fail"
    assert checks["identity"]["remedy"] == f"run: chmod 600 {root / 'identity.key'}"
    assert checks["daemon"]["result"] == "skip" and checks["python"]["result"] == "ok"


LINES = [
    {"event": "up", "level": "info", "timestamp": "2026-01-02T03:04:05.6Z", "peers": 3},
    {"event": "evil \x1b[2J", "level": "warning", "timestamp": "2026-01-02T03:04:06Z"},
    {"event": "broken", "level": "error", "exception": "Traceback\n  line"},
]


def test_logs_are_filtered_and_followed(root: Path) -> None:
    log = root / "logs" / "daemon.log"
    log.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (root / "logs" / "engine-abababab.log").write_text("loading\n")
    done = primed(*at(root, "logs"))
    assert "2026-01-02 03:04:05 info    up  peers=3" in done.out
    assert "\x1b" not in done.out and "evil ?[2J" in done.out
    assert "broken\nTraceback\n  line" in done.out
    done = primed(*at(root, "logs", "--level", "warning", "-n", "1", "--json"))
    assert json.loads(done.out) == LINES[2]
    assert primed(*at(root, "logs", "--child", "engine")).out == "loading\n"
    done = primed(*at(root, "logs", "--child", "nobody"))
    assert done.code == 1 and "there are: engine-abababab" in done.err
    command = [sys.executable, str(PRIMED), *at(root, "logs", "-f", "-n", "0", "--level", "error")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        time.sleep(1.5)
        with log.open("a") as file:
            file.write('{"event": "quiet", "level": "info"}\n{"event": "one", "level": "error"}\n')
        assert follower.stdout.readline().strip() == "error   one"
        log.rename(log.with_suffix(".log.1"))
        log.write_text('{"event": "after rotation", "level": "error"}\n')
        assert follower.stdout.readline().strip() == "error   after rotation"
        follower.kill()
