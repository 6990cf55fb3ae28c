// Shows a body: as JSON, text or hexadecimal; as an image only on request, from a `data:` URL.

import { add, copy, h, put } from "./dom.js";
import { bytes as lengthOf } from "./format.js";
import { layout } from "./json.js";

/** Longer JSON is shown without colours, which would take too long. */
const COLOURED = 200_000;
/** How many bytes are shown in hexadecimal at first. */
const HEX = 4096;
/** How much text is shown at first: laying out megabytes takes the browser seconds. */
const SHOWN = 500_000;

const IMAGES = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/bmp", "image/svg+xml"];

/** The headers and the body of a request or a response. */
export function message(document, name) {
  const type = document.headers.find(([header]) => header.toLowerCase() === "content-type")?.[1] ?? "";
  return [headerTable(document.headers), body(document, type, name)];
}

export function headerTable(headers) {
  if (headers.length === 0) return h("p", { class: "dim" }, "No headers.");
  const rows = headers.map(([name, value]) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: value.includes("REDACTED") ? "redacted" : "" }, value)),
  );
  const count = `${headers.length} ${headers.length === 1 ? "header" : "headers"}`;
  return h("details", { class: "headers" }, h("summary", {}, count), h("table", {}, h("tbody", {}, rows)));
}

/** Shows the body of `{ body, bodyEncoding, truncated }`. */
export function body(document, type, name) {
  const binary = document.bodyEncoding === "base64";
  const raw = binary ? decode(document.body) : new TextEncoder().encode(document.body);
  if (raw.length === 0) return h("p", { class: "dim" }, "The body is empty.");

  const tokens = binary ? null : layout(document.body.slice(0, 4 * SHOWN));
  const views = {};
  if (tokens) views.JSON = () => jsonView(tokens);
  if (!binary) views.Text = () => textView(document.body);
  views.Hex = () => hexView(raw);
  const image = IMAGES.find((kind) => type.toLowerCase().startsWith(kind));
  if (image) views.Image = () => h("img", { class: "payload-image", alt: "The body as an image", src: dataUrl(image, raw) });

  const place = h("div", { class: "payload" });
  const buttons = Object.entries(views).map(([title, view]) => {
    const show = () => {
      put(place, view());
      for (const button of buttons) button.setAttribute("aria-pressed", button === chosen);
    };
    const chosen = h("button", { type: "button", class: "small", onclick: show }, title === "Image" ? "Show image" : title);
    return chosen;
  });
  const tools = h(
    "div",
    { class: "row payload-tools" },
    h("div", { class: "segments", role: "group", "aria-label": "How to show the body" }, buttons),
    h("span", { class: "dim" }, lengthOf(raw.length), type && ` · ${type}`, document.truncated && " · cut"),
    h("span", { class: "grow" }),
    !binary && h("button", { type: "button", class: "small", onclick: () => copy(document.body) }, "Copy"),
    h("button", { type: "button", class: "small", onclick: () => download(raw, name) }, "Download"),
  );
  buttons[0].click();
  return [tools, place];
}

function jsonView(tokens) {
  const pre = h("pre", { class: "code", tabindex: 0 });
  const length = tokens.reduce((all, token) => all + token.text.length, 0);
  if (length > COLOURED) return add(pre, tokens.map((token) => token.text).join(""));
  return add(pre, tokens.map((token) => (token.kind && token.kind !== "mark" ? h("span", { class: `j-${token.kind}` }, token.text) : token.text)));
}

function textView(text) {
  const pre = h("pre", { class: "code", tabindex: 0 }, text.slice(0, SHOWN));
  return text.length > SHOWN ? [pre, more(() => (pre.textContent = text))] : pre;
}

function hexView(raw) {
  const pre = h("pre", { class: "code hex", tabindex: 0 }, hex(raw.subarray(0, HEX)));
  return raw.length > HEX ? [pre, more(() => (pre.textContent = hex(raw)))] : pre;
}

function more(show) {
  const button = h("button", { type: "button", class: "small", onclick: () => (show(), button.remove()) }, "Show all of it");
  return button;
}

/** A hex dump: offset, sixteen bytes, and their printable characters. */
export function hex(raw) {
  const lines = [];
  for (let at = 0; at < raw.length; at += 16) {
    const row = raw.subarray(at, at + 16);
    const digits = [...row].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = [...row].map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "·")).join("");
    lines.push(`${at.toString(16).padStart(8, "0")}  ${digits.padEnd(47)}  ${text}`);
  }
  return lines.join("\n");
}

export function decode(base64) {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

function encode(raw) {
  let text = "";
  for (let at = 0; at < raw.length; at += 8192) text += String.fromCharCode(...raw.subarray(at, at + 8192));
  return btoa(text);
}

const dataUrl = (kind, raw) => `data:${kind};base64,${encode(raw)}`;

/** Saves bytes under a name, always as a type that the browser does not open. */
function download(raw, name) {
  const url = URL.createObjectURL(new Blob([raw], { type: "application/octet-stream" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
