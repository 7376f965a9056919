"""Where the hub's socket is, and what both ends refuse."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from offload.exceptions import ConfigurationError, LayerUnavailable
from offload.hub.server import serve
from offload.layers.ipc import IPCLayer, default_path
from tests.layers.hubs import HubProcess, as_user, run, succeeded

NOBODY, STRANGER = 65534, 65533

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be other users")


def test_default_path_depends_on_user_and_real_directory_only(tmp_path, monkeypatch):
    monkeypatch.delenv("OFFLOAD_RUNTIME_DIR", raising=False)
    project, link = tmp_path / "project", tmp_path / "link"
    project.mkdir()
    link.symlink_to(project)
    path = default_path(str(project))
    assert re.fullmatch(rf"/tmp/offload-{os.geteuid()}/[0-9a-f]{{20}}\.sock", path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert default_path(str(link)) == path
    monkeypatch.chdir(link)
    assert default_path() == path
    assert IPCLayer().path == path
    assert default_path(str(tmp_path)) != path


def test_paths_of_a_server_whose_directory_has_moved_stay_those_of_its_start(tmp_path, monkeypatch):
    first, now = tmp_path / "first", tmp_path / "now"
    for release in (first, now):
        (release / "project").mkdir(parents=True)
    monkeypatch.delenv("OFFLOAD_RUNTIME_DIR", raising=False)
    paths = default_path(str(first)), default_path(str(first / "project")), str(first / "run" / "hub.sock")
    monkeypatch.setenv("_OFFLOAD_MOVED", json.dumps({str(now): str(first)}))
    monkeypatch.chdir(now)
    assert (default_path(), default_path(str(now / "project")), IPCLayer("run/hub.sock").path) == paths
    # Nobody else's.
    beside = tmp_path / "nowhere"
    assert default_path(str(beside)) != paths[0]
    assert IPCLayer(str(now / "hub.sock")).path == str(now / "hub.sock")


def test_default_path_is_in_the_runtime_directory_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", "/run/site")
    assert os.path.dirname(default_path(str(tmp_path))) == "/run/site"


def test_path_that_no_socket_can_have_is_refused(monkeypatch):
    monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", "/" + "x" * 100)
    for make in (default_path, IPCLayer, lambda: IPCLayer("/" + "x" * 107)):
        with pytest.raises(ConfigurationError, match="bytes; the system allows 107"):
            make()


def test_layer_refuses_wrong_settings():
    for timeout in (0, -1, float("inf"), float("nan"), "5", True):
        with pytest.raises(ConfigurationError, match="timeout"):
            IPCLayer("/nowhere/hub.sock", timeout=timeout)
    with pytest.raises(ConfigurationError, match="max_size"):
        IPCLayer("/nowhere/hub.sock", max_size=64 * 1024 * 1024)
    with pytest.raises(ConfigurationError, match="'timeout'"):
        IPCLayer("/nowhere/hub.sock", timeuot=1)


def test_hub_makes_a_private_directory_and_socket(tmp_path):
    path = tmp_path / "deep" / "run" / "hub.sock"
    old = os.umask(0)
    try:
        hub = HubProcess(path).started()
    finally:
        os.umask(old)
    try:
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE((path.parent / "hub.sock.lock").stat().st_mode) == 0o600
        assert hub.stop() == 0
        assert not path.exists()
    finally:
        hub.close()


def test_directory_that_lets_others_in_is_refused_by_both_ends(tmp_path):
    directory = tmp_path / "open"
    directory.mkdir()
    directory.chmod(0o755)
    refused_by_both(directory / "hub.sock", "has mode 0755, which lets others in")


def test_directory_that_is_a_symbolic_link_is_refused_by_both_ends(tmp_path):
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    refused_by_both(tmp_path / "link" / "hub.sock", "is a symbolic link")


def test_socket_that_is_a_symbolic_link_is_refused_by_both_ends(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    (directory / "hub.sock").symlink_to(tmp_path / "elsewhere")
    refused_by_both(directory / "hub.sock", "is a symbolic link")
    assert (directory / "hub.sock").is_symlink()


def test_file_in_the_sockets_place_is_refused_and_kept(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    (directory / "hub.sock").write_text("precious")
    refused_by_both(directory / "hub.sock", "is no socket")
    assert (directory / "hub.sock").read_text() == "precious"


@needs_root
def test_directory_of_another_user_is_refused_by_the_hub(tmp_path):
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)
    hub = HubProcess(directory / "hub.sock")
    assert hub.process.wait(10) == 2
    assert f"belongs to user {NOBODY}, not to 0" in hub.wait_for("hub:")
    hub.close()


@needs_root
def test_default_directory_of_another_user_is_refused_even_for_root(tmp_path, monkeypatch):
    monkeypatch.setenv("OFFLOAD_RUNTIME_DIR", str(tmp_path / "run"))
    (tmp_path / "run").mkdir(mode=0o700)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    layer = IPCLayer()
    with pytest.raises(ConfigurationError, match=f"belongs to user {NOBODY}"):
        layer.check()
    layer.close()


@needs_root
def test_hub_refuses_other_users_whatever_the_modes_say(shared_directory):
    directory = Path(shared_directory(os.geteuid()))
    hub = HubProcess(directory / "hub.sock").started()
    directory.chmod(0o755)
    (directory / "hub.sock").chmod(0o666)
    try:

        def connect():
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(10)
                client.connect(hub.path)
                return client.recv(100) == b""

        assert succeeded(as_user(NOBODY, connect))
        assert f"refused a connection of user {NOBODY}" in hub.wait_for("refused")
        directory.chmod(0o700)
        with hub.using() as layer:
            layer.check()
    finally:
        hub.close()


@needs_root
def test_client_refuses_the_hub_of_another_user(shared_directory):
    directory = shared_directory(STRANGER)
    path = os.path.join(directory, "hub.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        os.chmod(path, 0o666)
        # The kernel remembers who called listen.
        os.seteuid(NOBODY)
        listener.listen()
        os.seteuid(0)

        def check():
            layer = IPCLayer(path)
            try:
                with pytest.raises(
                    LayerUnavailable, match=f"refuses its hub at {path}: it belongs to user {NOBODY}, not to {STRANGER}"
                ):
                    layer.check()
            finally:
                layer.close()
            return True

        assert succeeded(as_user(STRANGER, check))


@needs_root
def test_root_may_use_the_hub_of_another_user_by_its_path(shared_directory):
    path = os.path.join(shared_directory(NOBODY), "hub.sock")
    hub = as_user(NOBODY, lambda: serve(path) == 0)
    layer = IPCLayer(path, timeout=10)
    layer.expect_hub()
    try:
        layer.check()
    finally:
        layer.close()
        os.kill(hub, signal.SIGTERM)
    assert succeeded(hub)


def refused_by_both(path, reason):
    layer = IPCLayer(str(path))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=reason) as raised:
            layer.check()
        assert str(path.parent) in str(raised.value)
    layer.close()
    hub = HubProcess(path)
    assert hub.process.wait(10) == 2
    assert reason in hub.wait_for("ERROR hub:")
    hub.close()


def test_hub_module_without_a_path_says_how_it_is_used():
    done = run("-m", "offload.hub.server")
    assert (done.returncode, done.stderr) == (2, "usage: python -m offload.hub.server PATH\n")


@pytest.fixture
def shared_directory():
    """Make private directories of other users that these can get at."""
    made = []

    def make(user):
        directory = tempfile.mkdtemp()
        made.append(directory)
        os.chown(directory, user, user)
        return directory

    yield make
    for directory in made:
        shutil.rmtree(directory)
