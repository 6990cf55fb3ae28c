// Creates elements. External data becomes text nodes or attribute values, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Creates an element: attributes and `on...` listeners, then children; strings become text. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** Creates an SVG element in the same way. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

/** Adds children. Flattens arrays, and skips `null`, `undefined` and `false`. */
export function add(element, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Replaces all children. */
export function put(element, ...children) {
  element.replaceChildren();
  return add(element, children);
}

/** Sets an element's text only if it differs, so that a selection in it is kept. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows a notice at the edge of the page for a few seconds; screen readers read it out. */
export function toast(text, kind = "good") {
  const note = h("div", { class: `toast ${kind}` }, text);
  document.getElementById("toasts").append(note);
  setTimeout(() => note.remove(), kind === "bad" ? 8000 : 4000);
}

/** Copies text to the clipboard, and shows a notice. */
export async function copy(text, said = "Copied") {
  try {
    await navigator.clipboard.writeText(text);
    toast(said);
  } catch {
    // Without HTTPS or permission there is no clipboard: show the text, selected, for the user to copy.
    const area = h("textarea", { class: "code", rows: 6, readonly: true, "aria-label": "Text to copy" });
    area.value = text;
    const done = h("button", { value: "close" }, "Close");
    const dialog = h("dialog", {}, h("form", { method: "dialog" }, h("h2", {}, "Copy this"), area, h("footer", {}, done)));
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
    area.select();
  }
}

/** A section with a heading; `tools` stand to the right of it. */
export function card(title, { tools, ...props } = {}, ...children) {
  const id = `t${Math.random().toString(36).slice(2)}`;
  return h(
    "section",
    { ...props, class: `card ${props.class ?? ""}`, "aria-labelledby": id },
    h("header", {}, h("h2", { id }, title), tools),
    children,
  );
}
