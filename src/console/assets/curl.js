// A request as a `curl` command.

/** Quotes a word for a POSIX shell. */
export function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** The command for a request. A binary body is piped through `base64 -d`. */
export function curl({ method, url, headers, body, bodyEncoding }) {
  const words = ["curl", "-i"];
  if (method === "HEAD") words[1] = "-I";
  else if (method !== "GET" || body) words.push("-X", method);
  // Otherwise curl resolves `..` itself.
  if (/\/\.\.?(\/|$)/.test(url)) words.push("--path-as-is");
  words.push(quoted(url));
  const lines = [words.join(" ")];
  for (const [name, value] of headers) lines.push(`-H ${quoted(value === "" ? `${name};` : `${name}: ${value}`)}`);
  const binary = bodyEncoding === "base64";
  if (body) lines.push(binary ? "--data-binary @-" : `--data-raw ${quoted(body)}`);
  const command = lines.join(" \\\n  ");
  return body && binary ? `echo ${body} | base64 -d | ${command}` : command;
}
