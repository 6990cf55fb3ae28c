// Confirmation of a change.

import { h } from "./dom.js";

/** Asks for confirmation. If `expected` is given, the user must type it, so that no mass change is an accident. */
export function confirm({ title, text, action, danger = false, expected }) {
  return new Promise((resolve) => {
    const ok = h("button", { value: "ok", class: danger ? "danger" : "main" }, action);
    const input = expected !== undefined && h("input", { id: "confirm-input", autocomplete: "off", inputmode: "numeric" });
    if (input) {
      ok.disabled = true;
      input.addEventListener("input", () => (ok.disabled = input.value.trim() !== String(expected)));
    }
    // Cancel comes first in the form and is no submit button: Enter never cancels unless Cancel is focused.
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "confirm-title" }, title),
      h("p", {}, text),
      input && h("p", { class: "row" }, h("label", { for: "confirm-input" }, "Type ", h("b", {}, String(expected)), " to confirm"), input),
      h("footer", {}, h("button", { value: "", type: "button", onclick: () => dialog.close("") }, "Cancel"), ok),
    );
    const dialog = h("dialog", { "aria-labelledby": "confirm-title" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "ok");
    });
    document.body.append(dialog);
    dialog.showModal();
    (input || ok).focus();
  });
}
