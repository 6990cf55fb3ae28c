// The settings in force, read-only: the application's code sets them.

import { apiUrl, inForce } from "./api.js";
import { card, h, put } from "./dom.js";
import { bytes, count, duration } from "./format.js";
import { forget, token } from "./session.js";

const SURVIVES = {
  process: "a panic in a handler, not the end of the process",
  restart: "the end of the process; a crash of the store's server may lose the last moments",
  host: "the end of the process and a power cut",
  cluster: "the loss of a machine",
};

export async function settings(root) {
  const { accept, run, keep, api, process, access, version } = await inForce();
  const waits = run.retryWaitsMs.map((wait) => duration(wait).replaceAll(" ", "\u00a0")).join(", ");
  put(
    root,
    h("h1", { class: "hidden" }, "Settings"),
    h(
      "div",
      { class: "groups" },
      group("Accepted", [
        ["Requested by", accept.dialects.map((name) => h("code", {}, name === "fc" ? "X-Fc-Invocation-Type: Async" : name === "prefer" ? "Prefer: respond-async" : name)), "dialects"],
        ["Longest body", bytes(accept.bodyLimit), "body_limit"],
        ["Time for a body", `${duration(accept.bodyTimeoutMs)}, never still for ${duration(accept.bodyIdleTimeoutMs)}`, "body_timeout, body_idle_timeout"],
        ["Tasks that may wait", count(accept.queueDepth), "queue_depth"],
        accept.tenantQueueDepth !== undefined && ["Of one tenant", count(accept.tenantQueueDepth), "tenant_queue_depth"],
        ["A key is remembered", duration(accept.dedupWindowMs), "dedup_window"],
        ["Longest wait for an answer", duration(accept.waitCapMs), "wait_cap"],
      ]),
      group("Run", [
        ["Retries", `${count(run.maxRetries)}${waits ? `, after at most ${waits}` : ""}`, "retry"],
        ["Longest attempt", duration(run.attemptTimeoutMs), "attempt_timeout"],
        ["Grace after a stop", duration(run.stopGraceMs), "stop_grace"],
        ["Longest wait for a slot", duration(run.maxAgeMs), "max_age"],
        ["Lease", duration(run.leaseMs), "lease"],
        ["Crashes that end a task", count(run.crashAllowance), "crash_allowance"],
      ]),
      group("Kept", [
        ["An accepted task survives", SURVIVES[keep.durability] ?? keep.durability],
        ["Longest response", bytes(keep.resultLimit), "result_limit"],
        ["Succeeded tasks", duration(keep.succeededMs), "retention"],
        ["All others", duration(keep.othersMs), "retention"],
        ["Callbacks given up after", duration(keep.callbackPatienceMs), "callback_patience"],
        ["Callbacks", keep.destinations.length === 0 ? "none" : keep.destinations.map((each) => h("div", {}, h("span", { class: "mono wrap" }, each.destination), h("span", { class: "dim" }, ` on ${each.on.join(", ")}`)))],
      ]),
      api &&
        group("Reached", [
          ["Answers at", api.hosts === null ? "every host" : ["addresses and private names", ...api.hosts].map((host, at) => h("div", { class: at ? "mono wrap" : undefined }, host)), "hosts"],
          ["Changes come from", ["its own pages", ...api.origins].map((origin, at) => h("div", { class: at ? "mono wrap" : undefined }, origin)), undefined],
        ]),
      process &&
        group("This process", [
          ["Worker", h("span", { class: "mono wrap" }, process.instanceId), "worker_name"],
          ["Handlers at once", count(process.concurrency), "concurrency"],
          ["Bodies being read, together", bytes(process.bufferLimit), "buffer_limit"],
          ["Callers who wait at once", count(process.maxWaiters), "max_waiters"],
          ["Longest store call", duration(process.storeTimeoutMs), "store_timeout"],
          ["Version", version],
        ]),
      group("You", [
        access.user && ["Name", access.user],
        ["See", access.allTenants ? "everybody's tasks" : "one tenant's tasks"],
        ["May", access.permissions.map((name) => h("span", { class: "chip static" }, name))],
        ["The API is at", h("span", { class: "mono wrap" }, apiUrl.pathname)],
        token() && ["Token", h("button", { type: "button", class: "small", onclick: () => (forget(), location.reload()) }, "Forget the token")],
      ]),
    ),
  );
}

function group(title, rows) {
  const items = rows.filter(Boolean).map(([name, value, setting]) => h("div", { title: setting && `Builder::${setting}` }, h("dt", {}, name), h("dd", {}, value)));
  return card(title, {}, h("dl", { class: "set" }, items));
}
