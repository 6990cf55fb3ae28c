// Formats times, lengths and counts.

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long", hour12: false });
const number = new Intl.NumberFormat();

export const count = (n) => number.format(n);

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** A time of day, with the date unless it is today. */
export function time(ms) {
  if (ms === null || ms === undefined) return "–";
  const date = new Date(ms);
  const today = date.toDateString() === new Date().toDateString();
  return today ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

/** A time of day to the millisecond. */
export const exactTime = (ms) => `${clock.format(ms)}.${String(ms % 1000).padStart(3, "0")}`;

export const fullTime = (ms) => `${whole.format(new Date(ms))} (${new Date(ms).toISOString()})`;

/** A span of time in one or two units. */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${trim(ms / 1000)} s`;
  const units = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1000]];
  const at = units.findIndex(([, length]) => ms >= length);
  const [name, length] = units[at];
  const next = units[at + 1];
  const rest = next ? Math.floor((ms % length) / next[1]) : 0;
  return `${Math.floor(ms / length)} ${name}${rest ? ` ${rest} ${next[0]}` : ""}`;
}

export const ago = (ms) => {
  const passed = Date.now() - ms;
  return passed < 1500 ? "now" : `${duration(passed < 60_000 ? Math.floor(passed / 1000) * 1000 : passed)} ago`;
};

export function bytes(n) {
  if (n < 1024) return plural(n, "byte");
  const units = ["KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length, Math.floor(Math.log2(n) / 10));
  return `${trim(n / 1024 ** power)} ${units[power - 1]}`;
}

const trim = (n) => (n < 10 ? n.toFixed(1).replace(/\.0$/, "") : Math.round(n).toString());

/** An id shortened to the width of a column. */
export const shortId = (id) => (id.length > 24 ? `${id.slice(0, 8)}…${id.slice(-8)}` : id);
