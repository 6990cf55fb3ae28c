// The task API. Everything that the page shows of tasks comes from here.

import { askForToken, token } from "./session.js";

const named = (name) => document.querySelector(`meta[name="${name}"]`).content;

// Relative to the page's address with its slash, whether or not the address bar has it.
const home = new URL(location.pathname.replace(/\/?$/, "/"), location.origin);

/** Where the API is, with a slash at its end. */
export const apiUrl = new URL(named("api").replace(/\/*$/, "/"), home);

/** Where the application begins. */
export const rootUrl = new URL(named("root") || "./", home);

/** A refusal of the API, or that it could not be reached. */
export class ApiError extends Error {
  constructor(status, code, detail) {
    super(detail);
    this.status = status;
    this.code = code;
  }

  /** Whether the API does not have what was asked for at all. */
  get isUnknown() {
    return (this.status === 404 && this.code !== "TaskNotFound") || this.status === 405;
  }
}

/** The path of a task, and of what is below it. */
export const taskPath = (id, rest = "") => encodeURIComponent(id) + rest;

/** Sends a request with the caller's token, asking for one when it is needed: the response, when it is no refusal. */
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
      // Another request may have got a token meanwhile.
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
    // No problem document: a front's own page, say.
  }
  const detail = problem.detail ?? `The API answered ${response.status}.`;
  return new ApiError(response.status, problem.code ?? "", detail);
}

/** A document. */
export async function get(path, options) {
  return (await request("GET", path, options)).json();
}

/** A change: its document, or null where there is none. */
export async function change(method, path, options) {
  const response = await request(method, path, options);
  return response.status === 204 ? null : response.json();
}

let settings = null;

/** What is in force and what the caller may do; asked for once. */
export function inForce() {
  settings ??= get("settings").catch((error) => {
    settings = null;
    throw error;
  });
  return settings;
}

/** Whether the caller may do this, as far as is known: the API has the last word. */
export async function may(permission) {
  try {
    return (await inForce()).access.permissions.includes(permission);
  } catch {
    return true;
  }
}
