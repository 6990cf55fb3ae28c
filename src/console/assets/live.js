// Keeps a view up to date: by the API's events, or by polling if the API serves none.

import { h, put } from "./dom.js";
import { read } from "./events.js";
import { askForToken, isDeclined } from "./session.js";

const POLL = 2000;
const LEAST = 250;

/** Whether the API serves no events; found out once. */
let noEvents = false;

/**
 * Calls `refresh` when something may have changed, never concurrently and at most four times a second. Returns a
 * function that triggers a refresh. There is no stream while the page is hidden, since browsers open at most six
 * connections to a server; and none while `idle()` is true, until the next refresh.
 */
export function follow(path, { refresh, heard, signal, idle = () => false }) {
  let stream = null;
  let waiting = null;
  let retrying = null;
  let lastId;
  let failures = 0;

  const again = throttled(async () => {
    if (signal.aborted) return;
    try {
      await refresh();
      notice(null);
    } catch (error) {
      if (error.name === "AbortError") return;
      notice(error);
      // Retries even if the stream is still open: the next event may be far away.
      clearTimeout(retrying);
      if (!isDeclined()) retrying = setTimeout(again, POLL);
    }
    listen();
  });

  async function listen() {
    if (stream || waiting || document.hidden || signal.aborted) return;
    if (idle() || isDeclined()) return pulse("");
    if (noEvents) return pause("polling", POLL);
    stream = new AbortController();
    const mine = stream;
    try {
      await read(path, {
        lastId,
        signal: AbortSignal.any([signal, mine.signal]),
        opened() {
          failures = 0;
          pulse("live");
          again();
        },
        heard(event) {
          lastId = event.id ?? lastId;
          heard?.(event);
          again();
        },
      });
      pause("", LEAST);
    } catch (error) {
      if (signal.aborted || mine.signal.aborted) return;
      noEvents = error.isUnknown === true;
      failures += 1;
      pause(error.status === 0 ? "lost" : "polling", Math.min(POLL * failures, 10_000));
    } finally {
      if (stream === mine) stream = null;
    }
  }

  // Refreshes after a while; until then there is no stream.
  function pause(kind, wait) {
    stream = null;
    if (kind) pulse(kind);
    waiting = setTimeout(() => {
      waiting = null;
      again();
    }, wait);
  }

  function seen() {
    if (document.hidden) {
      stream?.abort();
      stream = null;
    } else {
      again();
    }
  }
  document.addEventListener("visibilitychange", seen, { signal });
  signal.addEventListener("abort", () => {
    clearTimeout(waiting);
    clearTimeout(retrying);
    pulse("");
    notice(null);
  });
  again();
  return again;
}

/** Merges calls in quick succession into one, and never runs `work` concurrently. */
export function throttled(work) {
  let running = false;
  let wanted = false;
  return async function again() {
    wanted = true;
    if (running) return;
    running = true;
    while (wanted) {
      wanted = false;
      try {
        await work();
      } catch (error) {
        if (error.name !== "AbortError") notice(error);
      }
      await new Promise((resolve) => setTimeout(resolve, LEAST));
    }
    running = false;
  };
}

/** Shows an error above the page; `null` removes it. */
function notice(error) {
  const place = document.getElementById("notice");
  const text = error?.message ?? "";
  if (place.dataset.says === text) return;
  place.dataset.says = text;
  place.hidden = !text;
  const signIn = error?.status === 401 && h("button", { type: "button", class: "small", onclick: signInAgain }, "Sign in");
  put(place, h("span", {}, text), signIn);
}

async function signInAgain() {
  if (await askForToken({ again: true })) location.reload();
}

const SAID = {
  live: ["live", "Changes are shown as they happen"],
  polling: ["polling", "The API sends no events here: the page asks again every few seconds"],
  lost: ["no server", "The server cannot be reached; the page goes on trying"],
};

function pulse(kind) {
  const dot = document.getElementById("pulse");
  const [text, title] = SAID[kind] ?? ["", ""];
  dot.className = `pulse ${kind}`;
  dot.title = title;
  if (dot.textContent !== text) dot.textContent = text;
}
