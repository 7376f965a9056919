"""What a hub says when it ends: how much that somebody may miss is lost with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.layers.hubs import HubProcess
from tests.layers.talkers import APP
from tests.serving import DEADLINE, ROOT, serving


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path / "run" / "hub.sock"


@pytest.fixture
def hub(path: Path) -> Iterator[HubProcess]:
    found = HubProcess(path, life=True).started()
    yield found
    found.close()


def end(hub: HubProcess) -> str:
    """End it as its supervisor does; what it logs from then on."""
    assert hub.life is not None
    hub.life.close()
    hub.wait_for("hub: ended")
    assert hub.process.wait(10) == 0
    return "\n".join(hub.log)


def test_hub_that_ends_counts_what_is_lost_while_another_takes_over(hub: HubProcess, path: Path) -> None:
    other = HubProcess(path)
    try:
        other.wait_for("standing by")
        with hub.using() as layer, hub.using(prefix="images:") as images:
            for number in range(3):
                layer.send("job", {"n": number})
            images.send("resize", {"n": 0})
            layer.session_save("key", {"room": "lobby"}, 60)
            assert (
                "WARNING hub: 4 messages that waited in queues, and 1 sessions, are lost with this hub; "
                "2 clients remain, for whom another may take over"
            ) in end(hub)
            other.wait_for("hub: serving")
            assert layer.receive(["job"], timeout=0) is None
    finally:
        other.close()


def test_hub_that_ends_with_messages_that_nobody_waits_for_counts_them(hub: HubProcess) -> None:
    with hub.using() as layer:
        layer.send("job", {"n": 1})
    with hub.using() as layer:
        # The hub has seen the first one leave.
        while layer.hub_statistics()["clients"] > 1:
            pass
    assert "hub: 1 messages that waited in queues, and 0 sessions, are lost" in end(hub)


def test_hub_that_loses_nothing_says_nothing(hub: HubProcess) -> None:
    with hub.using() as layer:
        layer.send("job", {"n": 1})
        assert layer.receive(["job"], timeout=5) is not None
        assert "lost" not in end(hub)


@pytest.mark.parametrize(
    "numbers", [[signal.SIGQUIT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGINT, signal.SIGQUIT]], ids=str
)
def test_hub_of_a_server_that_is_stopped_at_once_leaves_no_socket(tmp_path: Path, numbers: list[int]) -> None:
    (tmp_path / "talk.py").write_text(APP)
    with serving("talk", "--layer", "ipc:", cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as server:
        runtime = Path(server.environ["OFFLOAD_RUNTIME_DIR"])
        assert len(list(runtime.glob("*.sock"))) == 1
        for number in numbers:
            server.signal(number)
        server.process.wait(DEADLINE)
        assert list(runtime.glob("*.sock")) == []
