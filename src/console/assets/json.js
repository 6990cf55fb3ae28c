// Lays out JSON from its tokens, not from parsed values, so that numbers keep all digits and keys their order.

const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|true|false|null|[[\]{},:]/g;

/** The tokens of a text with its layout, as `{ kind, text }`; null if the text is not JSON. */
export function layout(text) {
  try {
    JSON.parse(text);
  } catch {
    return null;
  }
  const found = text.match(TOKEN) ?? [];
  const out = [];
  let depth = 0;
  const line = () => out.push({ kind: "", text: `\n${"  ".repeat(depth)}` });
  found.forEach((token, at) => {
    const next = found[at + 1];
    if (token === "{" || token === "[") {
      out.push({ kind: "mark", text: token });
      if (next === "}" || next === "]") return;
      depth += 1;
      line();
    } else if (token === "}" || token === "]") {
      if (found[at - 1] !== "{" && found[at - 1] !== "[") {
        depth -= 1;
        line();
      }
      out.push({ kind: "mark", text: token });
    } else if (token === ",") {
      out.push({ kind: "mark", text: token });
      line();
    } else if (token === ":") {
      out.push({ kind: "mark", text: ": " });
    } else {
      out.push({ kind: kindOf(token, next), text: token });
    }
  });
  return out;
}

function kindOf(token, next) {
  if (token.startsWith('"')) return next === ":" ? "key" : "string";
  return /^[-\d]/.test(token) ? "number" : "word";
}

/** The text with its layout; null if it is not JSON. */
export function pretty(text) {
  return layout(text)?.map((token) => token.text).join("") ?? null;
}
