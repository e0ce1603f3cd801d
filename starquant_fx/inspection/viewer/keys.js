// The keyboard, and the page's buttons.

import { byId, make } from "./text.js";

const HELP = [
  ["← →", "stage before, next stage"],
  ["↑ ↓", "to what the selected node reads, to what reads it"],
  ["Enter", "expand or collapse the selected group"],
  ["C", "collapse all"],
  ["/", "search; Enter jumps to the result"],
  ["+ −", "zoom"],
  ["F", "fit all"],
  ["S", "show what is selected"],
  ["H", "next kind of heat"],
  ["T", "dark or light"],
  ["Esc", "select nothing, close"],
  ["?", "this help"],
];

/** Binds keys and buttons to what they do. */
export function bindKeys(app) {
  const nextHeat = () => {
    const { options, selectedIndex } = byId("heat");
    app.setHeat(options[(selectedIndex + 1) % options.length].value);
  };
  const focusSearch = () => {
    byId("search").focus();
    byId("search").select();
  };
  const keys = {
    ArrowLeft: () => app.show(app.stage.index - 1),
    ArrowRight: () => app.show(app.stage.index + 1),
    ArrowUp: () => app.walk(-1),
    ArrowDown: () => app.walk(1),
    Enter: () => app.toggleSelected(),
    c: () => app.collapse(),
    "/": focusSearch,
    "+": () => app.view.zoomBy(1.25),
    "=": () => app.view.zoomBy(1.25),
    "-": () => app.view.zoomBy(0.8),
    f: () => app.fit(),
    s: () => app.showSelected(),
    h: nextHeat,
    t: () => app.toggleTheme(),
    Escape: () => app.select(null),
    "?": () => byId("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest?.("input, select, textarea, dialog");
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
    // Enter on a button presses it; boxes of the graph are no buttons of their own
    if (event.key === "Enter" && event.target.closest?.("button, summary")) return;
    const press = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!press) return;
    event.preventDefault();
    press();
  });
  const buttons = {
    "zoom-in": keys["+"],
    "zoom-out": keys["-"],
    fit: keys.f,
    collapse: keys.c,
    theme: keys.t,
    "help-open": keys["?"],
    "stage-previous": keys.ArrowLeft,
    "stage-next": keys.ArrowRight,
    sheet: () => app.toggleSheet(),
  };
  for (const [id, press] of Object.entries(buttons)) byId(id).addEventListener("click", press);
  byId("stage-slider").addEventListener("input", (event) => app.show(Number(event.target.value)));
  byId("heat").addEventListener("change", (event) => app.setHeat(event.target.value));
  const rows = HELP.map(([key, what]) =>
    make("tr", {}, make("td", {}, make("kbd", {}, key)), make("td", {}, what)),
  );
  byId("help-keys").replaceChildren(...rows);
}
