// The overview: counts, slots, the last hour, the processes, the latest tasks.

import { get } from "./api.js";
import { draw } from "./chart.js";
import { card, h, put, setText } from "./dom.js";
import { count, duration } from "./format.js";
import { follow } from "./live.js";
import { href } from "./route.js";
import { MEANING, STATES, stateClass } from "./status.js";
import { headRow, mergeRows, taskRow } from "./tasks.js";

const LATEST = 8;

export function overview(root, _, { signal }) {
  const tiles = h("ul", { class: "tiles", "aria-label": "Tasks by state" });
  const counted = STATES.map((state) => tile(state, tiles));
  const gauges = h("div", { class: "gauges" });
  const chart = h("div", { class: "chart-box" });
  const chartCard = card("Accepted and ended, by the minute", {}, chart);
  const processes = h("tbody");
  const processCard = processTable(processes);
  const latest = h("tbody");
  const table = h("table", { class: "tasks" }, headRow(), latest);
  const none = h("p", { class: "empty" }, "No task yet. ", h("a", { href: "#/invoke" }, "Try a request"), " to see one here.");
  put(
    root,
    h("h1", { class: "hidden" }, "Overview"),
    tiles,
    gauges,
    chartCard,
    processCard,
    card("Latest tasks", { class: "flush", tools: h("a", { href: "#/tasks" }, "All tasks") }, none, table),
  );
  let minutes = null;

  async function refresh() {
    const [stats, page] = await Promise.all([get("stats", { signal }), get("", { query: { limit: LATEST }, signal })]);
    STATES.forEach((state, at) => counted[at](stats.counts[state] ?? 0));
    put(gauges, gaugeList(stats));
    // A single process is described by the gauges.
    const several = stats.processes?.length > 1 ? stats.processes : [];
    processCard.hidden = several.length === 0;
    put(processes, several.map(processRow));
    minutes = stats.minutes;
    chartCard.hidden = !minutes;
    if (minutes && !chart.matches(":hover")) draw(chart, minutes);
    none.hidden = page.tasks.length > 0;
    table.hidden = page.tasks.length === 0;
    mergeRows(latest, page.tasks, (task) => taskRow(task));
  }

  const sized = new ResizeObserver(() => minutes && draw(chart, minutes));
  sized.observe(chart);
  signal.addEventListener("abort", () => sized.disconnect());
  // The chart moves on without events.
  const timer = setInterval(() => document.hidden || again(), 10_000);
  signal.addEventListener("abort", () => clearInterval(timer));
  const again = follow("events", { refresh, signal });
}

/** Adds a tile. Returns a function that sets its number and keeps the element, which may have the focus. */
function tile(state, tiles) {
  const number = h("b", {}, "–");
  const address = href(["tasks"], { status: state });
  const link = h("a", { class: `tile zero ${stateClass(state)}`, href: address, title: `${state}: ${MEANING[state]}` }, number, h("span", {}, state));
  tiles.append(h("li", {}, link));
  return (n) => {
    setText(number, count(n));
    link.classList.toggle("zero", n === 0);
  };
}

function gaugeList({ oldestQueuedAgeMs, slots, rates, bufferedBytes, pendingCallbacks, setAside, forgottenKeys }) {
  const items = [
    gauge("Oldest that waits", oldestQueuedAgeMs === null ? "none" : duration(oldestQueuedAgeMs)),
    slots && gauge("Slots in use", `${count(slots.used)} of ${count(slots.total)}`, h("meter", { min: 0, max: slots.total, value: slots.used, high: slots.total * 0.9, "aria-label": "Slots in use" })),
    slots?.stuck > 0 && gauge("Stuck slots", count(slots.stuck), h("span", { class: "error" }, "a handler blocks its thread")),
    rates && gauge("Accepted, last minute", count(rates["1m"].accepted)),
    rates && gauge("Failed, last 15 minutes", count(rates["15m"].failed)),
    bufferedBytes > 0 && gauge("Bodies being read", count(bufferedBytes)),
    pendingCallbacks > 0 && gauge("Callbacks to deliver", count(pendingCallbacks)),
    setAside > 0 && gauge("Damaged values", count(setAside), h("span", { class: "error" }, "the store's disk may be failing")),
    forgottenKeys > 0 && gauge("Forgotten keys", count(forgottenKeys), h("span", { class: "error" }, "a request sent again may run again")),
  ];
  return items.filter(Boolean);
}

function processTable(rows) {
  const heads = ["Process", "Version", "Slots in use", "Stuck", "Accepted, last minute", "Failed, last minute", "Up", "Seen"];
  const head = h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col" }, text))));
  return card("Processes", { class: "flush" }, h("div", { class: "scroll" }, h("table", { class: "processes" }, head, rows)));
}

function processRow({ instanceId, version, uptimeMs, seenAgoMs, draining, slots, lastMinute }) {
  const cells = [
    [h("code", {}, instanceId), draining && h("span", { class: "note" }, " shutting down")],
    version ?? "–",
    `${count(slots.used)} of ${count(slots.total)}`,
    slots.stuck > 0 ? h("span", { class: "error" }, count(slots.stuck)) : "0",
    count(lastMinute.accepted),
    count(lastMinute.failed),
    duration(uptimeMs),
    seenAgoMs < 1500 ? "now" : `${duration(seenAgoMs)} ago`,
  ];
  return h("tr", {}, cells.map((cell) => h("td", {}, cell)));
}

function gauge(name, value, extra) {
  return h("div", { class: "gauge" }, h("span", {}, name), h("b", {}, value), extra);
}
