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
let failures = 0;
let wasConnected = false;
let unread = 0;

// Connection

function connect() {
  clearTimeout(timer);
  timer = null;
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
        byId("process").value = message.process;
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
  byId("process").value = "–";
  // Not all at the same moment: after a restart of the server every page comes back.
  const wait = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures++) * (0.5 + Math.random() / 2);
  show("waiting", navigator.onLine ? `Disconnected; trying again in ${Math.ceil(wait / 1000)} s` : "Offline");
  timer = setTimeout(connect, wait);
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

function append({ name = "", text, mine = false, notice = false }) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const item = document.createElement("li");
  item.className = notice ? "notice" : mine ? "mine" : "theirs";
  if (!notice) {
    const author = document.createElement("b");
    author.textContent = name;
    author.style.setProperty("--hue", hue(name));
    const previous = messages.lastElementChild;
    if (previous !== null && previous.className === item.className && previous.dataset.name === name) {
      author.className = "hidden"; // seen above already, but still read out
    }
    item.dataset.name = name;
    item.append(author);
  }
  const words = document.createElement("p");
  words.textContent = text;
  const now = new Date();
  const time = document.createElement("time");
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
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
    show(state.dataset.state, "Not connected; your message waits in its field");
    connectNow();
    return;
  }
  socket.send(JSON.stringify({ name: nameField.value.trim() || nameField.placeholder, text, from: own }));
  textField.value = "";
  textField.focus();
});

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
