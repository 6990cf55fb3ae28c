// Keyboard shortcuts, and a dialog that lists them.

import { h } from "./dom.js";
import { go } from "./route.js";

const PLACES = { o: ["#/", "Overview"], t: ["#/tasks", "Tasks"], i: ["#/invoke", "Invoke"], s: ["#/settings", "Settings"] };

let prefix = false;

/** Installs the shortcuts. */
export function listen() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.closest("input:not([type=checkbox]), textarea, select");
    if (typing) {
      if (event.key === "Escape") typing.blur();
      return;
    }
    if (prefix && PLACES[event.key]) {
      event.preventDefault();
      go(PLACES[event.key][0]);
    } else if (event.key === "/") {
      event.preventDefault();
      (document.querySelector("#main [data-find]") ?? document.querySelector("#find input")).focus();
    } else if (event.key === "?") {
      event.preventDefault();
      showHelp();
    } else if (event.key === "j" || event.key === "k") {
      step(event.key === "j" ? 1 : -1);
    }
    prefix = event.key === "g" && !prefix;
  });
}

/** Moves from row to row of a list. */
function step(by) {
  const rows = [...document.querySelectorAll("#main [data-row]")];
  const at = rows.findIndex((row) => row.contains(document.activeElement));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  next?.querySelector("a").focus();
}

export function showHelp() {
  const keys = [
    ["/", "search"],
    ["j  k", "next and previous row"],
    ["Enter", "open the row"],
    ...Object.entries(PLACES).map(([key, [, name]]) => [`g  ${key}`, name]),
    ["Esc", "leave a field, close a dialog"],
    ["?", "this list"],
  ];
  const rows = keys.map(([key, what]) => [
    h("dt", {}, key.split("  ").map((part) => h("kbd", {}, part))),
    h("dd", {}, what),
  ]);
  const dialog = h(
    "dialog",
    { "aria-labelledby": "keys-title", class: "keys" },
    h("form", { method: "dialog" }, h("h2", { id: "keys-title" }, "Keyboard"), h("dl", {}, rows), h("footer", {}, h("button", {}, "Close"))),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
