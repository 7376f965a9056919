"""What a wrong command line or project is answered with: one clear line, a status that is not 0, nothing running."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def offload(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(
        [sys.executable, "-m", "offload", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=30
    )


def error_of(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that is not a dated log line."""
    lines = [line for line in result.stderr.splitlines() if not line.startswith("[")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("offload: error: ")
    return lines[0].removeprefix("offload: error: ")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "site.py").write_text("")
    (tmp_path / "shop.py").write_text(
        "from offload import route\n"
        "def application(environ, start_response): ...\n"
        "def hello(message): ...\n"
        "text = 'not callable'\n"
        "good = [route('websocket.receive', hello, path='^/$')]\n"
        "not_a_list = 5\n"
        "not_an_entry = [route('websocket.receive', hello), 'websocket.connect']\n"
        "bad_channel = [route('websocket.recieve', hello)]\n"
        "bad_filter = [route('websocket.receive', hello, path='^/(')]\n"
        "bad_consumer = [route('websocket.receive', 'shop.helo')]\n"
        "bad_name = [route('bad name!!', hello)]\n"
        "from offload import include\n"
        "itself = [include('shop.itself')]\n"
        "bad_key = [route('websocket.connect', hello, pth='^/$')]\n"
        "no_module = [route('websocket.receive', 'shopp.hello')]\n"
    )
    (tmp_path / "chat").mkdir()
    for name, kind in (("asgi", "async def"), ("wsgi", "def")):
        (tmp_path / "chat" / f"{name}.py").write_text(f"{kind} application(*args): ...\n")
    (tmp_path / "nearly.py").write_text(
        "from offload import route\n"
        "def application(environ, start_response): ...\n"
        "def hello(message): ...\n"
        "channels_routing = [route('websocket.connect', hello)]\n"
    )
    (tmp_path / "broken.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "failing.py").write_text("def application(e, s): ...\nraise RuntimeError('no database')\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--workrs", "2", "shop"], "unknown option '--workrs'; did you mean --workers?", 2),
        (["shop", "extra"], "unknown argument 'extra'; 'offload --help' lists all", 2),
        ([], "the following arguments are required: APP", 2),
        (["shop", "-w", "two"], "--workers is 'two', which is not a whole number", 2),
        (["shop", "-w", "0"], "--workers is 0, but it must be from 1 to 4096", 2),
        (["shop", "--ws-ping-interval", "often"], "--ws-ping-interval is 'often', which is not a number", 2),
        (
            ["shop", "--log-level", "loud"],
            "--log-level is 'loud'; choose one of debug, info, warning, error, critical",
            2,
        ),
        (["shop", "-b", ""], "--bind is empty; leave it out for 127.0.0.1:8000", 2),
        (["shop", "-b", "192.0.2.1"], "cannot listen at 192.0.2.1: this machine has no such address", 2),
        (["shop", "-b", "unix:"], "the address 'unix:' has no path; write unix:/run/offload.sock", 2),
        (["shop", "-b", "a..b:80"], "cannot listen at a..b:80: the host 'a..b' is not known", 2),
        (
            ["shop", "--backlog", "99999999999"],
            "--backlog is 99999999999, but it must be from 1 to 2147483647",
            2,
        ),
        (
            ["shop", "--graceful-timeout", "inf"],
            "--graceful-timeout is inf, but it must be from 0 to 2147483647",
            2,
        ),
        (
            ["shop", "--drain-timeout", "nan"],
            "--drain-timeout is nan, but it must be from 0 to 2147483647",
            2,
        ),
        (
            ["shop", "--ws-origins", "example.com,https://example.com/chat"],
            "--ws-origins has 'https://example.com/chat': an Origin has no path; write 'https://example.com'",
            2,
        ),
        (["shop", "-b", "nowhere"], "the address 'nowhere' is not HOST:PORT, unix:PATH or fd://N", 2),
        (["shop", "--chdir", "missing"], "cannot change to the directory 'missing': No such file or directory", 2),
        (
            ["shopp"],
            "cannot import 'shopp': there is no module 'shopp' in {cwd} or on the Python path; "
            "the commands are worker, send and group-send",
            3,
        ),
        (["shop:app"], "module 'shop' has no 'app'; did you mean shop:application?", 3),
        (["shop:text"], "shop:text is a str, not a WSGI callable", 3),
        (["shop:applicatoin"], "module 'shop' has no 'applicatoin'; did you mean shop:application?", 3),
        (
            ["shop", "--routing", "shop:goood"],
            "the routing is 'shop.goood', but module 'shop' has no 'goood'; did you mean "
            "'good'?",
            3,
        ),
        (
            ["shop", "--routing", "shop:not_a_list"],
            "shop.not_a_list is a int, not a list; write not_a_list = [route(...), "
            "...]",
            3,
        ),
        (
            ["shop", "--routing", "shop:not_an_entry"],
            "shop.not_an_entry[1] is 'websocket.connect', not a routing entry; write route(channel, "
            "consumer, path=...), "
            "route_class(...) or include(...)",
            3,
        ),
        (
            ["shop", "--routing", "shop:bad_channel"],
            "shop.bad_channel[0] names the unknown channel 'websocket.recieve'; did you mean "
            "'websocket.receive'?",
            3,
        ),
        (
            ["shop", "--routing", "shop:bad_filter"],
            "shop.bad_filter[0] filters path by '^/(', not a regular expression: missing ), "
            "unterminated subpattern at position 2",
            3,
        ),
        (
            ["shop", "--routing", "shop:bad_consumer"],
            "the consumer of shop.bad_consumer[0] is 'shop.helo', but module 'shop' has no 'helo'; did "
            "you mean 'hello'?",
            3,
        ),
        (
            ["shop", "--routing", "shop:bad_key"],
            "shop.bad_key[0] filters by 'pth', which no message on 'websocket.connect' carries; did you mean 'path'?",
            3,
        ),
        (
            ["chat.asgi"],
            "chat.asgi:application is an ASGI application; offload serves WSGI: did you mean chat.wsgi?",
            3,
        ),
        (
            ["nearly"],
            "module 'nearly' has routes in 'channels_routing', and no 'channel_routing'; name it that, or run with "
            "--routing nearly:channels_routing",
            3,
        ),
        (
            ["shop", "--routing", "shop:no_module"],
            "the consumer of shop.no_module[0] is 'shopp.hello', but there is no module "
            "'shopp'",
            3,
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_answered_in_one_line(project: Path, arguments: list[str], message: str, status: int) -> None:
    arguments = [*arguments, "--layer", "memory://"]
    if not {"-b", "--bind"} & set(arguments):
        arguments += ["-b", "127.0.0.1:0"]
    result = offload(*arguments, cwd=project)
    assert error_of(result) == message.format(cwd=project)
    assert result.returncode == status


def test_a_channel_that_cannot_be_is_named(project: Path) -> None:
    result = offload("shop", "-b", "127.0.0.1:0", "--layer", "memory://", "--routing", "shop:bad_name", cwd=project)
    assert error_of(result).startswith(
        "shop.bad_name[0] names a channel that cannot be: channel name 'bad name!!' must be letters"
    )
    assert result.returncode == 3


def test_a_routing_that_includes_itself_is_found(project: Path) -> None:
    result = offload("shop", "-b", "127.0.0.1:0", "--layer", "memory://", "--routing", "shop:itself", cwd=project)
    assert error_of(result) == "shop.itself is included 20 levels deep; does it include itself?"
    assert result.returncode == 3


def test_a_module_that_fails_by_itself_shows_its_traceback(project: Path) -> None:
    result = offload("failing", "-b", "127.0.0.1:0", "--layer", "memory://", "-w", "2", cwd=project)
    assert result.returncode == 3
    assert "importing 'failing' failed: RuntimeError: no database" in result.stderr
    # Once, however many processes were asked for.
    assert result.stderr.count("raise RuntimeError('no database')") == 1


def test_a_missing_dependency_of_the_application_shows_its_traceback(project: Path) -> None:
    result = offload("broken", "-b", "127.0.0.1:0", "--layer", "memory://", cwd=project)
    assert result.returncode == 3
    assert "ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in result.stderr
    assert 'broken.py", line 1' in result.stderr


def test_a_busy_port_is_named(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        result = offload("shop", "-b", address, "--layer", "memory://", cwd=project)
    assert error_of(result) == (
        f"cannot listen at {address}: the address is in use; end the program that has it, or choose another with --bind"
    )
    assert result.returncode == 2


def test_an_unreachable_redis_ends_the_start(project: Path) -> None:
    with socket.socket() as unused:
        # Bound but not listening: nobody else takes the port, and nobody answers.
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"redis://127.0.0.1:{port}/0"
        result = offload("shop", "-b", "127.0.0.1:0", "--routing", "shop:good", "--layer", url, "-w", "2", cwd=project)
    assert re.fullmatch(rf"layer 'redis' cannot reach redis://127\.0\.0\.1:{port}/0: .*refused.*", error_of(result))
    assert result.returncode != 0


def test_a_wrong_layer_address_is_explained(project: Path) -> None:
    result = offload("shop", "-b", "127.0.0.1:0", "--layer", "rediss//x", "--routing", "shop:good", cwd=project)
    assert "rediss//x" in error_of(result)
    assert result.returncode == 3


def test_environment_variables_are_checked_like_flags(project: Path) -> None:
    result = offload("shop", cwd=project, WEB_CONCURRENCY="many")
    assert error_of(result) == "WEB_CONCURRENCY is 'many', which is not a whole number"
    result = offload("shop", cwd=project, OFFLOAD_WS_QUEUE="-1")
    assert error_of(result) == "OFFLOAD_WS_QUEUE is -1, but it must be 1 or more"


def test_send_refuses_what_is_not_an_object() -> None:
    result = offload("group-send", "--layer", "memory://", "room", "[1]")
    assert error_of(result) == 'the content is a JSON list; write an object: {"text": "hello"}'
    assert result.returncode == 2


@pytest.mark.parametrize("command", ["send", "group-send"])
def test_send_refuses_what_is_nested_too_deeply(command: str) -> None:
    # As deep as one argument can be.
    result = offload(command, "--layer", "memory://", "room", "[" * 60_000 + "]" * 60_000)
    assert error_of(result) == "the content is nested too deeply"
    assert result.returncode == 2
    result = offload(command, "--layer", "memory://", "room", '{"a":' * 200 + "1" + "}" * 200)
    assert error_of(result) == "content is nested more than 100 levels deep"
    assert result.returncode == 1


def test_send_names_a_bad_group() -> None:
    result = offload("group-send", "--layer", "memory://", "bad room!", '{"text": "hello"}')
    assert "bad room!" in error_of(result)
    assert result.returncode == 2
