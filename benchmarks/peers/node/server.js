// Node `ws`, with `ioredis` for the room: `node server.js PORT [REDIS_PORT]`.
// /echo answers each message; /room publishes it, and every process sends what arrives to its members.
"use strict";

const http = require("http");
const Redis = require("ioredis");
const { WebSocketServer } = require("ws");

const [port, redisPort] = process.argv.slice(2).map(Number);
const channel = "room";
const members = new Set();

function say(payload) {
  for (const member of members) member.send(payload, { binary: false });
}

async function serve() {
  let publisher = null;
  if (redisPort) {
    publisher = new Redis(redisPort, "127.0.0.1");
    const subscriber = new Redis(redisPort, "127.0.0.1");
    subscriber.on("messageBuffer", (_channel, payload) => say(payload));
    await subscriber.subscribe(channel);
  }

  const server = http.createServer((request, response) => {
    response.writeHead(200, { "Content-Type": "text/plain", "Content-Length": 13 });
    response.end("Hello, world!");
  });
  const sockets = new WebSocketServer({ server, perMessageDeflate: false });
  sockets.on("connection", (socket, request) => {
    // As our server and Channels do, keep what the connection asked for.
    socket.path = request.url;
    socket.headers = request.headers;
    socket.on("error", () => {});
    if (request.url === "/room") {
      members.add(socket);
      socket.on("close", () => members.delete(socket));
      socket.on("message", (data) => publisher.publish(channel, data));
    } else {
      socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
    }
  });
  server.listen({ port, host: "127.0.0.1", backlog: 2048 });
}

serve();
