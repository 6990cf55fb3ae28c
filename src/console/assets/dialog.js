// Asking before something is changed for good.

import { h } from "./dom.js";

/** Asks; `expected`, where given, is what the reader must type, so that a thousand tasks are not deleted by accident. */
export function confirm({ title, text, action, danger = false, expected }) {
  return new Promise((resolve) => {
    const ok = h("button", { value: "ok", class: danger ? "danger" : "main" }, action);
    const input = expected !== undefined && h("input", { id: "confirm-input", autocomplete: "off", inputmode: "numeric" });
    if (input) {
      ok.disabled = true;
      input.addEventListener("input", () => (ok.disabled = input.value.trim() !== String(expected)));
    }
    // First in the document, so that Enter means the careful answer only where it is focused.
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
