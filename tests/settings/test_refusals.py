"""Refusals of the command line and of configuration files: one line with the right word, and nothing started."""

from __future__ import annotations

from pathlib import Path

import pytest

from offload import cli
from offload.settings.command_line import USAGE
from tests.settings.conftest import Refused

LARGE = "99999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workrs", "2", "shop"], "unknown option '--workrs'; did you mean --workers?"),
        (["--wibble", "2", "shop"], "unknown option '--wibble'; 'offload --help' lists all"),
        # Not a longer word for gunicorn's --timeout, nor the other way round.
        (["shop", "--send-timeoutt", "2"], "unknown option '--send-timeoutt'; did you mean --send-timeout?"),
        (["shop", "--time", "2"], "unknown option '--time'; did you mean --timeout?"),
        (["shop", "extra"], "unknown argument 'extra'; 'offload --help' lists all"),
        (["-w", "2"], "APP is missing; write MODULE[:CALLABLE], for instance project.wsgi"),
        (["worker", "-w", "2"], "APP is missing; write MODULE[:CALLABLE], for instance project.wsgi"),
        (["shop", "-w"], "argument -w/--workers: expected one argument"),
        (["shop", "-w", "two"], "--workers is 'two', which is not a whole number"),
        (["shop", "-w", "0"], "--workers is 0, but it must be from 1 to 4096"),
        (["shop", "-w", "2147483647"], "--workers is 2147483647, but it must be from 1 to 4096"),
        (["shop", "--ws-ping-interval", "often"], "--ws-ping-interval is 'often', which is not a number"),
        (["shop", "--log-level", "warnin"], "--log-level is 'warnin'; did you mean warning?"),
        (
            ["shop", "--log-level", "loud"],
            "--log-level is 'loud'; choose one of debug, info, warning, error, critical",
        ),
        (["shop", "--ws-overflow", "drop-old"], "--ws-overflow is 'drop-old'; did you mean drop-oldest?"),
        (["shop", "-b", ""], "--bind is empty; leave it out for 127.0.0.1:8000"),
        (["shop", "--backlog", "99999999999"], "--backlog is 99999999999, but it must be from 1 to 2147483647"),
        (["shop", "--graceful-timeout", "inf"], "--graceful-timeout is inf, but it must be from 0 to 2147483647"),
        (["shop", "--drain-timeout", "nan"], "--drain-timeout is nan, but it must be from 0 to 2147483647"),
        (
            ["shop", "--ws-origins", "example.com,https://example.com/chat"],
            "--ws-origins has 'https://example.com/chat': an Origin has no path; write 'https://example.com'",
        ),
        (
            ["shop", "--routing", "nothing"],
            "--routing is 'nothing', which is not MODULE:NAME, for instance project.routing:channel_routing",
        ),
        (["shop", "--umask", "999"], "--umask is '999', which is no mask of file modes from 000 to 777"),
        (["shop", "-u", "nobody-like-this"], "--user is 'nobody-like-this', and there is no such user"),
        (["shop", "-g", "nobody-like-this"], "--group is 'nobody-like-this', and there is no such group"),
        (["shop", "-e", "NAME"], "--env has 'NAME': it is not NAME=VALUE"),
        (["shop", "-c", "missing.py"], "there is no configuration file 'missing.py' in {here}"),
        (["shop", "-c", "python:missing"], "there is no configuration module 'missing'"),
        (["shop", "--chdir", "missing"], "cannot change to the directory 'missing': No such file or directory"),
        (["shop", "--error-logfile", "none/log"], "cannot write the log 'none/log': No such file or directory"),
    ],
)
def test_wrong_command_line(refused: Refused, tmp_path: Path, arguments: list[str], message: str) -> None:
    assert refused(*arguments) == (2, message.replace("{here}", str(tmp_path)))


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WEB_CONCURRENCY": "many"}, "WEB_CONCURRENCY is 'many', which is not a whole number"),
        ({"OFFLOAD_WS_QUEUE": "-1"}, "OFFLOAD_WS_QUEUE is -1, but it must be 1 or more"),
        ({"OFFLOAD_RELOAD": "maybe"}, "OFFLOAD_RELOAD is 'maybe'; write true or false"),
        ({"OFFLOAD_WORKES": "4"}, "unknown variable OFFLOAD_WORKES; did you mean OFFLOAD_WORKERS?"),
        (
            {"GUNICORN_CMD_ARGS": "--workrs 3"},
            "GUNICORN_CMD_ARGS: unknown option '--workrs'; did you mean --workers?",
        ),
        ({"GUNICORN_CMD_ARGS": "-w x"}, "--workers in GUNICORN_CMD_ARGS is 'x', which is not a whole number"),
        ({"GUNICORN_CMD_ARGS": "-n 'shop"}, "GUNICORN_CMD_ARGS: No closing quotation"),
    ],
)
def test_wrong_environment(refused: Refused, variables: dict[str, str], message: str) -> None:
    assert refused("shop", **variables) == (2, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers = 2.5", "workers in gunicorn.conf.py is 2.5, which is not a whole number"),
        ("workers = 'many'", "workers in gunicorn.conf.py is 'many', which is not a whole number"),
        ("loglevel = 'warnin'", "loglevel in gunicorn.conf.py is 'warnin'; did you mean warning?"),
        ("accesslog = True", "accesslog in gunicorn.conf.py is True, which is not a text"),
        ("logconfig_dict = 'x'", "logconfig_dict in gunicorn.conf.py is 'x', which is not a dict"),
        ("initgroups = 'maybe'", "initgroups in gunicorn.conf.py is 'maybe'; write true or false"),
        (
            "def post_fork(server): pass",
            "post_fork in gunicorn.conf.py does not take the arguments (server, worker)",
        ),
        ("when_ready = 'no.such'", "when_ready in gunicorn.conf.py is 'no.such', which cannot be imported: "
         "No module named 'no'"),
        ("on_exit = 5", "on_exit in gunicorn.conf.py is 5, which is not a function"),
        ("bind = [8000]", "bind in gunicorn.conf.py has 8000, which is not a text"),
        ("x = 1\nworkers = (", "gunicorn.conf.py, line 2: SyntaxError: '(' was never closed"),
        ("import os\n\nworkers = os.environ['CORES']", "gunicorn.conf.py, line 3: KeyError: 'CORES'"),
        ("import not_there", "gunicorn.conf.py needs the module 'not_there', which is not installed"),
        ("raise SystemExit('no')", "gunicorn.conf.py, line 1: SystemExit: no"),
    ],
)  # fmt: skip
def test_wrong_configuration_file(refused: Refused, text: str, message: str) -> None:
    Path("gunicorn.conf.py").write_text(text)
    assert refused("shop") == (2, message)


@pytest.mark.parametrize("arguments", [[], ["worker"]])
def test_command_alone_prints_its_usage(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == USAGE
    assert all(f"offload {command} " in USAGE for command in cli.COMMANDS)
