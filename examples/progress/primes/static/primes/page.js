"use strict";

// What the visitor's latest task is at, as the server tells it: first what is known at connecting, then the worker's
// news. The forms are plain ones: starting and cancelling load the page anew.

const FIRST_WAIT = 500; // milliseconds; doubled at each failure
const LONGEST_WAIT = 30000;

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

let shown = { task: null, state: "none" };
let socket = null;
let timer = null;
let countdown = null;
let failures = 0;

// Connection

function connect() {
  clearTimeout(timer);
  clearInterval(countdown);
  timer = countdown = null;
  tell("connecting", "Connecting…");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const attempt = new WebSocket(`${scheme}//${location.host}${location.pathname}`);
  socket = attempt;
  attempt.onmessage = ({ data }) => {
    failures = 0;
    document.body.dataset.connected = "";
    tell("open", "Connected");
    const status = JSON.parse(data);
    if (isNews(status)) {
      shown = status;
    }
    show();
  };
  attempt.onclose = () => {
    if (attempt === socket) {
      lost();
    }
  };
}

function lost() {
  socket = null;
  delete document.body.dataset.connected;
  // Not all at the same moment: after a restart of the server every page comes back.
  const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures++) * (0.5 + Math.random() / 2);
  const due = performance.now() + wait;
  const count = () => {
    const seconds = Math.max(1, Math.ceil((due - performance.now()) / 1000));
    tell("waiting", navigator.onLine ? `Disconnected; trying again in ${seconds} s` : "Offline");
  };
  count();
  countdown = setInterval(count, 1000);
  timer = setTimeout(connect, wait);
}

function tell(name, words) {
  byId("connection").dataset.state = name;
  byId("connection").textContent = words;
}

function connectNow() {
  if (timer !== null) {
    connect();
  }
}

addEventListener("online", connectNow);
addEventListener("pageshow", connectNow);
addEventListener("offline", () => {
  // The browser itself would notice much later.
  const dropped = socket;
  if (dropped !== null) {
    lost();
    dropped.close();
  }
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    connectNow();
  }
});

// Status

const isOver = ({ state }) => state !== "waiting" && state !== "running";

// What is known at connecting may have been looked up before news that came first.
function isNews(status) {
  if (status.task === null || shown.task === null || status.begun > shown.begun) {
    return true;
  }
  if (status.task !== shown.task || isOver(shown)) {
    return false;
  }
  return isOver(status) || status.done >= shown.done;
}

const WORDS = {
  none: () => "No task yet.",
  waiting: ({ limit }) => `Waiting for a worker to count the primes below ${number(limit)}…`,
  running: ({ limit }) => `Counting the primes below ${number(limit)}…`,
  done: ({ found, limit }) => `There are ${number(found)} primes below ${number(limit)}.`,
  cancelled: () => "Cancelled.",
  failed: () => "The worker failed; its log says why.",
};

function show() {
  const words = WORDS[shown.state](shown);
  if (byId("state").textContent !== words) {
    byId("state").textContent = words; // read out, so only what is new
  }
  document.body.dataset.state = shown.state;
  byId("work").hidden = shown.state === "none" || shown.state === "cancelled" || shown.state === "failed";
  byId("cancel").hidden = isOver(shown);
  byId("start").hidden = !isOver(shown);
  if (!byId("work").hidden) {
    const percent = Math.floor((100 * shown.done) / shown.parts);
    byId("bar").value = percent;
    byId("percent").textContent = `${percent} %`;
    byId("found").textContent = shown.found ? `${number(shown.found)} found` : "";
    document.title = isOver(shown) ? "Primes counted" : `${percent} % · Counting primes`;
  }
}

connect();
