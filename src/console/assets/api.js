// Requests to the task API, the source of everything that the page shows about tasks.

import { askForToken, token } from "./session.js";

const named = (name) => document.querySelector(`meta[name="${name}"]`).content;

// The page's address, with a slash at the end even if the address bar has none.
const home = new URL(location.pathname.replace(/\/?$/, "/"), location.origin);

/** The address of the API, with a slash at the end. */
export const apiUrl = new URL(named("api").replace(/\/*$/, "/"), home);

/** The root address of the application. */
export const rootUrl = new URL(named("root") || "./", home);

/** A refusal by the API; or the API cannot be reached. */
export class ApiError extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  /** Whether the API has no such route, as opposed to no such task. */
  get isUnknown() {
    return (this.status === 404 && this.code !== "TaskNotFound") || this.status === 405;
  }
}

/** The path of a task, or of a resource below it. */
export const taskPath = (id, rest = "") => encodeURIComponent(id) + rest;

/** Sends a request with the caller's token, and asks for a token on a 401. Throws a refusal as an `ApiError`. */
export async function request(method, path, { query, json, accept = "application/json", headers = {}, signal } = {}) {
  const url = new URL(path, apiUrl);
  if (query) url.search = new URLSearchParams(query).toString();
  for (;;) {
    const shown = token();
    const all = { Accept: accept, ...headers };
    if (shown) all.Authorization = `Bearer ${shown}`;
    if (json !== undefined) all["Content-Type"] = "application/json";
    const body = json === undefined ? undefined : JSON.stringify(json);
    let response;
    try {
      response = await fetch(url, { method, headers: all, body, signal, cache: "no-store", redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "Unreachable", "The server cannot be reached.");
    }
    if (response.status === 401) {
      // The token may have been entered for another request in the meantime.
      if (token() !== shown || (await askForToken())) continue;
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
}

async function refusal(response) {
  let problem = {};
  try {
    problem = await response.json();
  } catch {
    // Not a problem document, for example a proxy's error page.
  }
  const detail = problem.detail ?? `The API answered ${response.status}.`;
  return new ApiError(response.status, problem.code ?? "", detail);
}

/** Fetches a document. */
export async function get(path, options) {
  return (await request("GET", path, options)).json();
}

/** Makes a change. Returns the document of the answer, or null. */
export async function change(method, path, options) {
  const response = await request(method, path, options);
  return response.status === 204 ? null : response.json();
}

let settings = null;

/** The settings in force and the caller's permissions, fetched once. */
export function inForce() {
  settings ??= get("settings").catch((error) => {
    settings = null;
    throw error;
  });
  return settings;
}

/** Whether the caller has this permission; true if unknown, since the API checks it anyway. */
export async function may(permission) {
  try {
    return (await inForce()).access.permissions.includes(permission);
  } catch {
    return true;
  }
}
