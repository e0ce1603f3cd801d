// Pieces that panels are put together from.

import { breakable, make, plural } from "./text.js";

/** Longer lists are cut; a button shows the rest. */
const MOST = 12;

export function section(title, ...children) {
  return make("section", {}, make("h3", {}, title), ...children);
}

/** A table of names and values; pairs without a value are left out. */
export function facts(pairs) {
  const rows = pairs
    .filter(([, value]) => value !== "" && value != null && value !== false)
    .flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  return make("dl", {}, ...rows);
}

/** A button that looks like a link. */
export function link(text, press, title = null) {
  return make("button", { class: "link", type: "button", title, click: press }, ...breakable(text));
}

/** A list that starts with a few and shows all on demand. */
export function list(items, most = MOST) {
  const element = make("ul", {}, ...items.slice(0, most).map((item) => make("li", {}, item)));
  if (items.length > most) {
    const rest = make("li", {});
    const show = () => rest.replaceWith(...items.slice(most).map((item) => make("li", {}, item)));
    rest.append(link(`show ${items.length - most} more`, show));
    element.append(rest);
  }
  return element;
}

/** A link to a node of the shown stage, or, where it has none, to that of another. */
export function nodeLink(app, name, index = app.stage.index) {
  const stage = app.recording.stages[index];
  const operator = stage?.nodes.get(name)?.operator ?? "";
  return link(name, () => app.go(index, name), operator);
}

/** "+12 ~4 −3" of counts. */
export function changeCounts({ added, changed, removed }) {
  const parts = [
    ["added", "+", added, "added"],
    ["changed", "~", changed, "changed"],
    ["removed", "−", removed, "removed"],
  ];
  return parts
    .filter(([, , n]) => n)
    .map(([kind, sign, n, word]) =>
      make(
        "span",
        { class: `count ${kind}`, title: plural(n, `node ${word}`, `nodes ${word}`) },
        `${sign}${n.toLocaleString("en-US")}`,
      ),
    );
}

export function changeTag(change) {
  return change ? make("span", { class: `tag ${change}` }, change) : null;
}

export function heading(kind, title, more, close) {
  return make(
    "header",
    { class: "heading" },
    make("div", {}, make("p", { class: "kind" }, kind, " ", more), make("h2", {}, ...breakable(title))),
    close &&
      make(
        "button",
        { class: "icon", type: "button", "aria-label": "Close", title: "Close (Esc)", click: close },
        "×",
      ),
  );
}
