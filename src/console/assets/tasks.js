// The list of tasks: filters, which are kept in the address, pages, and bulk actions.

import { get, may } from "./api.js";
import { onAll, onThese } from "./bulk.js";
import { h, put } from "./dom.js";
import { duration, fullTime, plural, shortId, time } from "./format.js";
import { areWhole, readLabels, writeLabels } from "./labels.js";
import { follow } from "./live.js";
import { go, href, taskHref } from "./route.js";
import { STATES, attemptOf, badge, hasEnded, stateClass } from "./status.js";

const PAGE = 50;
/** How many requests a search makes for one page before the user must continue it. */
const LOOKS = 20;
const TEXTS = [
  ["prefix", "Task id begins with", "search"],
  ["function", "Function", "search"],
  ["label", "Labels", "search", "name=value, name=value"],
  ["text", "Text in error or payload", "search"],
];
const TIMES = [
  ["startedTimeBegin", "Created from"],
  ["startedTimeEnd", "Created until"],
];

export function tasks(root, route, { signal }) {
  let query = route.query;
  let shown = [];
  let next = "";
  // The query whose answer took more than one request.
  let searched = null;
  let barSays = "";
  let fitBar = () => {};
  const selected = new Set();
  // For the token of each visited page: its number, and the token of the page before.
  const pages = new Map([["", { number: 1, before: "" }]]);

  const filters = filterForm((changed) => {
    const wanted = new URLSearchParams(changed);
    go(href(["tasks"], wanted), { replace: true });
  });
  const body = h("tbody");
  const all = h("input", { type: "checkbox", "aria-label": "Select all on this page" });
  const table = h("table", { class: "tasks" }, headRow(all), body);
  const empty = h("p", { class: "empty" });
  const bar = h("div", { class: "bulk", role: "region", "aria-label": "Selected tasks", hidden: true });
  const previous = h("button", { type: "button", disabled: true }, "Previous");
  const onward = h("button", { type: "button", disabled: true }, "Next");
  const place = h("span", { class: "dim" });
  put(
    root,
    h("h1", { class: "hidden" }, "Tasks"),
    filters.element,
    h("div", { class: "card flush" }, table, empty),
    h("div", { class: "row pager" }, place, h("span", { class: "grow" }), previous, onward),
    bar,
  );

  async function refresh() {
    // A change of some task does not restart a long search.
    if (searched && searched === query) return;
    const asked = query;
    const page = await search(asked);
    if (asked === query) show(page);
  }

  /** Fetches one page. A request searches ten thousand tasks at most, so rare matches take several requests. */
  async function search(asked) {
    const wanted = new URLSearchParams(asked);
    const tasks = [];
    // The number of tasks in the filter's states, an upper bound. Fetched only if the first request is not enough.
    let most = Infinity;
    for (let looks = 1; ; looks += 1) {
      wanted.set("limit", PAGE - tasks.length);
      const page = await get("", { query: wanted, signal });
      tasks.push(...page.tasks);
      searched = looks > 1 ? asked : null;
      if (tasks.length >= PAGE || page.nextToken === "") return { tasks, nextToken: page.nextToken };
      if (looks === 1 && !asked.get("nextToken")) most = await countOf(asked.getAll("status"));
      if (tasks.length >= most) return { tasks, nextToken: "" };
      if (looks === LOOKS || asked !== query) return { tasks, nextToken: page.nextToken, cut: true };
      wanted.set("nextToken", page.nextToken);
      put(place, `Looking further, ${plural(tasks.length, "task")} so far…`);
    }
  }

  /** How many tasks are in these states; without states, in all. */
  async function countOf(states) {
    const { counts } = await get("stats", { signal });
    return Object.entries(counts).reduce((all, [state, n]) => all + (states.length === 0 || states.includes(state) ? n : 0), 0);
  }

  function show(found) {
    shown = found.tasks;
    next = found.nextToken;
    const there = new Set(shown.map((task) => task.taskId));
    for (const id of selected) if (!there.has(id)) selected.delete(id);
    mergeRows(body, shown, (task) => taskRow(task, { checked: selected.has(task.taskId), select }));
    table.hidden = shown.length === 0;
    const token = query.get("nextToken") ?? "";
    put(empty, nothing(found, token));
    empty.hidden = shown.length > 0;
    const page = pages.get(token);
    put(place, shown.length === 0 ? "" : `${page ? `Page ${page.number} · ` : ""}${plural(shown.length, "task")}${next ? ", more follow" : ""}`);
    previous.disabled = token === "";
    previous.textContent = page ? "Previous" : "First page";
    onward.disabled = !next;
    onward.textContent = found.cut ? "Look further" : "Next";
    showBar();
  }

  function nothing({ cut }, token) {
    if (cut) return "None among those looked at; look further for older ones.";
    if (token) return "No more tasks.";
    if ([...query.keys()].length > 0) return "No task matches.";
    return ["No task yet. ", h("a", { href: "#/invoke" }, "Try a request"), "."];
  }

  function select(id, on) {
    if (on) selected.add(id);
    else selected.delete(id);
    showBar();
  }

  all.addEventListener("change", () => {
    for (const task of shown) {
      if (all.checked) selected.add(task.taskId);
      else selected.delete(task.taskId);
    }
    for (const box of body.querySelectorAll("input[type=checkbox]")) box.checked = all.checked;
    showBar();
  });
  previous.addEventListener("click", () => turn(pages.get(query.get("nextToken") ?? "")?.before ?? ""));
  onward.addEventListener("click", () => {
    const before = query.get("nextToken") ?? "";
    const number = pages.get(before)?.number;
    if (number) pages.set(next, { number: number + 1, before });
    turn(next);
  });

  function turn(token) {
    const wanted = new URLSearchParams(query);
    wanted.set("nextToken", token);
    selected.clear();
    go(href(["tasks"], wanted));
    scrollTo({ top: 0 });
  }

  async function showBar() {
    const page = shown.length;
    all.checked = page > 0 && selected.size === page;
    all.indeterminate = selected.size > 0 && selected.size < page;
    const ids = [...selected];
    const everything = all.checked && Boolean(next || query.get("nextToken"));
    // The bar is redrawn only if the selection changes: the user may be about to press a button in it.
    const says = JSON.stringify([everything, ids]);
    if (says === barSays) return fitBar();
    barSays = says;
    bar.hidden = ids.length === 0;
    if (bar.hidden) return;
    const matching = h("input", { type: "checkbox", id: "all-matching" });
    const act = (action) => async () => {
      const done = matching.checked ? await onAll(action, query) : await onThese(action, ids);
      if (!done) return;
      selected.clear();
      searched = null;
      // After a change of all matching tasks, this page may be empty.
      if (matching.checked && query.get("nextToken")) turn("");
      else again();
    };
    const button = (action, text, kind) => may(action).then((yes) => yes && h("button", { type: "button", class: kind, "data-action": action, onclick: act(action) }, text));
    const buttons = await Promise.all([button("stop", "Stop"), button("retry", "Run again"), button("delete", "Delete", "danger")]);
    // Enables an action if it fits at least one selected task; for all matching tasks, always.
    fitBar = () => {
      const chosen = shown.filter((task) => selected.has(task.taskId));
      for (const each of buttons.filter(Boolean)) {
        const fits = (task) => hasEnded(task.status) === (each.dataset.action !== "stop");
        each.disabled = !matching.checked && !chosen.some(fits);
      }
    };
    matching.addEventListener("change", () => fitBar());
    fitBar();
    put(
      bar,
      h("b", {}, plural(ids.length, "task"), " selected"),
      everything && h("label", { class: "check" }, matching, "and all others that match"),
      h("span", { class: "grow" }),
      buttons,
      h("button", { type: "button", class: "plain", onclick: () => (selected.clear(), uncheck(body), showBar()) }, "Clear"),
    );
  }

  function update(changed) {
    query = changed.query;
    filters.fill(query);
    again();
  }

  filters.fill(query);
  const again = follow("events", { refresh, signal });
  return update;
}

