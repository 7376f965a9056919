// Run by a browser's driver: echo text and binary messages of the sizes given, and report what happened.
// Arguments: the WebSocket's address, the sizes, and what to call at the end.
"use strict";

const [url, sizes, done] = arguments;

async function same(received, sent) {
  if (typeof sent === "string") return received === sent;
  const [left, right] = [new Uint8Array(received), new Uint8Array(sent)];
  return left.length === right.length && left.every((byte, at) => byte === right[at]);
}

function random(size) {
  const bytes = new Uint8Array(size);
  // No more than this at a time, says the standard.
  for (let at = 0; at < size; at += 65536) crypto.getRandomValues(bytes.subarray(at, at + 65536));
  return bytes.buffer;
}

const messages = sizes.flatMap((size) => [
  "a".repeat(size % 9) + "\u00e9\u20ac\u{1f600}".repeat(Math.floor(size / 9)),
  random(size),
  new Uint8Array(size).fill(97).buffer,
]);
let echoed = 0;
const socket = new WebSocket(url);
socket.binaryType = "arraybuffer";
socket.onopen = () => socket.send(messages[0]);
socket.onmessage = async (event) => {
  if (!(await same(event.data, messages[echoed]))) {
    done({ error: `message ${echoed} came back otherwise` });
    return;
  }
  echoed += 1;
  if (echoed < messages.length) socket.send(messages[echoed]);
  else socket.close(4321, "done");
};
socket.onclose = (event) => {
  const { code, wasClean } = event;
  if (echoed < messages.length) done({ error: `closed with ${code} after ${echoed} messages` });
  else done({ code, wasClean, echoed, extensions: socket.extensions });
};
