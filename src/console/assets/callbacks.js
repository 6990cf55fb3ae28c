// The completions of a task, each try of them, and redelivery.

import { change, get, may, taskPath } from "./api.js";
import { card, h, put, toast } from "./dom.js";
import { fullTime, time } from "./format.js";

/**
 * The callbacks of the task `id`: an element, hidden while there are none, and `pull`, which refreshes it. `there`
 * returns the signal that aborts requests. `changed` is called after a redelivery was requested.
 */
export function callbacks(id, { there, changed }) {
  const place = h("div", { class: "stack" });
  const element = card("Callbacks", {}, place);
  element.hidden = true;
  let unknown = false;

  async function pull(task) {
    // A task without destinations has no callbacks.
    if (unknown || task.destinationStatus === "None") return;
    let document;
    try {
      document = await get(taskPath(id, "/callbacks"), { signal: there() });
    } catch (error) {
      unknown = error.isUnknown || error.status === 403;
      if (unknown) return;
      throw error;
    }
    const deliveries = document.callbacks ?? [];
    const allowed = await may("callbacks");
    put(place, deliveries.map((delivery) => deliveryView(delivery, allowed && redeliver)));
    element.hidden = deliveries.length === 0;
  }

  async function redeliver(number) {
    try {
      await change("POST", taskPath(id, `/callbacks/${number}/redeliver`));
      toast("It will be delivered again");
      changed();
    } catch (error) {
      toast(error.message, "bad");
    }
  }
  return { element, pull };
}

function deliveryView(delivery, redeliver) {
  const tries = delivery.tries.map((each, at) =>
    h(
      "tr",
      {},
      h("td", { class: "number" }, at + 1),
      h("td", {}, h("time", { title: fullTime(each.timestamp) }, time(each.timestamp))),
      h("td", { class: "number" }, each.statusCode ?? "–"),
      h("td", { class: "wrap" }, each.text ?? ""),
    ),
  );
  const heads = ["Try", "At", "Answer", "Error or answer"];
  const due = delivery.nextTryTime && `, next try ${time(delivery.nextTryTime)}`;
  return h(
    "article",
    { class: "delivery stack" },
    h(
      "header",
      { class: "row" },
      h("span", { class: `badge ${LOOKS[delivery.status] ?? "state-failed"}` }, delivery.status),
      h("b", { class: "mono wrap" }, delivery.destination),
      h("span", { class: "dim" }, `on ${delivery.condition}`, delivery.generation > 1 && `, generation ${delivery.generation}`, due),
      h("span", { class: "grow" }),
      redeliver && h("button", { type: "button", class: "small", onclick: () => redeliver(delivery.callbackId) }, "Redeliver"),
    ),
    tries.length > 0 &&
      h("div", { class: "scroll" }, h("table", { class: "tries" }, h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, tries))),
  );
}

const LOOKS = { Delivered: "state-succeeded", Pending: "state-retrying", Failed: "state-failed", Blocked: "state-failed" };