function uncheck(body) {
  for (const box of body.querySelectorAll("input:checked")) box.checked = false;
}

/** Replaces rows, but keeps unchanged ones, so that focus and selection stay. */
export function mergeRows(body, items, make) {
  const old = new Map([...body.children].map((row) => [row.dataset.row, row]));
  const rows = items.map((item) => {
    const there = old.get(item.taskId);
    const says = JSON.stringify(item);
    if (there?.says === says) return there;
    const row = make(item);
    row.says = says;
    if (there?.contains(document.activeElement)) {
      const link = document.activeElement.matches("a");
      queueMicrotask(() => row.querySelector(link ? "a" : "input")?.focus());
    }
    return row;
  });
  rows.forEach((row, at) => {
    if (body.children[at] !== row) body.insertBefore(row, body.children[at] ?? null);
  });
  while (body.children.length > rows.length) body.lastElementChild.remove();
}

/** The header row; `select` is the box that selects all rows. */
export function headRow(select) {
  const heads = ["State", "Task", "Request", "Created", "Took", "Attempt", "Result"];
  return h("thead", {}, h("tr", {}, select && h("th", { class: "pick" }, select), heads.map((head) => h("th", { scope: "col" }, head))));
}

/** One task as a row; `select` is called when its box is ticked. */
export function taskRow(task, { checked, select } = {}) {
  const box = select && h("input", { type: "checkbox", value: task.taskId, checked, "aria-label": `Select ${task.taskId}` });
  box?.addEventListener("change", () => select(task.taskId, box.checked));
  return h(
    "tr",
    { "data-row": task.taskId },
    box && h("td", { class: "pick" }, box),
    h("td", { class: "c-state" }, badge(task.status)),
    h("td", { class: "c-id" }, h("a", { class: "mono", href: taskHref(task.taskId), title: task.taskId }, shortId(task.taskId))),
    h("td", { class: "c-uri mono", title: `${task.method} ${task.uri}` }, h("b", {}, task.method), " ", task.uri, task.uriTruncated ? "…" : ""),
    h("td", { class: "c-time" }, h("time", { title: fullTime(task.createdTime) }, time(task.createdTime))),
    h("td", { class: "c-took number" }, took(task)),
    h("td", { class: "c-attempt number", title: `attempt ${attemptOf(task, " of ")}` }, task.attempt === 0 ? "–" : attemptOf(task, "/")),
    h("td", { class: "c-note" }, note(task)),
  );
}

