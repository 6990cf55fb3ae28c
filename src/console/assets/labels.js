// Labels in one text field: name=value, separated by commas.

/** Parses labels. In a value, a comma is written as `\,` and a backslash as `\\`. */
export function readLabels(text) {
  const labels = text.match(/(?:\\[\\,]|[^,])+/g) ?? [];
  return labels.map((label) => label.trim().replace(/\\([\\,])/g, "$1")).filter((label) => label !== "");
}

/** Whether each label has a name and an equals sign; an unfinished one may not. */
export const areWhole = (labels) => labels.every((label) => label.indexOf("=") > 0);

/** Writes labels so that `readLabels` reads them. */
export function writeLabels(labels) {
  return labels.map((label) => label.replace(/[\\,]/g, "\\$&")).join(", ");
}

/** Converts labels to the API's JSON object. */
export function labelsByName(labels) {
  return Object.fromEntries(labels.map((label) => label.split(/=(.*)/s)));
}
