"""What a user reads, or does not, because of an option."""

from __future__ import annotations

import pytest

from tests.serving import Server, serving

ECHO = "examples.echo.app"
WARNING = (
    "[WARNING] the layer 'default' is each process's own memory, so groups do not span the 2 processes; use ipc:\n"
)


def test_the_memory_layer_warns_of_several_processes() -> None:
    with serving(ECHO, "--layer", "memory://", workers=2) as server:
        # Each process says it of itself, before it is ready.
        assert server.log.count(WARNING) == 2


@pytest.mark.parametrize(("layer", "workers"), [("memory://", 1), ("ipc:", 2)])
def test_other_servers_do_not_warn_of_their_layer(layer: str, workers: int) -> None:
    with serving(ECHO, "--layer", layer, workers=workers) as server:
        assert "own memory" not in server.log


def test_a_host_without_a_port_listens_at_8000() -> None:
    # An address of this machine that nothing else is likely to use.
    server = Server(ECHO, "-b", "127.8.0.1")
    try:
        server.wait_for(rf"offload \S+ runs {ECHO} at http://127\.8\.0\.1:8000, supervisor \d+")
        assert (server.host, server.port) == ("127.8.0.1", 8000)
    finally:
        assert server.stop() == 0
