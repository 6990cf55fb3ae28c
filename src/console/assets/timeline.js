// The history of a task: a strip in proportion to time, the attempts, and all states.

import { h, s } from "./dom.js";
import { duration, exactTime, fullTime } from "./format.js";
import { badge, hasEnded, stateClass } from "./status.js";

const RERUN = "run again on request";
const RELEASED = "released by its worker, uncharged";
// Prefixes; the reason follows.
const DEFERRED = "deferred, uncharged: ";
const HANDED_ON = "handed on, uncharged: ";
const RESCUED = "rescued: its worker was gone";

/**
 * The attempts of a task, from its events. `Running`, with the worker as its detail, begins an attempt; the next event
 * other than `Stopping` ends it.
 */
export function attempts(task) {
  const found = [];
  let generation = 1;
  let number = 0;
  let open = null;
  for (const event of task.events) {
    if (event.status === "Running") {
      number += 1;
      open = { generation, number, from: event.timestamp, to: null, outcome: "Running", detail: "", worker: event.eventDetail };
      found.push(open);
    } else if (open && event.status !== "Stopping") {
      Object.assign(open, { to: event.timestamp, outcome: event.status, detail: event.eventDetail });
      if (event.eventDetail === RELEASED || begins(event.eventDetail, DEFERRED) || begins(event.eventDetail, HANDED_ON)) number -= 1;
      open = null;
    } else if (open) {
      open.outcome = "Stopping";
    }
    if (event.eventDetail === RERUN) {
      generation += 1;
      number = 0;
    }
  }
  // A long history may lack events in the middle. The numbers of the document are correct.
  const last = found.at(-1);
  if (last) {
    const behind = task.generation - generation;
    const off = number > 0 ? task.attempt - number : 0;
    for (const attempt of found) {
      if (attempt.generation === generation) attempt.number += off;
      attempt.generation += behind;
    }
  }
  return found;
}

function begins(detail, what) {
  return detail?.startsWith(what) ?? false;
}

/** The elements of the timeline; redrawn when the task has changed. */
export function timeline(task) {
  const all = attempts(task);
  return [strip(task), all.length > 0 && attemptTable(task, all), history(task)];
}

/** The strip: each state in proportion to its duration. */
export function strip(task) {
  const events = task.events;
  const from = events[0].timestamp;
  const to = hasEnded(task.status) ? events.at(-1).timestamp : Date.now();
  const whole = Math.max(1, to - from);
  const parts = events.slice(0, hasEnded(task.status) ? -1 : undefined).map((event, at) => {
    const end = events[at + 1]?.timestamp ?? to;
    const x = (100 * (event.timestamp - from)) / whole;
    const isLast = end === to || events[at + 1] === events.at(-1);
    const width = isLast ? 100 - x : Math.max(0.4, (100 * (end - event.timestamp)) / whole);
    const title = `${event.status} for ${duration(end - event.timestamp)}`;
    const rect = s("rect", { class: stateClass(event.status), x: `${x}%`, y: 0, width: `${width}%`, height: 14 }, s("title", {}, title));
    return { rect, width };
  });
  // Short states are drawn last, since their minimum width covers a part of their neighbours.
  parts.sort((one, other) => other.width - one.width);
  const said = `From ${fullTime(from)}, ${duration(whole)} in all`;
  return h(
    "figure",
    { class: "strip" },
    s("svg", { role: "img", "aria-label": said, width: "100%", height: 14 }, parts.map(({ rect }) => rect)),
    h("figcaption", {}, h("span", {}, exactTime(from)), h("span", {}, duration(whole)), h("span", {}, hasEnded(task.status) ? exactTime(to) : "now")),
  );
}

function attemptTable(task, all) {
  const generations = new Set(all.map((attempt) => attempt.generation)).size > 1;
  const rows = all.map((attempt) =>
    h(
      "tr",
      {},
      h("td", { class: "number" }, generations && `${attempt.generation}.`, attempt.number),
      h("td", {}, h("time", { title: fullTime(attempt.from) }, exactTime(attempt.from))),
      h("td", { class: "number" }, attempt.to === null ? "…" : duration(attempt.to - attempt.from)),
      h("td", {}, outcome(attempt)),
      h("td", { class: "wrap" }, attempt.detail),
      h("td", { class: "mono dim" }, attempt.worker),
    ),
  );
  const heads = ["Attempt", "Began", "Took", "Outcome", "Detail", "Worker"];
  return h(
    "div",
    { class: "scroll" },
    h("table", { class: "attempts" }, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, rows)),
  );
}

/** How an attempt ended. The event's state only says what comes next, so most outcomes get another word. */
function outcome({ outcome, detail }) {
  if (begins(detail, HANDED_ON)) return h("span", { class: "badge state-retrying", title: "It was without the route, in another version of the application than accepted the task; the attempt does not count" }, "Handed on");
  if (begins(detail, DEFERRED)) return h("span", { class: "badge state-retrying", title: "The handler said not now; the attempt does not count" }, "Deferred");
  if (outcome === "Retrying") return h("span", { class: "badge state-retrying", title: "It was tried again" }, "Failed");
  if (detail === RESCUED) return h("span", { class: "badge state-failed", title: "Its process died or lost its lease; such an attempt is no retry" }, "Crashed");
  if (detail === RELEASED) return h("span", { class: "badge state-enqueued", title: "Its process was shutting down; the attempt does not count" }, "Handed back");
  return badge(outcome);
}

function history(task) {
  let before = null;
  const items = task.events.map((event) => {
    const passed = before === null ? "" : `+${duration(event.timestamp - before)}`;
    before = event.timestamp;
    return h(
      "li",
      { class: stateClass(event.status) },
      h("b", {}, event.status),
      h("time", { title: fullTime(event.timestamp) }, exactTime(event.timestamp)),
      h("span", { class: "dim" }, passed),
      event.eventDetail && h("span", { class: event.status === "Running" ? "wrap dim" : "wrap" }, event.eventDetail),
    );
  });
  return h("details", { class: "events", open: items.length <= 12 }, h("summary", {}, `${items.length} states`), h("ol", {}, items));
}
