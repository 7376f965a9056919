"""A TCP server that is far away: passes bytes on to a port of 127.0.0.1, later.

python -m benchmarks.harness.far PORT TARGET_PORT SECONDS      (so long each way)
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from functools import partial


async def _delay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what comes, in order, each piece so long after it came; then the end."""
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def pass_on() -> None:
        while True:
            due, data = await pieces.get()
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not data:
                writer.close()
                return
            writer.write(data)

    passing = asyncio.create_task(pass_on())
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            pieces.put_nowait((loop.time() + seconds, data))
    pieces.put_nowait((loop.time() + seconds, b""))
    await passing


async def _accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int, seconds: float) -> None:
    there, back = await asyncio.open_connection("127.0.0.1", target)
    await asyncio.gather(_delay(reader, back, seconds), _delay(there, writer, seconds))


async def main(port: int, target: int, seconds: float) -> None:
    """Serve until somebody ends this process."""
    server = await asyncio.start_server(partial(_accepted, target=target, seconds=seconds), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
