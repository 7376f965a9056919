"use strict";

// The name of last time, unless the visitor is quicker.
const name = document.getElementById("name");
try {
  if (!name.value) {
    name.value = localStorage.getItem("name") || "";
    name.select();
  }
} catch {
  // No storage here (a private window, perhaps): then a name is typed each time.
}
