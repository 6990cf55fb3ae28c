// The frame of the page: navigation, theme and search box.

import { h, put } from "./dom.js";
import { invoke } from "./invoke.js";
import { listen, showHelp } from "./keys.js";
import { overview } from "./overview.js";
import { current, go, taskHref } from "./route.js";
import { settings } from "./settings.js";
import { task } from "./task.js";
import { tasks } from "./tasks.js";

const PAGES = { overview: ["Overview", overview], tasks: ["Tasks", tasks], task: ["Task", task], invoke: ["Invoke", invoke], settings: ["Settings", settings] };

const main = document.getElementById("main");

/** The open page: its key, the function that applies a new query, and the controller that ends it. */
let open = { key: null, update: null, ending: new AbortController() };

function pageOf({ parts }) {
  if (parts.length === 0) return "overview";
  if (parts[0] === "tasks") return parts.length === 2 ? "task" : "tasks";
  return PAGES[parts[0]] ? parts[0] : null;
}

async function show() {
  const route = current();
  const name = pageOf(route);
  const key = [name, ...route.parts].join("/");
  if (key === open.key) return open.update?.(route);
  open.ending.abort();
  const ending = new AbortController();
  const mine = { key, update: null, ending };
  open = mine;
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.dataset.page === name || (name === "task" && link.dataset.page === "tasks");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const root = h("div", { class: `page page-${name}` });
  put(main, root);
  scrollTo({ top: 0 });
  if (!name) {
    put(root, h("h1", {}, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "Overview")));
    return;
  }
  const [title, draw] = PAGES[name];
  document.title = `${title} · respond-async`;
  try {
    mine.update = await draw(root, route, { signal: ending.signal });
  } catch (error) {
    put(root, h("p", { class: "error", role: "alert" }, error.message));
  }
}

const THEMES = { auto: ["light dark", "Auto", "◐"], light: ["light", "Light", "☀"], dark: ["dark", "Dark", "☾"] };

function setTheme(name) {
  const [scheme, said, sign] = THEMES[name] ?? THEMES.auto;
  document.documentElement.style.colorScheme = scheme;
  const button = document.getElementById("theme");
  button.textContent = sign;
  button.title = `Theme: ${said}`;
  button.setAttribute("aria-label", `Theme: ${said}`);
}

function themes() {
  const key = "respond-async.theme";
  setTheme(localStorage.getItem(key));
  document.getElementById("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    const next = names[(names.indexOf(localStorage.getItem(key) ?? "auto") + 1) % names.length];
    localStorage.setItem(key, next);
    setTheme(next);
  });
}

const find = document.getElementById("find");
find.addEventListener("submit", (event) => {
  event.preventDefault();
  const id = find.elements.id.value.trim();
  if (id) go(taskHref(id));
  find.reset();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
document.getElementById("help").addEventListener("click", showHelp);
addEventListener("hashchange", show);
themes();
listen();
show();
