// One task: its state, request, response, log, callbacks and actions.

import { change, get, may, rootUrl, taskPath } from "./api.js";
import { callbacks } from "./callbacks.js";
import { curl } from "./curl.js";
import { confirm } from "./dialog.js";
import { card, copy, h, put, toast } from "./dom.js";
import { editAndRetry } from "./edit.js";
import { count, duration, fullTime, time } from "./format.js";
import { keepDraft } from "./invoke.js";
import { follow } from "./live.js";
import { logs } from "./logs.js";
import { message } from "./payload.js";
import { go, href } from "./route.js";
import { attemptOf, badge, hasEnded } from "./status.js";
import { progressBar } from "./tasks.js";
import { attempts, strip, timeline } from "./timeline.js";

export function task(root, route, { signal }) {
  const id = route.parts[1];
  const top = h("header", { class: "task-top" });
  const progress = h("div", { class: "task-progress" });
  const facts = h("dl", { class: "facts" });
  const story = h("div", { class: "stack" });
  const request = section("Request");
  const response = section("Response");
  // Aborted before a deletion, so that no request meets the deleted task; replaced if the deletion is refused.
  let asking = new AbortController();
  const there = () => AbortSignal.any([signal, asking.signal]);
  const log = logs(id, { there });
  const completions = callbacks(id, { there, changed: () => again() });
  let now = null;
  let missing = false;
  let generation = null;
  put(root, top, progress, facts, card("Timeline", {}, story), log.element, h("div", { class: "two" }, request.element, response.element), completions.element);

  async function refresh() {
    let found;
    try {
      found = await get(taskPath(id), { signal: there() });
    } catch (failed) {
      if (failed.status !== 404) throw failed;
      return gone();
    }
    const before = now;
    now = found;
    // Draws only what has changed: another part may have the focus.
    if (says(before, ["progress", "taskErrorMessage", "status"]) !== says(now, ["progress", "taskErrorMessage", "status"])) showProgress();
    if (says(before) !== says(now)) await show(before);
    else if (!hasEnded(now.status)) story.firstElementChild.replaceWith(strip(now));
    if (signal.aborted) return;
    log.pull();
    await completions.pull(now);
  }

  function gone() {
    missing = true;
    const ways = [h("a", { href: href(["tasks"], { prefix: id }) }, "Tasks whose id begins so"), " · ", h("a", { href: "#/tasks" }, "All tasks")];
    put(top, h("div", { class: "empty stack grow" }, h("h1", {}, "No such task"), h("p", { class: "mono wrap" }, id), h("p", {}, ways)));
    for (const element of [progress, facts, story]) put(element);
    for (const element of root.querySelectorAll(".card, .facts")) element.hidden = true;
  }

  function showProgress() {
    put(
      progress,
      now.progress && !hasEnded(now.status) && progressBar(now.progress),
      now.taskErrorMessage &&
        h("p", { class: "failure wrap" }, !hasEnded(now.status) && h("span", { class: "dim" }, "The last attempt: "), now.taskErrorMessage),
    );
  }

  async function show(before) {
    document.title = `${now.status} · ${now.taskId}`;
    put(top, await heading(now, act));
    put(facts, factList(now));
    put(story, timeline(now));
    log.offer(attempts(now).at(-1)?.number ?? 0);
    if (generation !== now.generation) {
      // A re-run may have edited the request.
      await request.load(() => get(taskPath(id, "/request"), { signal }), (document) => requestView(document, id));
      if (generation !== null) log.restart();
      generation = now.generation;
    }
    if (before?.status === now.status && before.generation === now.generation) return;
    if (now.statusCode && hasEnded(now.status)) {
      await response.load(() => get(taskPath(id, "/response"), { signal }), (document) => [statusLine(document.status), message(document, `${id}.response`)]);
    } else {
      response.clear(hasEnded(now.status) ? `The task is ${now.status} and has no response.` : "There is none yet.");
    }
  }

  const act = {
    async stop() {
      if (await done(change("POST", taskPath(id, "/stop")), "Asked to stop")) again();
    },
    async retry() {
      if (await done(change("POST", taskPath(id, "/retry")), "Runs again")) again();
    },
    async edit() {
      try {
        if (await editAndRetry(id, { signal })) again();
      } catch (failed) {
        toast(failed.message, "bad");
      }
    },
    async delete() {
      const sure = await confirm({
        title: "Delete this task?",
        text: "It is gone for good, with its request, response and log.",
        action: "Delete",
        danger: true,
      });
      if (!sure) return;
      asking.abort();
      if (await done(change("DELETE", taskPath(id)), "Deleted")) return go("#/tasks");
      asking = new AbortController();
      again();
    },
  };

  const again = follow(taskPath(id, "/events?until=delivered"), {
    refresh,
    signal,
    idle: () => missing || (now !== null && hasEnded(now.status) && now.destinationStatus !== "Pending"),
  });
}

/** The statuses of a task with an undelivered completion. */
const UNDELIVERED = new Set(["Failed", "Blocked"]);

