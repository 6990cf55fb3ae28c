// Server-sent events over fetch. EventSource cannot send an Authorization header, and does not report why it failed.

import { request } from "./api.js";

/** Reads the stream at `path` until it ends, and calls `heard` with every event. */
export async function read(path, { lastId, opened, heard, signal }) {
  const headers = lastId ? { "Last-Event-ID": lastId } : {};
  const response = await request("GET", path, { accept: "text/event-stream", headers, signal });
  opened?.();
  // 204: the stream has no more events.
  if (response.status === 204) return;
  const parser = new Parser(heard);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    parser.take(value);
  }
}

/** Parses a stream into events (HTML, section 9.2.6). */
export class Parser {
  #rest = "";
  #type = "";
  #data = [];
  #id;

  constructor(heard) {
    this.heard = heard;
  }

  take(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) this.#line(line);
  }

  #line(line) {
    if (line === "") return this.#end();
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#type = value;
    else if (name === "data") this.#data.push(value);
    else if (name === "id") this.#id = value;
  }

  #end() {
    if (this.#data.length > 0) {
      let data = this.#data.join("\n");
      try {
        data = JSON.parse(data);
      } catch {
        // Not JSON: kept as text.
      }
      this.heard({ type: this.#type || "message", data, id: this.#id });
    }
    this.#type = "";
    this.#data = [];
  }
}
