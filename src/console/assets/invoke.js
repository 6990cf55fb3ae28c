// Sends a request to the application, sync or async, and shows the answer.

import { get, may, rootUrl, taskPath } from "./api.js";
import { curl } from "./curl.js";
import { card, copy, h, put } from "./dom.js";
import { parseHeaders, printHeaders } from "./edit.js";
import { duration } from "./format.js";
import { follow } from "./live.js";
import { body, headerTable } from "./payload.js";
import { taskHref } from "./route.js";
import { badge, hasEnded } from "./status.js";
import { progressBar } from "./tasks.js";

const KEY = "respond-async.invoke";
const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

/** Headers that browsers set themselves and do not let a page set. */
const NOT_OURS = new Set(["host", "content-length", "connection", "cookie", "origin", "referer", "user-agent", "accept-encoding"]);

/** Stores a task's request as the draft with which this page starts. */
export function keepDraft({ method, uri, headers, body }) {
  const kept = headers.filter(([name, value]) => !value.includes("REDACTED") && !NOT_OURS.has(name) && !name.startsWith("sec-"));
  save({ method, path: uri, headers: printHeaders(kept), body });
}

function save(draft) {
  try {
    sessionStorage.setItem(KEY, JSON.stringify({ ...load(), ...draft }));
  } catch {
    // The storage is full. A body of megabytes is not kept.
  }
}

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(KEY)) ?? {};
  } catch {
    return {};
  }
}

export function invoke(root, _, { signal }) {
  const draft = { method: "POST", path: "/", headers: "", body: "", async: true, ...load() };
  const method = h("select", { name: "method", "aria-label": "Method" }, METHODS.map((name) => h("option", { value: name }, name)));
  method.value = draft.method;
  const path = h("input", { name: "path", class: "mono grow", "aria-label": "Path and query", value: draft.path, required: true, spellcheck: "false", autocomplete: "off", "data-find": true });
  const isAsync = h("input", { name: "async", type: "checkbox", role: "switch", checked: draft.async });
  const headers = h("textarea", { id: "invoke-headers", name: "headers", class: "code", rows: 3, spellcheck: "false", placeholder: "content-type: application/json", value: draft.headers });
  const content = h("textarea", { id: "invoke-body", name: "body", class: "code", rows: 8, spellcheck: "false", value: draft.body });
  const taskId = h("input", { name: "taskId", class: "mono", placeholder: "generated", spellcheck: "false", autocomplete: "off", pattern: "[A-Za-z_][A-Za-z0-9_\\-]{0,127}", title: "Letters, digits, _ and -, not beginning with a digit" });
  const delay = h("input", { name: "delay", type: "number", min: 1, max: 3599, step: 1, placeholder: "none" });
  const wait = h("input", { name: "wait", type: "number", min: 0, step: 1, placeholder: "none" });
  const later = h(
    "fieldset",
    { class: "fields later" },
    h("legend", { class: "hidden" }, "Async"),
    h("label", {}, h("span", {}, "Task id"), taskId),
    h("label", {}, h("span", {}, "Delay, seconds"), delay),
    h("label", { title: "Wait so long for the task's own answer before the 202" }, h("span", {}, "Wait, seconds"), wait),
  );
  const line = h("pre", { class: "code curl", tabindex: 0, "aria-label": "The same as a command" });
  const error = h("p", { class: "error", role: "alert" });
  const send = h("button", { type: "submit", class: "main" }, "Send");
  const answer = h("div", { class: "stack", "aria-live": "polite" }, h("p", { class: "dim" }, "What comes back is shown here."));
  const form = h(
    "form",
    { class: "stack" },
    h("div", { class: "row line" }, method, path, h("label", { class: "switch", title: "Answered 202 at once, and run later as a task" }, isAsync, h("span", {}, "Async")), send),
    later,
    h("label", { for: "invoke-headers" }, "Headers, one a line"),
    headers,
    h("label", { for: "invoke-body" }, "Body"),
    content,
    error,
  );
  const copyLine = h("button", { type: "button", class: "small", onclick: () => copy(line.textContent) }, "Copy");
  put(
    root,
    h("h1", { class: "hidden" }, "Invoke"),
    h(
      "div",
      { class: "two" },
      h("div", { class: "stack" }, card("Request", {}, form), card("As curl", { tools: copyLine }, line)),
      card("Answer", {}, answer),
    ),
  );
  let watching = null;

  /** The request that the form describes. */
  function read() {
    const all = parseHeaders(headers.value);
    if (isAsync.checked) {
      all.push(["X-Fc-Invocation-Type", "Async"]);
      if (taskId.value) all.push(["X-Fc-Async-Task-Id", taskId.value]);
      if (delay.value) all.push(["X-Fc-Async-Delay", delay.value]);
      if (wait.value) all.push(["Prefer", `respond-async, wait=${wait.value}`]);
    }
    const url = new URL(`./${path.value.replace(/^\/+/, "")}`, rootUrl).href;
    return { method: method.value, url, headers: all, body: content.value, bodyEncoding: "utf8" };
  }

  function changed() {
    later.hidden = later.disabled = !isAsync.checked;
    const bodiless = method.value === "GET" || method.value === "HEAD";
    content.disabled = bodiless;
    save({ method: method.value, path: path.value, headers: headers.value, body: content.value, async: isAsync.checked });
    try {
      const request = read();
      line.textContent = curl(bodiless ? { ...request, body: "" } : request);
      error.textContent = "";
    } catch (failed) {
      error.textContent = failed.message;
    }
  }

  async function submit() {
    watching?.abort();
    watching = new AbortController();
    const mine = AbortSignal.any([signal, watching.signal]);
    let request;
    try {
      request = read();
    } catch (failed) {
      error.textContent = failed.message;
      return;
    }
    const { method, url } = request;
    const bodiless = method === "GET" || method === "HEAD";
    send.disabled = true;
    put(answer, h("p", { class: "dim" }, "Sent…"));
    const began = performance.now();
    try {
      const response = await fetch(url, {
        method,
        headers: request.headers,
        body: bodiless || !request.body ? undefined : request.body,
        redirect: "manual",
        cache: "no-store",
        signal: mine,
      });
      const raw = new Uint8Array(await response.arrayBuffer());
      show(response, raw, performance.now() - began, mine);
    } catch (failed) {
      if (mine.aborted) return;
      put(answer, h("p", { class: "error" }, `Nothing came back: ${failed.message}`));
    } finally {
      send.disabled = false;
    }
  }

  function show(response, raw, took, mine) {
    if (response.type === "opaqueredirect") {
      put(answer, h("p", {}, "A redirect. Browsers do not tell a page where to; curl does."));
      return;
    }
    const pairs = [...response.headers];
    const good = response.status < 400;
    const summary = h(
      "p",
      { class: "row" },
      h("span", { class: `badge ${good ? "state-succeeded" : "state-failed"}` }, `${response.status} ${response.statusText}`.trim()),
      h("span", { class: "dim" }, `after ${duration(took)}`),
    );
    const id = response.headers.get("x-fc-async-task-id");
    const task = id && watch(id, mine);
    const table = headerTable(pairs);
    if (table.matches("details")) table.open = true;
    const type = response.headers.get("content-type") ?? "";
    put(answer, summary, task, table, body(asDocument(raw), type, "answer"));
  }

  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  changed();
}