/** These members of a document, or all except the progress, as text to compare. */
function says(task, members) {
  if (members) return JSON.stringify(members.map((member) => task?.[member]));
  return JSON.stringify(task, (name, value) => (name === "progress" ? undefined : value));
}

async function done(changing, said) {
  try {
    await changing;
    toast(said);
    return true;
  } catch (failed) {
    toast(failed.message, "bad");
    return false;
  }
}

async function heading(task, act) {
  const ended = hasEnded(task.status);
  const [stop, retry, remove, invoke] = await Promise.all(["stop", "retry", "delete", "invoke"].map(may));
  const button = (text, onclick, kind) => h("button", { type: "button", class: kind, onclick }, text);
  return [
    h(
      "div",
      { class: "row" },
      badge(task.status),
      h("h1", { class: "mono wrap" }, task.taskId),
      h("button", { type: "button", class: "plain small", "aria-label": "Copy the task id", title: "Copy the task id", onclick: () => copy(task.taskId) }, "Copy"),
    ),
    h(
      "div",
      { class: "row actions" },
      stop && !ended && (task.status === "Stopping" ? h("button", { type: "button", disabled: true }, "Stopping…") : button("Stop", act.stop, "danger")),
      retry && ended && button("Run again", act.retry, "main"),
      retry && invoke && ended && button("Edit and run again", act.edit),
      remove && ended && button("Delete", act.delete, "danger"),
    ),
  ];
}

function factList(task) {
  const at = (ms) => (ms === null ? null : h("time", { title: fullTime(ms) }, time(ms)));
  const last = task.events.findLast((event) => event.status === "Enqueued" || event.status === "Retrying");
  const waited = task.startedTime === null || !last ? null : Math.max(0, task.startedTime - Math.max(last.timestamp, Math.min(task.runAtTime, task.startedTime)));
  const waits = (task.status === "Enqueued" || task.status === "Retrying") && task.runAtTime > Date.now();
  const facts = [
    ["Request", h("span", { class: "mono wrap" }, h("b", {}, task.method), ` ${task.uri}${task.uriTruncated ? "…" : ""}`)],
    ["Function", task.functionName && h("a", { href: href(["tasks"], { function: task.functionName }) }, task.functionName)],
    ["Created", at(task.createdTime)],
    waits && ["Not before", at(task.runAtTime)],
    ["Started", at(task.startedTime)],
    ["Ended", at(task.endTime)],
    ["Waited", waited === null ? null : duration(waited)],
    ["Took", task.durationMs === null ? null : duration(task.durationMs)],
    ["Attempt", task.attempt === 0 ? null : attemptOf(task, " of ")],
    ["Crashes", task.crashes && h("span", { class: "error", title: "How often its process died under it" }, count(task.crashes))],
    task.generation > 1 && ["Generation", String(task.generation)],
    ["Answer", task.statusCode && String(task.statusCode)],
    task.destinationStatus !== "None" && ["Callbacks", h("span", { class: UNDELIVERED.has(task.destinationStatus) ? "error" : undefined }, task.destinationStatus)],
    ["Worker", task.instanceId && h("span", { class: "mono wrap" }, task.instanceId)],
    task.tenant && ["Tenant", task.tenant],
    ...Object.entries(task.labels).map(([name, value]) => [name, value]),
    task.requestId !== task.taskId && ["Request id", h("span", { class: "mono wrap" }, task.requestId)],
  ];
  return facts.filter((fact) => fact && fact[1]).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)));
}

function requestView(document, id) {
  const url = new URL(`.${document.uri}`, rootUrl).href;
  const hidden = document.uri.includes("REDACTED") || document.headers.some(([, value]) => value.includes("REDACTED"));
  const buttons = h(
    "div",
    { class: "row" },
    h("span", { class: "mono wrap grow" }, h("b", {}, document.method), ` ${document.uri}`),
    h("button", { type: "button", class: "small", onclick: () => copy(curl({ ...document, url }), hidden ? "Copied; put in what reads REDACTED" : "Copied") }, "Copy as curl"),
    document.bodyEncoding === "utf8" && h("button", { type: "button", class: "small", onclick: () => (keepDraft(document), go("#/invoke")) }, "Open in Invoke"),
  );
  return [buttons, message(document, `${id}.request`)];
}

function statusLine(status) {
  return h("p", {}, h("span", { class: `badge ${status < 400 ? "state-succeeded" : "state-failed"}` }, String(status)));
}

/** A card with fetched content. It is hidden if the caller may not see the content. */
function section(title) {
  const place = h("div", { class: "stack" });
  const element = card(title, {}, place);
  return {
    element,
    clear: (text) => put(place, h("p", { class: "dim" }, text)),
    async load(fetching, view) {
      try {
        put(place, view(await fetching()));
        element.hidden = false;
      } catch (error) {
        if (error.name === "AbortError") return;
        element.hidden = error.status === 403;
        put(place, h("p", { class: "dim" }, error.message));
      }
    },
  };
}