function took(task) {
  if (task.durationMs !== null) return duration(task.durationMs);
  return task.startedTime !== null && !hasEnded(task.status) && task.status !== "Retrying" ? "…" : "–";
}

/** The most important fact: the progress, or the error. */
function note(task) {
  if (task.progress && task.status === "Running") return progressBar(task.progress);
  if (task.taskErrorMessage) return h("span", { class: "wrap-2", title: task.taskErrorMessage }, task.taskErrorMessage);
  if (task.status === "Enqueued" && task.runAtTime > Date.now()) return h("span", { class: "dim" }, `not before ${time(task.runAtTime)}`);
  return task.statusCode ? h("span", { class: "dim" }, String(task.statusCode)) : null;
}

export function progressBar({ fraction, message }) {
  const percent = `${Math.round(fraction * 100)} %`;
  return h("span", { class: "progress" }, h("progress", { max: 1, value: fraction, "aria-label": "Progress" }), h("span", {}, percent, message && ` · ${message}`));
}

/** The filter form. It calls `changed` with its query. */
function filterForm(changed) {
  const boxes = STATES.map((state) => {
    const box = h("input", { type: "checkbox", name: "status", value: state });
    return h("label", { class: `chip ${stateClass(state)}` }, box, state);
  });
  const texts = TEXTS.map(([name, label, type, placeholder], at) =>
    h("label", {}, h("span", {}, label), h("input", { name, type, placeholder, spellcheck: "false", autocomplete: "off", "data-find": at === 0 })),
  );
  const times = TIMES.map(([name, label]) => h("label", {}, h("span", {}, label), h("input", { name, type: "datetime-local", step: 1 })));
  const order = h("select", { name: "sortOrderByTime" }, h("option", { value: "" }, "Newest first"), h("option", { value: "asc" }, "Oldest first"));
  const more = h("details", { class: "more" }, h("summary", {}, "Time and order"), h("div", { class: "fields" }, times, h("label", {}, h("span", {}, "Order"), order)));
  const clear = h("button", { type: "reset", class: "plain small" }, "Clear filters");
  const form = h(
    "form",
    { class: "filters", role: "search", "aria-label": "Filters" },
    h("div", { class: "chips", role: "group", "aria-label": "State" }, boxes),
    h("div", { class: "fields" }, texts),
    h("div", { class: "row" }, more, h("span", { class: "grow" }), clear),
  );

  function read() {
    const query = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (value === "") continue;
      if (name === "label") {
        for (const label of readLabels(value)) query.append(name, label);
        continue;
      }
      const isTime = TIMES.some(([time]) => time === name);
      query.append(name, isTime ? String(new Date(value).getTime()) : value);
    }
    return query;
  }
  const { label } = form.elements;
  let timer = null;
  form.addEventListener("input", (event) => {
    label.setCustomValidity(areWhole(readLabels(label.value)) ? "" : "Write labels as name=value, with a comma between two.");
    clearTimeout(timer);
    timer = setTimeout(() => form.reportValidity() && changed(read()), event.target.type === "search" ? 250 : 0);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => changed(new URLSearchParams())));

  /** Fills the form from the address, except for the focused field. */
  function fill(query) {
    const states = query.getAll("status");
    for (const input of form.elements) {
      if (!input.name || input === document.activeElement) continue;
      if (input.name === "status") input.checked = states.includes(input.value);
      else if (input.name === "label") input.value = writeLabels(query.getAll(input.name));
      else if (input.type === "datetime-local") input.value = local(query.get(input.name));
      else input.value = query.get(input.name) ?? "";
    }
    clear.hidden = [...query.keys()].every((name) => name === "nextToken");
    if (query.has("startedTimeBegin") || query.has("startedTimeEnd") || query.has("sortOrderByTime")) more.open = true;
  }
  return { element: form, fill };
}

/** A time in milliseconds as the value of a `datetime-local` input. */
function local(ms) {
  if (!ms) return "";
  const date = new Date(Number(ms));
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
