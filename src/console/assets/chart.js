// The chart of the last hour: stacked bars of succeeded and failed tasks, and a line for accepted tasks.

import { h, put, s } from "./dom.js";
import { count } from "./format.js";

const HEIGHT = 200;
const LEFT = 44;
const BOTTOM = 24;
const TOP = 10;

/** Draws `minutes` into `box`: `{ accepted, succeeded, failed }`, each sixty numbers, oldest first. */
export function draw(box, minutes) {
  const width = Math.max(280, box.clientWidth);
  const { accepted, succeeded, failed } = minutes;
  const ended = succeeded.map((n, at) => n + failed[at]);
  const top = ceiling(Math.max(...accepted, ...ended));
  const step = (width - LEFT) / accepted.length;
  const y = (n) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - n / top);
  const x = (at) => LEFT + at * step;

  const grid = [0, top / 2, top].map((n) => [
    s("line", { class: "grid", x1: LEFT, x2: width, y1: y(n), y2: y(n) }),
    s("text", { class: "tick", x: LEFT - 8, y: y(n) + 4, "text-anchor": "end" }, short(n)),
  ]);
  const ticks = (width < 420 ? [0, 30] : [0, 15, 30, 45]).map((at) => s("text", { class: "tick", x: x(at), y: HEIGHT - 6 }, `−${60 - at} min`));
  const now = s("text", { class: "tick", x: width, y: HEIGHT - 6, "text-anchor": "end" }, "now");
  const bars = accepted.map((_, at) => [
    bar("good", x(at), y(succeeded[at]), y(0), step),
    bar("bad", x(at), y(ended[at]), y(succeeded[at]), step),
  ]);
  const path = accepted.map((n, at) => `${at ? "L" : "M"}${(x(at) + step / 2).toFixed(1)} ${y(n).toFixed(1)}`).join("");
  const cursor = s("rect", { class: "cursor", x: LEFT, y: TOP, width: step, height: HEIGHT - TOP - BOTTOM, visibility: "hidden" });
  const sum = (each) => each.reduce((all, n) => all + n, 0);
  const said = `Last hour: ${count(sum(accepted))} accepted, ${count(sum(succeeded))} succeeded, ${count(sum(failed))} failed`;
  const svg = s(
    "svg",
    { class: "chart", role: "img", "aria-label": said, viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT },
    grid,
    ticks,
    now,
    cursor,
    bars,
    s("path", { class: "line", d: path }),
  );

  const readout = h("p", { class: "readout" });
  const rest = () => {
    cursor.setAttribute("visibility", "hidden");
    put(readout, legend("accepted", sum(accepted)), legend("succeeded", sum(succeeded)), legend("failed", sum(failed)), h("span", { class: "dim" }, "in the last hour"));
  };
  svg.addEventListener("pointermove", (event) => {
    const at = Math.floor((event.offsetX - LEFT) / step);
    if (at < 0 || at >= accepted.length) return rest();
    cursor.setAttribute("x", x(at));
    cursor.setAttribute("visibility", "visible");
    const when = at === 59 ? "this minute" : `${59 - at} min ago`;
    put(readout, legend("accepted", accepted[at]), legend("succeeded", succeeded[at]), legend("failed", failed[at]), h("span", { class: "dim" }, when));
  });
  svg.addEventListener("pointerleave", rest);
  rest();
  put(box, readout, svg);
}

function legend(kind, n) {
  return h("span", { class: `legend ${kind}` }, h("b", {}, count(n)), ` ${kind}`);
}

function bar(kind, x, from, to, step) {
  if (to - from < 0.01) return null;
  const gap = Math.min(2, step / 4);
  return s("rect", { class: `bar ${kind}`, x: x + gap / 2, y: from, width: step - gap, height: to - from });
}

/** The next larger number that is round and whose half is round. */
function ceiling(n) {
  if (n <= 4) return 4;
  const power = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 4, 6, 8, 10].map((factor) => factor * power).find((round) => round >= n);
}

const short = (n) => (n >= 10_000 ? `${n / 1000}k` : count(n));
