// Addresses within the page. They are in the fragment, so that the server sees one address only, under any prefix.

/** The address now: the parts of the path, and the query. */
export function current() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split(/\?(.*)/s);
  return { parts: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query ?? "") };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** A link to a path and a query; what is empty in the query is left out. */
export function href(parts, query = []) {
  const path = parts.map(encodeURIComponent).join("/");
  const kept = [...new URLSearchParams(query)].filter(([, value]) => value !== "");
  const text = new URLSearchParams(kept).toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

export const taskHref = (id) => href(["tasks", id]);

/** Goes there; `replace` leaves no trace in the history, as for every letter typed into a filter. */
export function go(address, { replace = false } = {}) {
  if (replace) location.replace(address);
  else location.hash = address;
}
