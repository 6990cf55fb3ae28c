// The states of a task.

import { h } from "./dom.js";

export const STATES = ["Enqueued", "Running", "Retrying", "Stopping", "Succeeded", "Failed", "Stopped", "Expired", "Invalid"];

const ENDED = new Set(["Succeeded", "Failed", "Stopped", "Expired", "Invalid"]);

export const hasEnded = (state) => ENDED.has(state);

/** What each state means, shown as a tooltip. */
export const MEANING = {
  Enqueued: "waits for a slot or for its time",
  Running: "a handler has it",
  Retrying: "an attempt failed; the next one waits for its time",
  Stopping: "was asked to stop while a handler has it",
  Succeeded: "ended with a response that counts as success",
  Failed: "ended without one",
  Stopped: "ended on request",
  Expired: "waited longer than its age allows",
  Invalid: "could not be run: its record cannot be read",
};

/** The attempt and the maximum. After crashes there is no fixed maximum, so it is left out. */
export const attemptOf = ({ attempt, maxAttempts, crashes }, of) => (crashes ? String(attempt) : `${attempt}${of}${maxAttempts}`);

export const stateClass = (state) => `state-${STATES.includes(state) ? state.toLowerCase() : "other"}`;

export function badge(state) {
  return h("span", { class: `badge ${stateClass(state)}`, title: MEANING[state] }, state);
}
