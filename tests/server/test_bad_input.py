"""What a wrong command line or project is answered with: one clear line, a status that is not 0, nothing running."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offload.consumers import configuration
from offload.exceptions import ConfigurationError
from offload.server.application import load_application
from offload.server.check import Check
from offload.server.sockets import listen
from offload.settings import ListenOptions
from offload.settings.reading import Reader

LARGE = "99999999999999999999"
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
        "def make_site(name='x'): return None if name == 'none' else application\n"
        "text = 'not callable'\n"
        "number = 1\n"
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


def problem(app: str, *flags: str) -> str:
    """What is wrong with a project, as its server's boot and ``offload check`` tell it."""
    (found,) = Check(Reader([app, "--layer", "memory://", *flags], {}).read().settings).problems
    return found


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The project, importable in this process for the length of a test."""
    monkeypatch.chdir(project)
    monkeypatch.syspath_prepend(str(project))
    yield project
    configuration.reset()
    for name in ("shop", "broken", "failing", "chat", "chat.asgi", "chat.wsgi", "nearly"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("app", "message"),
    [
        (
            "shopp",
            "cannot import 'shopp': there is no module 'shopp' in {here} or on the Python path; "
            "the commands are worker, send, group-send, check and settings",
        ),
        (
            "shop.settings:app",
            "cannot import 'shop.settings': there is no module 'shop.settings' in {here} or on the Python path",
        ),
        ("shop:app", "module 'shop' has no 'app'; did you mean shop:application?"),
        ("shop:applicatoin", "module 'shop' has no 'applicatoin'; did you mean shop:application?"),
        ("shop:number.foo", "module 'shop' has no 'number.foo'; name yours as shop:NAME"),
        ("shop:text", "shop:text is a str, not a WSGI callable"),
        ("shop:text()", "shop:text is a str, not a WSGI callable"),
        ("shop:mak_site()", "module 'shop' has no 'mak_site'; did you mean shop:make_site?"),
        ("shop:make_site(q=1)", "'shop:make_site(q=1)' cannot be called so: got an unexpected keyword argument 'q'"),
        (
            "shop:make_site(name)",
            "'shop:make_site(name)' is a call with arguments other than literals, such as 'text' or 1",
        ),
        ("shop:make_site('none')", "\"shop:make_site('none')\" made a NoneType, not a WSGI callable"),
        (
            "chat.asgi",
            "chat.asgi:application is an ASGI application; offload serves WSGI: did you mean chat.wsgi?",
        ),
        (
            "nearly",
            "module 'nearly' has routes in 'channels_routing', and no 'channel_routing'; name it that, or run with "
            "--routing nearly:channels_routing",
        ),
        ("shop:1+1", "'shop:1+1' is not MODULE:NAME, or a call as in MODULE:NAME('text', key=1)"),
        ("shop:make_site(", "'shop:make_site(' is not MODULE:NAME, or a call as in MODULE:NAME('text', key=1)"),
    ],
)  # fmt: skip
def test_application_that_is_none(here: Path, app: str, message: str) -> None:
    assert problem(app) == message.replace("{here}", str(here))


@pytest.mark.parametrize("app", ["shop", "shop:make_site()", "shop:make_site('x')", "shop:make_site(name='x')"])
def test_application_may_be_made_by_a_call(here: Path, app: str) -> None:
    module, application = load_application(app)
    assert application is module.application


@pytest.mark.parametrize(
    ("routing", "message"),
    [
        ("goood", "the routing is 'shop.goood', but module 'shop' has no 'goood'; did you mean 'good'?"),
        ("not_a_list", "shop.not_a_list is a int, not a list; write not_a_list = [route(...), ...]"),
        (
            "not_an_entry",
            "shop.not_an_entry[1] is 'websocket.connect', not a routing entry; write route(channel, "
            "consumer, path=...), route_class(...) or include(...)",
        ),
        (
            "bad_channel",
            "shop.bad_channel[0] names the unknown channel 'websocket.recieve'; did you mean 'websocket.receive'?",
        ),
        (
            "bad_filter",
            "shop.bad_filter[0] filters path by '^/(', not a regular expression: missing ), "
            "unterminated subpattern at position 2",
        ),
        (
            "bad_consumer",
            "the consumer of shop.bad_consumer[0] is 'shop.helo', but module 'shop' has no 'helo'; did "
            "you mean 'hello'?",
        ),
        (
            "bad_key",
            "shop.bad_key[0] filters by 'pth', which no message on 'websocket.connect' carries; did you mean 'path'?",
        ),
        ("no_module", "the consumer of shop.no_module[0] is 'shopp.hello', but there is no module 'shopp'"),
        ("itself", "shop.itself is included 20 levels deep; does it include itself?"),
        ("bad_name", "shop.bad_name[0] names a channel that cannot be: channel name 'bad name!!' must be letters, "),
    ],
)
def test_routing_that_is_none(here: Path, routing: str, message: str) -> None:
    found = problem("shop", "--routing", f"shop:{routing}")
    assert found.startswith(message) if message.endswith(" ") else found == message


def test_layer_that_is_none(here: Path) -> None:
    (found,) = Check(Reader(["shop", "--layer", "rediss//x", "--routing", "shop:good"], {}).read().settings).problems
    assert "rediss//x" in found


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("192.0.2.1", "cannot listen at 192.0.2.1: this machine has no such address"),
        ("unix:", "the address 'unix:' has no path; write unix:/run/offload.sock"),
        ("a..b:80", "cannot listen at a..b:80: the host 'a..b' is not known"),
        ("nowhere", "the address 'nowhere' is not HOST:PORT, unix:PATH or fd://N"),
        ("127.0.0.1:65536", "the port of the address '127.0.0.1:65536' must be from 0 to 65535"),
        (f"fd://{LARGE}", f"cannot listen at fd://{LARGE}: Bad file descriptor"),
        ("fd://\u00b2", "the address 'fd://\u00b2' is not fd://N with a number"),
    ],
)
def test_address_that_is_none(address: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        listen(address, ListenOptions())
    assert str(refused.value) == message


def test_two_servers_may_have_one_port_if_both_say_so() -> None:
    options = ListenOptions(reuse_port=True)
    first, _ = listen("127.0.0.1:0", options)
    with first:
        address = f"127.0.0.1:{first.getsockname()[1]}"
        second, _ = listen(address, options)
        second.close()
        with pytest.raises(ConfigurationError, match="the address is in use"):
            listen(address, ListenOptions())


def test_module_that_fails_by_itself_is_told_with_its_traceback(here: Path) -> None:
    assert "RuntimeError: no database\nTraceback" in problem("failing")
    assert "ModuleNotFoundError: No module named 'a_module_that_is_not_there'" in problem("broken")


@pytest.mark.parametrize("query", ["", "?encryption_keys=aaaaaaaaaaaaaaaaaaaaaaaa"], ids=["plain", "sealed"])
def test_largest_message_over_what_the_layer_carries_is_named_by_its_option(here: Path, query: str) -> None:
    most = 67043328 if not query else 67043328 // 4 * 3 - 1024
    flags = ["shop", "--layer", f"ipc:///tmp/none/hub.sock{query}", "--routing", "shop:good", "--ws-max-size"]
    assert Check(Reader([*flags, str(most)], {}).read().settings).problems == []
    (found,) = Check(Reader([*flags, str(most + 1)], {}).read().settings).problems
    assert found == (
        f"--ws-max-size {most + 1} is over the {most} bytes that the layer ipc:///tmp/none/hub.sock carries;"
        " lower it, or choose another --layer"
    )


# As processes: a refusal of the boot, one of the supervisor, one of the layer.


def test_wrong_application_ends_the_start(project: Path) -> None:
    result = offload("shop:app", "-b", "127.0.0.1:0", "--layer", "memory://", cwd=project)
    assert error_of(result) == "module 'shop' has no 'app'; did you mean shop:application?"
    assert result.returncode == 3


def test_a_module_that_fails_by_itself_shows_its_traceback(project: Path) -> None:
    result = offload("failing", "-b", "127.0.0.1:0", "--layer", "memory://", "-w", "2", cwd=project)
    assert result.returncode == 3
    assert "importing 'failing' failed: RuntimeError: no database" in result.stderr
    # Once, however many processes were asked for.
    assert result.stderr.count("raise RuntimeError('no database')") == 1


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
