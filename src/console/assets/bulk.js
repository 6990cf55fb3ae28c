// Stops, re-runs and deletes many tasks at once.

import { change } from "./api.js";
import { confirm } from "./dialog.js";
import { toast } from "./dom.js";
import { count, plural } from "./format.js";
import { labelsByName } from "./labels.js";

const ACTIONS = {
  stop: { title: "Stop", done: "stopped", text: "Queued tasks end at once; running tasks are asked to stop." },
  retry: { title: "Run again", done: "run again", text: "Each that has ended runs again as it was, as a new generation." },
  delete: { title: "Delete", done: "deleted", text: "Those that have ended are gone for good, with their requests, responses and logs.", danger: true },
};

/** Asks for confirmation, then changes these tasks. Returns false if the change was declined or failed. */
export async function onThese(action, ids) {
  return (await sure(action, ids.length)) && run(action, { ids });
}

/** The same for all tasks that match a list's query. The API refuses if their number has changed since. */
export async function onAll(action, query) {
  const filter = filterOf(query);
  let matched;
  try {
    ({ matched } = await change("POST", `bulk/${action}`, { json: { filter, dryRun: true } }));
  } catch (error) {
    toast(error.message, "bad");
    return false;
  }
  return (await sure(action, matched)) && run(action, { filter, expectedCount: matched });
}

function sure(action, number) {
  const { title, text, danger } = ACTIONS[action];
  return confirm({
    title: `${title}: ${plural(number, "task")}`,
    text,
    action: `${title} ${count(number)}`,
    danger,
    expected: danger || number > 20 ? number : undefined,
  });
}

async function run(action, json) {
  try {
    const { changed, results } = await change("POST", `bulk/${action}`, { json });
    const left = results.filter((result) => !result.done);
    const why = left.length > 0 ? `; ${count(left.length)} not (${left[0].status ?? left[0].code})` : "";
    toast(`${plural(changed, "task")} ${ACTIONS[action].done}${why}`, changed === 0 ? "bad" : "good");
    return true;
  } catch (error) {
    toast(error.message, "bad");
    return false;
  }
}

/** Converts a list's query to the API's JSON filter. */
function filterOf(query) {
  const filter = {};
  for (const name of ["prefix", "function", "text"]) if (query.get(name)) filter[name] = query.get(name);
  for (const name of ["startedTimeBegin", "startedTimeEnd"]) if (query.get(name)) filter[name] = Number(query.get(name));
  if (query.has("status")) filter.status = query.getAll("status");
  if (query.has("label")) filter.labels = labelsByName(query.getAll("label"));
  return filter;
}
