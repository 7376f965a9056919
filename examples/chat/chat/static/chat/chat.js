"use strict";

// The room's page. A message is JSON text, {"name": ..., "text": ...}; any other text is shown as a notice.
// Everything that others wrote goes into the page as text, never as HTML.

const SHOWN_AT_MOST = 500;
const FIRST_WAIT = 500; // milliseconds; doubled at each failure
const LONGEST_WAIT = 30000;

const byId = (id) => document.getElementById(id);
const state = byId("state");
const log = byId("log");
const messages = byId("messages");
const latest = byId("latest");
const retry = byId("retry");
const nameField = byId("name");
const textField = byId("text");
const title = document.title;
// Tells one's own messages from those of others who chose the same name.
const own = Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");

let socket = null;
let timer = null;
let countdown = null;
let failures = 0;
let wasConnected = false;
let unread = 0;
// What was written while there was no connection, each with its line in the page.
const outbox = [];

// Connection

function connect() {
  stopWaiting();
  show("connecting", wasConnected ? "Reconnecting…" : "Connecting…");
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const attempt = new WebSocket(`${scheme}//${location.host}${location.pathname}`);
  let greeted = false;
  socket = attempt;
  attempt.onopen = () => {
    show("open", "Connected");
    if (wasConnected) {
      append({ notice: true, text: "Connected again. What was said in between is not shown." });
    }
    wasConnected = true;
    for (const { text, item } of outbox.splice(0)) {
      item.remove(); // it comes back from the room, as everybody sees it
      say(text);
    }
  };
  attempt.onmessage = ({ data }) => {
    if (typeof data !== "string") {
      return;
    }
    const message = read(data);
    if (!greeted) {
      // The server's greeting comes before anything that others can send.
      greeted = true;
      failures = 0;
      if (Number.isInteger(message.process)) {
        showProcess(message.process, message.of);
        return;
      }
    }
    append(message);
  };
  attempt.onclose = () => {
    if (attempt === socket) {
      lost();
    }
  };
}

function lost() {
  socket = null;
  showProcess("–", 0);
  // Not all at the same moment: after a restart of the server every page comes back.
  const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures++) * (0.5 + Math.random() / 2);
  const due = performance.now() + wait;
  const count = () => {
    const seconds = Math.max(1, Math.ceil((due - performance.now()) / 1000));
    show("waiting", navigator.onLine ? `Disconnected; trying again in ${seconds} s` : "Offline; what you send waits");
  };
  count();
  countdown = setInterval(count, 1000);
  timer = setTimeout(connect, wait);
}

function stopWaiting() {
  clearTimeout(timer);
  clearInterval(countdown);
  timer = countdown = null;
}

function showProcess(number, of) {
  byId("process").value = number;
  byId("of").textContent = of > 1 ? `, one of ${of}` : "";
  const victim = byId("victim");
  if (victim !== null) {
    victim.value = number;
  }
}

function connectNow() {
  if (timer !== null) {
    connect();
  }
}

function show(name, words) {
  state.dataset.state = name;
  state.textContent = words;
  retry.hidden = name !== "waiting";
}

retry.addEventListener("click", () => {
  connectNow();
  textField.focus();
});
addEventListener("online", connectNow);
addEventListener("offline", () => {
  // The browser itself would notice much later.
  const dropped = socket;
  if (dropped !== null) {
    lost();
    dropped.close();
  }
});

// Messages

function read(data) {
  try {
    const message = JSON.parse(data);
    if (message !== null && typeof message === "object" && ("text" in message || "process" in message)) {
      return {
        process: message.process,
        of: message.of,
        name: String(message.name ?? "").trim().slice(0, 80),
        text: String(message.text ?? ""),
        mine: message.from === own,
        notice: !message.name,
      };
    }
  } catch {
    // Plain text, then.
  }
  return { notice: true, text: data };
}

function append({ name = "", text, mine = false, notice = false, waiting = false }) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const item = document.createElement("li");
  item.className = notice ? "notice" : mine ? "mine" : "theirs";
  item.classList.toggle("waiting", waiting);
  if (!notice) {
    const label = document.createElement("b");
    label.textContent = name;
    label.style.setProperty("--hue", hue(name));
    const previous = messages.lastElementChild;
    if (previous !== null && previous.className === item.className && previous.dataset.name === name) {
      label.className = "hidden"; // seen above already, but still read out
    }
    item.dataset.name = name;
    item.append(label);
  }
  const words = document.createElement("p");
  words.textContent = text;
  const now = new Date();
  const time = document.createElement("time");
  time.dateTime = now.toISOString();
  time.textContent = waiting
    ? "waits for the connection"
    : now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  item.append(words, time);
  messages.append(item);
  while (messages.childElementCount > SHOWN_AT_MOST) {
    messages.firstElementChild.remove();
  }
  if (atEnd || mine) {
    toEnd();
  } else {
    latest.hidden = false;
  }
  if (document.hidden) {
    unread += 1;
    document.title = `(${unread}) ${title}`;
  }
  return item;
}

function hue(name) {
  let sum = 0;
  for (const character of name) {
    sum = (sum * 31 + character.codePointAt(0)) % 360;
  }
  return sum;
}

function toEnd() {
  log.scrollTop = log.scrollHeight;
  latest.hidden = true;
}

latest.addEventListener("click", toEnd);
log.addEventListener("scroll", () => {
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 60) {
    latest.hidden = true;
  }
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    unread = 0;
    document.title = title;
    connectNow();
  }
});

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = textField.value.trim();
  if (text === "") {
    textField.focus();
    return;
  }
  if (socket === null || socket.readyState !== WebSocket.OPEN) {
    outbox.push({ text, item: append({ name: author(), text, mine: true, waiting: true }) });
    connectNow();
  } else {
    say(text);
  }
  textField.value = "";
  textField.focus();
});

function author() {
  return nameField.value.trim() || nameField.placeholder;
}

function say(text) {
  socket.send(JSON.stringify({ name: author(), text, from: own }));
}

// The tour of the demonstration: open where there is room beside the messages

const tour = byId("tour");
if (tour !== null) {
  tour.open = matchMedia("(min-width: 72rem)").matches;
}

for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", async () => {
    const source = byId(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source); // no clipboard here: selected, for Ctrl-C
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}

// Name: from the door's form, else what this window had, else what the visitor chose last.

function remembered(store, value) {
  try {
    if (value !== undefined) {
      store().setItem("name", value);
    }
    return store().getItem("name") || "";
  } catch {
    return ""; // no storage here
  }
}

const thisWindow = () => sessionStorage;
const anyWindow = () => localStorage;
const given = new URLSearchParams(location.search).get("name");
nameField.placeholder = `Guest ${100 + Math.floor(Math.random() * 900)}`;
nameField.value = (given || remembered(thisWindow) || remembered(anyWindow)).slice(0, nameField.maxLength);
function keepName() {
  remembered(thisWindow, nameField.value.trim());
  remembered(anyWindow, nameField.value.trim());
}
nameField.addEventListener("change", keepName);
if (given !== null) {
  keepName();
  history.replaceState(null, "", location.pathname); // an address to share, without one's name
}

connect();