/** A live line about the task of an async request. */
function watch(id, signal) {
  // The link stays in place when the text beside it changes: the user may be about to press it.
  const state = h("span");
  const progress = h("span");
  const link = h("a", { class: "mono wrap", href: taskHref(id) }, id);
  const place = h("p", { class: "row task-line", role: "status" }, state, link, progress);
  let ended = false;
  may("view").then((yes) => {
    if (!yes) return;
    follow(taskPath(id, "/events"), {
      signal,
      idle: () => ended,
      async refresh() {
        const task = await get(taskPath(id), { signal });
        ended = hasEnded(task.status);
        put(state, badge(task.status));
        put(progress, ended ? result(task) : task.progress && progressBar(task.progress));
      },
    });
  });
  return place;
}

/** The outcome of a task in one line; the task's page has the rest. */
function result({ statusCode, durationMs, taskErrorMessage }) {
  if (taskErrorMessage) return h("span", { class: "error wrap" }, taskErrorMessage);
  return h("span", { class: "dim" }, statusCode && `${statusCode} `, durationMs !== null && `after ${duration(durationMs)}`);
}

function asDocument(raw) {
  try {
    return { body: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw), bodyEncoding: "utf8" };
  } catch {
    let text = "";
    for (let at = 0; at < raw.length; at += 8192) text += String.fromCharCode(...raw.subarray(at, at + 8192));
    return { body: btoa(text), bodyEncoding: "base64" };
  }
}
