// Addresses within the page. They are in the fragment, so the server sees one address only, under any prefix.

/** The current address: the parts of the path, and the query. */
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

/** A link to a path with a query, without the query's empty values. */
export function href(parts, query = []) {
  const path = parts.map(encodeURIComponent).join("/");
  const kept = [...new URLSearchParams(query)].filter(([, value]) => value !== "");
  const text = new URLSearchParams(kept).toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

export const taskHref = (id) => href(["tasks", id]);

/** Opens an address. `replace` adds no entry to the history, as for every letter typed into a filter. */
export function go(address, { replace = false } = {}) {
  if (replace) location.replace(address);
  else location.hash = address;
}
