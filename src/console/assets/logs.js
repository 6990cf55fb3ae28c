// The log of a task. It grows while it is open.

import { get, taskPath } from "./api.js";
import { add, card, h, put } from "./dom.js";
import { exactTime, fullTime, plural } from "./format.js";
import { throttled } from "./live.js";

const PAGE = 500;
/** How many lines the page keeps. */
const KEPT = 5000;
const LEVELS = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

/** The log of `id`: its element, and `pull`, which fetches new lines. `there` returns the signal for requests. */
export function logs(id, { there }) {
  const list = h("ol", { class: "log", tabindex: 0, "aria-label": "Log lines" });
  const state = h("span", { class: "dim" });
  const attempt = h("select", { class: "small", "aria-label": "Attempt" }, h("option", { value: "" }, "All attempts"));
  const level = h("select", { class: "small", "aria-label": "Least level" }, LEVELS.map((name) => h("option", { value: name }, name === "TRACE" ? "All levels" : name === "ERROR" ? "ERROR only" : `${name} and worse`)));
  level.value = "TRACE";
  const follow = h("input", { type: "checkbox", checked: true });
  const tools = h("div", { class: "row" }, h("label", { class: "check" }, follow, "Follow"), attempt, level);
  const element = card("Log", { class: "log-card", tools: [tools, state] }, list);
  element.hidden = true;
  let after = 0;
  let shown = 0;
  let dropped = 0;

  async function fetchNew() {
    for (;;) {
      const query = { after, limit: PAGE };
      if (attempt.value) query.attempt = attempt.value;
      const page = await get(taskPath(id, "/logs"), { query, signal: there() });
      element.hidden = false;
      if (page.lines.length === 0) break;
      after = page.lines.at(-1).seq;
      add(list, page.lines.map(line));
      shown += page.lines.length;
      for (; list.childElementCount > KEPT; dropped += 1) list.firstElementChild.remove();
      if (follow.checked) list.scrollTop = list.scrollHeight;
      if (page.lines.length < PAGE) break;
    }
    // The tools are useless for an empty log.
    tools.hidden = shown === 0 && !attempt.value;
    put(state, shown === 0 ? "no lines" : plural(shown, "line"), dropped > 0 && `, the last ${KEPT} shown`);
  }

  const pull = throttled(async () => {
    try {
      await fetchNew();
    } catch (error) {
      if (error.isUnknown || error.status === 403) element.hidden = true;
      else throw error;
    }
  });

  function restart() {
    put(list);
    after = shown = dropped = 0;
    pull();
  }
  attempt.addEventListener("change", restart);
  level.addEventListener("change", () => (list.dataset.least = level.value.toLowerCase()));

  /** Adds attempts to the choice, up to this number. */
  function offer(attempts) {
    for (let number = attempt.options.length; number <= attempts; number += 1) {
      attempt.append(h("option", { value: number }, `Attempt ${number}`));
    }
  }
  return { element, pull, offer, restart };
}

function line(entry) {
  const level = LEVELS.includes(entry.level) ? entry.level.toLowerCase() : "other";
  const fields = Object.entries(entry.fields ?? {}).map(([name, value]) =>
    h("span", { class: "field" }, h("i", {}, name), "=", String(value)),
  );
  return h(
    "li",
    { class: `level-${level}` },
    h("time", { title: `${fullTime(entry.timestamp)}, attempt ${entry.attempt}` }, exactTime(entry.timestamp)),
    h("b", {}, entry.level),
    h("span", { class: "said" }, entry.message, fields),
    h("span", { class: "target", title: entry.target }, entry.target),
  );
}
