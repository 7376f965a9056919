// Echo text and binary messages of the sizes given, over one WebSocket, and print what was agreed.
// Usage: node echo.js URL compressed|plain SIZE...
"use strict";

const assert = require("node:assert");
const crypto = require("node:crypto");
const { once } = require("node:events");
const WebSocket = require("ws");

const [url, mode, ...sizes] = process.argv.slice(2);

async function main() {
  const socket = new WebSocket(url, { perMessageDeflate: mode === "compressed", maxPayload: 0 });
  await once(socket, "open");
  for (const size of sizes.map(Number)) {
    const text = "a".repeat(size % 9) + "\u00e9\u20ac\u{1f600}".repeat(Math.floor(size / 9));
    for (const message of [text, crypto.randomBytes(size), Buffer.alloc(size, "abc")]) {
      socket.send(message);
      const [data, isBinary] = await once(socket, "message");
      assert.strictEqual(isBinary, Buffer.isBuffer(message));
      assert.ok(data.equals(Buffer.from(message)), `a message of ${size} bytes came back otherwise`);
    }
  }
  socket.ping("beat");
  const [payload] = await once(socket, "pong");
  assert.strictEqual(payload.toString(), "beat");
  const extensions = socket.extensions;
  socket.close(4321, "done");
  const [code, reason] = await once(socket, "close");
  console.log(JSON.stringify({ extensions, code, reason: reason.toString() }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
