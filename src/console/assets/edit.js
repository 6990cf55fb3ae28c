// Runs a task again with an edited request.

import { change, get, taskPath } from "./api.js";
import { h } from "./dom.js";

/** Parses header lines into pairs. */
export function parseHeaders(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  return lines.map((line) => {
    const colon = line.indexOf(":");
    if (colon < 1) throw new Error(`"${line.trim()}" is no header: write name: value`);
    return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
  });
}

export const printHeaders = (headers) => headers.map(([name, value]) => `${name}: ${value}`).join("\n");

/** Shows the request in an editor, and sends the edits. Returns whether they were sent. */
export async function editAndRetry(id, { signal }) {
  const request = await get(taskPath(id, "/request"), { signal });
  const uri = h("input", { id: "edit-uri", class: "mono", value: request.uri, spellcheck: "false" });
  const headers = h("textarea", { id: "edit-headers", class: "code", rows: 6, spellcheck: "false", value: printHeaders(request.headers) });
  const body = h("textarea", { id: "edit-body", class: "code", rows: 10, spellcheck: "false", value: request.body });
  if (request.truncated) body.disabled = true;
  const error = h("p", { class: "error", role: "alert" });
  const encoding = request.bodyEncoding === "base64" ? " (base64)" : "";

  return new Promise((resolve) => {
    const send = h("button", { class: "main", type: "submit" }, "Run again");
    const form = h(
      "form",
      {},
      h("h2", { id: "edit-title" }, `${request.method}: edit and run again`),
      h("label", { for: "edit-uri" }, "Path and query"),
      uri,
      h("label", { for: "edit-headers" }, "Headers, one a line; what reads REDACTED keeps its stored value"),
      headers,
      h("label", { for: "edit-body" }, `Body${encoding}${request.truncated ? ": too long to edit here" : ""}`),
      body,
      error,
      h("footer", {}, h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), send),
    );
    const dialog = h("dialog", { class: "wide", "aria-labelledby": "edit-title" }, form);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      send.disabled = true;
      try {
        await change("POST", taskPath(id, "/retry"), { json: edits() });
        dialog.close("sent");
      } catch (failed) {
        error.textContent = failed.message;
        send.disabled = false;
      }
    });
    function edits() {
      const changed = {};
      if (uri.value !== request.uri) changed.uri = uri.value;
      if (headers.value !== printHeaders(request.headers)) changed.headers = parseHeaders(headers.value);
      if (body.value !== request.body) Object.assign(changed, { body: body.value, bodyEncoding: request.bodyEncoding });
      return changed;
    }
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "sent");
    });
    document.body.append(dialog);
    dialog.showModal();
    uri.focus();
  });
}
