// The caller's token. It is kept in the tab's session storage until the tab is closed, and sent only to the API, in the
// Authorization header.

import { h } from "./dom.js";

const KEY = "respond-async.token";

export const token = () => sessionStorage.getItem(KEY);

export function forget() {
  sessionStorage.removeItem(KEY);
}

let asking = null;
let declined = false;

/** Whether the user declined to sign in. The page does not ask again by itself. */
export const isDeclined = () => declined;

/** Asks for a token. Concurrent requests that need one share one dialog. */
export function askForToken({ again = false } = {}) {
  if (declined && !again) return Promise.resolve(false);
  asking ??= ask().finally(() => (asking = null));
  return asking;
}

function ask() {
  return new Promise((resolve) => {
    const input = h("input", { name: "token", type: "password", required: true, autocomplete: "off", id: "token-input" });
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "token-title" }, "Sign in"),
      h("p", {}, "The task API asks who you are. Give its bearer token; it stays in this tab until you close it."),
      h("label", { for: "token-input" }, token() ? "Token (the last one was not accepted)" : "Token"),
      input,
      h("footer", {}, h("button", { value: "", formnovalidate: true }, "Not now"), h("button", { value: "ok", class: "main" }, "Sign in")),
    );
    const dialog = h("dialog", { "aria-labelledby": "token-title" }, form);
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "ok" ? input.value.trim() : "";
      dialog.remove();
      if (given) sessionStorage.setItem(KEY, given);
      declined = !given;
      resolve(Boolean(given));
    });
    document.body.append(dialog);
    dialog.showModal();
    // Enter would press the form's first button, "Not now".
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      if (form.reportValidity()) dialog.close("ok");
    });
  });
}
