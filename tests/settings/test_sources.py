"""Where settings come from, and which source wins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from offload import cli
from tests.settings.conftest import Read, Refused


def test_later_source_wins_over_earlier(read: Read) -> None:
    Path("gunicorn.conf.py").write_text("workers = 3\nkeepalive = 7\nbacklog = 5\ntimeout = 9\nwsgi_app = 'shop'\n")
    reading = read(
        "--workers", "6",
        WEB_CONCURRENCY="2",
        GUNICORN_CMD_ARGS="--workers 4 --keep-alive=8 -t 11",
        OFFLOAD_WORKERS="5",
        OFFLOAD_TIMEOUT="12",
    )  # fmt: skip
    settings = reading.settings
    assert (settings.process.workers, settings.http.keep_alive) == (6, 8.0)
    assert (settings.listen.backlog, settings.replace.timeout) == (5, 12.0)
    assert settings.app == "shop"
    assert reading.file == "gunicorn.conf.py"
    assert {name: str(source) for name, source in settings.sources.items()} == {
        "workers": "--workers",
        "keep_alive": "--keep-alive in GUNICORN_CMD_ARGS",
        "backlog": "backlog in gunicorn.conf.py",
        "timeout": "OFFLOAD_TIMEOUT",
    }


def test_variables_that_gunicorn_reads_stand_in_for_defaults(read: Read) -> None:
    variables = {"PORT": "5000", "WEB_CONCURRENCY": "3", "FORWARDED_ALLOW_IPS": "10.0.0.0/8"}
    settings = read("shop", **variables).settings
    assert settings.listen.bind == ("0.0.0.0:5000",)
    assert settings.process.workers == 3
    assert settings.proxy.forwarded_allow_ips == ("10.0.0.0/8",)
    # Nobody is believed.
    assert read("shop", FORWARDED_ALLOW_IPS="").settings.proxy.forwarded_allow_ips == ()
    # So a file that says otherwise has its way, as with gunicorn.
    Path("gunicorn.conf.py").write_text("bind = 'unix:/run/shop.sock'\nworkers = 1\nforwarded_allow_ips = '*'\n")
    settings = read("shop").settings
    assert settings.listen.bind == ("unix:/run/shop.sock",)
    assert settings.process.workers == 1
    assert settings.proxy.forwarded_allow_ips == ("*",)


@pytest.mark.parametrize("port", ["abc", "99999", "\u0663"])
def test_port_that_is_none_is_named_where_it_is_used(refused: Refused, read: Read, port: str) -> None:
    assert refused("shop", PORT=port) == (2, f"PORT is {port!r}, which is not the number of a port")
    assert read("shop", "-b", "127.0.0.1:80").settings.listen.bind == ("127.0.0.1:80",)


@pytest.mark.parametrize(("text", "mask"), [("022", 0o22), ("0o22", 0o22), ("18", 0o22), ("0", 0), ("0x12", 0o22)])
def test_mask_is_read_as_gunicorn_reads_it(read: Read, text: str, mask: int) -> None:
    assert read("shop", "-m", text).settings.process.umask == mask


def test_own_file_comes_before_gunicorns(read: Read) -> None:
    Path("gunicorn.conf.py").write_text("workers = 2\n")
    assert read("shop").file == "gunicorn.conf.py"
    Path("offload.conf.py").write_text("workers = 4\n")
    reading = read("shop")
    assert (reading.file, reading.settings.process.workers) == ("offload.conf.py", 4)
    assert read("shop", "-c", "gunicorn.conf.py").settings.process.workers == 2


@pytest.mark.parametrize("place", ["conf/site.py", "file:conf/site.py", "python:conf.site"])
def test_file_is_named_by_path_or_module(read: Read, place: str) -> None:
    Path("conf").mkdir()
    Path("conf/site.py").write_text("workers = 2\n")
    assert read("shop", "-c", place).settings.process.workers == 2
    assert read("shop", OFFLOAD_CONFIG=place).settings.process.workers == 2
    assert read("shop", GUNICORN_CMD_ARGS=f"--config {place}").settings.process.workers == 2


def test_file_is_read_anew_with_what_it_imports_of_the_project() -> None:
    Path("project_numbers.py").write_text("WORKERS = 2\n")
    Path("gunicorn.conf.py").write_text("from project_numbers import WORKERS as workers\n")
    reader = cli.reader(["shop"])
    assert reader.read().settings.process.workers == 2
    # Of another length, since what is compiled of a module is kept by its file's time and size.
    Path("project_numbers.py").write_text("WORKERS = 33\n")
    assert reader.read().settings.process.workers == 33


def test_file_is_read_anew_whatever_was_compiled_of_it() -> None:
    Path("gunicorn.conf.py").write_text("workers = 2\n")
    reader = cli.reader(["shop"])
    for number in (2, 3, 4):
        Path("gunicorn.conf.py").write_text(f"workers = {number}\n")
        os.utime("gunicorn.conf.py", (0, 0))
        assert reader.read().settings.process.workers == number


def test_file_of_a_release_is_found_by_the_name_of_its_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        Path(f"release{number}").mkdir()
        Path(f"release{number}/gunicorn.conf.py").write_text(f"workers = {number}\n")
    Path("current").symlink_to("release1")
    name = os.path.abspath("current")
    monkeypatch.chdir(name)
    monkeypatch.setenv("PWD", name)
    reader = cli.reader(["shop"])
    assert reader.read().settings.process.workers == 1
    os.unlink(name)
    os.symlink("release2", name)
    assert reader.read().settings.process.workers == 2


def test_file_that_patches_for_gevent_patches_nothing(read: Read) -> None:
    import threading

    before = threading.Lock
    Path("gunicorn.conf.py").write_text(
        "from gevent import monkey\nfrom gevent.monkey import patch_thread\n"
        "patched = [monkey.patch_all(), patch_thread()]\nworkers = 2\n"
    )
    for _ in range(2):
        assert read("shop").settings.process.workers == 2
        assert threading.Lock is before
        from gevent import monkey

        assert monkey.patch_all.__module__.startswith("gevent")


def test_values_of_a_file_are_of_its_own_types(read: Read) -> None:
    Path("gunicorn.conf.py").write_text(
        "import pathlib\n"
        "bind = ['127.0.0.1:1', 'unix:/run/x']\n"
        "forwarded_allow_ips = '10.0.0.1, 10.0.0.2'\n"
        "pidfile = pathlib.Path('/run/shop.pid')\n"
        "umask = 0o027\nreload = True\ninitgroups = False\nproxy_protocol = True\n"
        "raw_env = ['A=1', 'B=2=3']\nuser = None\nlogconfig_dict = {'version': 1}\nlimit_request_line = 0\n"
    )
    settings = read("shop").settings
    assert settings.listen.bind == ("127.0.0.1:1", "unix:/run/x")
    assert settings.proxy.forwarded_allow_ips == ("10.0.0.1", "10.0.0.2")
    assert settings.process.pid == "/run/shop.pid"
    assert settings.process.umask == 0o027
    assert (settings.replace.reload, settings.process.initgroups) == (True, False)
    assert settings.proxy.proxy_protocol == "auto"
    assert settings.process.variables == {"A": "1", "B": "2=3"}
    assert settings.process.user is None
    assert settings.log.config_dict == {"version": 1}
    assert settings.http.limit_request_line > 1 << 20


def test_hooks_of_a_file_are_called_with_gunicorns_arguments(read: Read) -> None:
    Path("gunicorn.conf.py").write_text(
        "calls = []\n"
        "def post_fork(server, worker): calls.append((server, worker))\n"
        "def post_request(worker, req): calls.append((worker, req))\n"
        "def when_ready(*arguments): calls.append(arguments)\n"
        "on_exit = 'gc.collect'\n"
    )
    hooks = read("shop").settings.hooks
    assert hooks.post_fork is not None
    assert hooks.post_request is not None
    assert hooks.when_ready is not None
    assert hooks.on_exit is not None
    hooks.post_fork(1, 2)
    hooks.post_request(1, 2, 3, 4)
    hooks.when_ready(5)
    assert hooks.post_fork.__globals__["calls"] == [(1, 2), (1, 2), (5,)]
    assert hooks.on_exit.__name__ == "collect"
    assert hooks.pre_fork is None


def test_worker_reads_only_a_file_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gunicorn.conf.py").write_text("workers = 9\npidfile = 'x'\nbind = '127.0.0.1:1'\n")
    assert cli.reader(["shop"], "worker").read().settings.process.workers == 1
    named = cli.reader(["shop", "-c", "gunicorn.conf.py"], "worker").read().settings
    assert (named.process.workers, named.listen.bind) == (9, ("127.0.0.1:8000",))
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    assert cli.reader(["shop"], "worker").read().settings.process.workers == 2


def test_names_that_are_no_settings_are_listed_once(read: Read) -> None:
    Path("gunicorn.conf.py").write_text(
        "import multiprocessing as m\nfrom math import floor\n"
        "cores = 4\ndef per_core(): return 2\n"
        "def post_frok(server, worker): pass\nwrokers = 3\n_private = 1\nworkers = 2\n"
    )
    assert read("shop", OFFLOAD_PORT="tcp://10.0.0.1:80").remarks == (
        "gunicorn.conf.py: not settings, and ignored: cores, post_frok (did you mean post_fork?), "
        "wrokers (did you mean workers?)",
        "not settings, and ignored: OFFLOAD_PORT",
    )


def test_what_has_no_effect_is_told_with_its_reason(read: Read) -> None:
    Path("gunicorn.conf.py").write_text("worker_class = 'gthread'\nworker_tmp_dir = '/tmp'\n")
    assert read("shop", "--threads", "4", "-D", GUNICORN_CMD_ARGS="--spew").remarks == (
        "worker_class = 'gthread' in gunicorn.conf.py has no effect: "
        "requests run in greenlets, as under gunicorn's gevent workers",
        "worker_tmp_dir = '/tmp' in gunicorn.conf.py has no effect: heartbeats are in memory",
        "--spew in GUNICORN_CMD_ARGS has no effect: no line of code is traced",
        "--threads 4 has no effect: requests run in greenlets, up to --pool-size of them in each process",
        "--daemon has no effect: it stays in the foreground, for systemd, a container or the shell's &",
    )


def test_logger_class_is_told_to_have_no_effect_and_what_has(read: Read) -> None:
    Path("gunicorn.conf.py").write_text("import logging\nclass Shop(logging.Logger): ...\nlogger_class = Shop\n")
    assert read("shop", GUNICORN_CMD_ARGS="--logger-class shop.Logger").remarks == (
        "logger_class in gunicorn.conf.py has no effect: "
        "loggers are Python's own, called offload.*; logconfig_dict gives them filters and handlers",
        "--logger-class shop.Logger in GUNICORN_CMD_ARGS has no effect: "
        "loggers are Python's own, called offload.*; logconfig_dict gives them filters and handlers",
    )


@pytest.mark.parametrize("flags", [("-k", "gevent"), ("--threads", "1"), ("--worker-tmp-dir", "/dev/shm")])
def test_what_asks_for_nothing_else_than_what_is_done_is_silent(read: Read, flags: tuple[str, ...]) -> None:
    assert read("shop", *flags).remarks == ()


def test_what_means_something_else_is_told(read: Read) -> None:
    Path("gunicorn.conf.py").write_text("worker_connections = 1000\ntimeout = 30\n")
    assert read("shop").differences == (
        "worker_connections in gunicorn.conf.py: it counts open sockets, idle ones and WebSockets too; "
        "--pool-size limits what runs at a time",
    )
