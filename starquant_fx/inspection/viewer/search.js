// Search by name, operator, module, role or constant.

import { byId, make } from "./text.js";

const MOST = 40;

/** What a node is found by. */
function haystack(node) {
  const tensors = node.tensors.map(([, name]) => name).join(" ");
  return `${node.name} ${node.operator} ${node.module} ${node.role} ${node.part} ${node.bits} ${tensors}`.toLowerCase();
}

const indexed = new Map();

function indexOf(app, stage) {
  if (!indexed.has(stage)) {
    const nodes = [...stage.nodes.values()].map((node) => ({ stage, node, text: haystack(node) }));
    const groups = [...app.treeOf(stage).groups()].filter((g) => g.parent);
    indexed.set(stage, [
      ...nodes,
      ...groups.map((group) => ({ stage, group, text: group.path.toLowerCase() })),
    ]);
  }
  return indexed.get(stage);
}

/** What the shown stage has, or else the nearest stage that has any. */
export function search(app, query) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return [];
  const away = (stage) => Math.abs(stage.index - app.stage.index);
  for (const stage of [...app.recording.stages].sort((a, b) => away(a) - away(b))) {
    const found = searchIn(indexOf(app, stage), words);
    if (found.length) return found;
  }
  return [];
}

/** Nodes and groups that have all words: whole names first, then the starts of names, then the rest in order. */
function searchIn(index, words) {
  const rank = ({ node, group }) => {
    const name = (node?.name ?? group.path).toLowerCase();
    return name === words[0] ? 0 : name.startsWith(words[0]) ? 1 : name.endsWith(words[0]) ? 2 : 3;
  };
  const found = index.filter(({ text }) => words.every((word) => text.includes(word)));
  return found
    .map((one) => [rank(one), one])
    .sort((a, b) => a[0] - b[0])
    .map(([, one]) => one);
}

/** Binds the field and its list of results. */
export function bindSearch(app) {
  const [field, results] = [byId("search"), byId("results")];
  let [found, at] = [[], 0];

  const close = () => {
    results.hidden = true;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const choose = (i) => {
    const one = found[i];
    if (!one) return;
    close();
    field.blur();
    if (one.node) app.go(one.stage.index, one.node.name);
    else {
      app.show(one.stage.index);
      app.jumpGroup(one.group.path);
    }
  };
  const mark = () => {
    [...results.querySelectorAll("[role=option]")].forEach((row, i) => {
      row.setAttribute("aria-selected", String(i === at));
      if (i === at) row.scrollIntoView({ block: "nearest" });
    });
    if (found.length) field.setAttribute("aria-activedescendant", `result-${at}`);
  };
  const show = () => {
    found = search(app, field.value);
    at = 0;
    const rows = found.slice(0, MOST).map((one, i) => resultRow(one, i, () => choose(i)));
    const more = found.length - rows.length;
    if (more > 0)
      rows.push(make("div", { class: "muted", role: "presentation" }, `and ${more} more; type more words`));
    const none = found.length
      ? `not in ${app.stage.name}, but in ${found[0].stage.name}:`
      : "nothing found in any stage";
    if (found[0]?.stage !== app.stage)
      rows.unshift(make("div", { class: "muted", role: "presentation" }, none));
    results.replaceChildren(...rows);
    results.hidden = field.value.trim() === "";
    field.setAttribute("aria-expanded", String(!results.hidden));
    mark();
  };

  field.addEventListener("input", show);
  field.addEventListener("focus", show);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    const last = Math.min(found.length, MOST) - 1;
    if (event.key === "ArrowDown") at = Math.min(last, at + 1);
    else if (event.key === "ArrowUp") at = Math.max(0, at - 1);
    else if (event.key === "Enter") choose(at);
    else if (event.key === "Escape") field.blur();
    if (["ArrowDown", "ArrowUp"].includes(event.key)) mark();
    if (["ArrowDown", "ArrowUp", "Enter", "Escape"].includes(event.key)) {
      event.preventDefault();
      event.stopPropagation();
    }
  });
}

function resultRow({ node, group }, i, choose) {
  // pressed, not clicked: a click comes after the field has lost the focus and the list is gone
  const press = (event) => {
    event.preventDefault();
    choose();
  };
  return make(
    "div",
    { role: "option", id: `result-${i}`, "aria-selected": "false", mousedown: press },
    make("span", { class: "title" }, node ? node.name : group.path),
    make(
      "span",
      { class: "muted" },
      node ? `${node.operator}${node.module ? ` in ${node.module}` : ""}` : `group of ${group.all.length}`,
    ),
  );
}
