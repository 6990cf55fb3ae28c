// Labels as they are written into one field: name=value, a comma between two.

/** The labels in a text. Behind a backslash, a comma is a part of the value; a backslash is written as two. */
export function readLabels(text) {
  const labels = text.match(/(?:\\[\\,]|[^,])+/g) ?? [];
  return labels.map((label) => label.trim().replace(/\\([\\,])/g, "$1")).filter((label) => label !== "");
}

/** Whether each has a name and an equals sign: one that is being written may not yet. */
export const areWhole = (labels) => labels.every((label) => label.indexOf("=") > 0);

/** The text that these labels are read from. */
export function writeLabels(labels) {
  return labels.map((label) => label.replace(/[\\,]/g, "\\$&")).join(", ");
}

/** Each name with its value, as the API takes them in a body. */
export function labelsByName(labels) {
  return Object.fromEntries(labels.map((label) => label.split(/=(.*)/s)));
}
