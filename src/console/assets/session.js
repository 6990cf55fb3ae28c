// The caller's token. It lives in this tab's session storage, goes out in the Authorization header to the API and nowhere
// else, and is gone with the tab.

import { h } from "./dom.js";

const KEY = "respond-async.token";

export const token = () => sessionStorage.getItem(KEY);

export function forget() {
  sessionStorage.removeItem(KEY);
}

let asking = null;
let declined = false;

/** Whether the reader would not sign in: they are not asked again until they ask for it. */
export const isDeclined = () => declined;

/** Asks for a token. Many requests may find out at once that one is needed: they share one question. */
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
    // Enter presses the first button of a form, which would be the wrong one here.
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      if (form.reportValidity()) dialog.close("ok");
    });
  });
}
