// Where things stand: every expanded group is laid out on its own, so that each layout is small.

import { clipped, shortOperator, textWidth, whole } from "./text.js";
import { edgesWithin } from "./edges.js";
import { isGroup, keyOf } from "./groups.js";
import { folded, longChain } from "./chains.js";
import { layered } from "./layers.js";

const PAD = 16;
const HEADER = 30;
const NOTE = 15;
/** Removed nodes that a group shows; its panel lists all. */
const MOST_GHOSTS = 12;

/** Lays out a group and what is expanded in it.

    Returns {group, width, height, top, note, boxes, edges, more}; a box is {key, kind, item, x, y, width, height,
    inside, note}, placed relative to the group. */
export function layoutOf(tree, group, isExpanded) {
  const found = edgesWithin(tree, group);
  const { common, notes } = shared(group, found.notes);
  const boxes = [];
  for (const item of group.items) {
    if (isGroup(item) && item.gone) continue;
    boxes.push(itemBox(tree, item, isExpanded, notes.get(keyOf(item))));
  }
  for (const port of found.ports.values()) boxes.push(portBox(tree, group, port));
  const top = group.parent ? HEADER + (common.length ? NOTE : 0) : 0;
  const chain = longChain(boxes, found.edges);
  const graph = chain ? folded(chain, boxes, found.edges) : layered(tree.stage, boxes, found.edges);
  const shelf = ghosts(group, Math.max(graph.width, 420));
  for (const ghost of shelf.boxes) ghost.y += graph.height + (graph.height ? 14 : 0);
  const head = group.parent ? textWidth(group.label, 13, 600) + 190 : 0;
  const width = Math.max(graph.width, shelf.width, head) + 2 * PAD;
  const inset = (width - 2 * PAD - graph.width) / 2;
  for (const box of boxes) move(box, PAD + inset, top + PAD);
  for (const ghost of shelf.boxes) move(ghost, PAD, top + PAD);
  for (const edge of graph.edges) {
    edge.points = edge.points.map(({ x, y }) => ({ x: x + PAD + inset, y: y + top + PAD }));
    if (edge.at) edge.at = { x: edge.at.x + PAD + inset, y: edge.at.y + top + PAD };
  }
  const height = top + 2 * PAD + graph.height + (shelf.height ? shelf.height + 14 : 0);
  const note = common.length ? `all parts read ${common.join(", ")}` : "";
  return { group, width, height, top, note, boxes: [...boxes, ...shelf.boxes], edges: graph.edges };
}

function move(box, dx, dy) {
  box.x += dx;
  box.y += dy;
}

/** Sources that all items read are told once. */
function shared(group, notes) {
  const items = group.items.filter((i) => !(isGroup(i) && i.gone)).map(keyOf);
  const [first] = notes.values();
  const common = (first ?? []).filter((name) => items.every((key) => notes.get(key)?.includes(name)));
  const others = new Map();
  for (const [key, names] of notes) {
    const left = names.filter((name) => !common.includes(name));
    if (left.length) others.set(key, [...new Set(left)]);
  }
  return { common, notes: others };
}

function rounded(width, least, most) {
  return Math.min(most, Math.max(least, Math.ceil(width / 10) * 10));
}

function itemBox(tree, item, isExpanded, names) {
  const box = { key: keyOf(item), item, x: 0, y: 0, note: names ? `reads ${names.join(", ")}` : "" };
  if (isGroup(item) && isExpanded(item)) {
    box.kind = "open";
    box.inside = layoutOf(tree, item, isExpanded);
    box.note = "";
    return Object.assign(box, { width: box.inside.width, height: box.inside.height });
  }
  box.kind = isGroup(item) ? "group" : "node";
  const width = isGroup(item)
    ? textWidth(item.label, 13, 600) + textWidth(whole(item.all.length), 11) + 52
    : Math.max(textWidth(shortOperator(item.operator), 13, 600), textWidth(item.name, 11)) + 26;
  box.width = rounded(width, isGroup(item) ? 130 : 100, 230);
  box.height = 44 + (box.note ? NOTE : 0);
  box.note = clipped(box.note, box.width - 20, 11);
  return box;
}

function portBox(tree, group, port) {
  const outer = tree.groupOf.get(port.names[0]);
  let label = port.names[0];
  if (port.names.length > 1) {
    const near = new Set(port.names.map((name) => nearOutside(tree, group, name)));
    label =
      near.size === 1 ? [...near][0] : `${port.names.length} ${port.side === "in" ? "sources" : "readers"}`;
    if (port.key === `i:${outer.key}`) label = `${port.names.length} of ${outer.label || "the model"}`;
  } else if (port.side === "out") {
    label = nearOutside(tree, group, label);
  }
  const text = clipped(label, 170, 11);
  const width = Math.ceil(textWidth(text, 11) / 10) * 10 + 34;
  return { key: port.key, kind: "port", port, text, label, x: 0, y: 0, width, height: 22 };
}

/** What stands for an outer node in the innermost group that holds both it and this group. */
function nearOutside(tree, group, name) {
  for (let around = group.parent; around; around = around.parent) {
    const item = tree.itemIn(around, name);
    if (item) return isGroup(item) ? item.label : item.name;
  }
  return name;
}

/** Removed nodes and groups, in rows below all else. */
function ghosts(group, most) {
  const items = [...group.removed, ...[...group.groups.values()].filter((g) => g.gone)];
  const boxes = [];
  let [x, y, width] = [0, 0, 0];
  const put = (box) => {
    if (x && x + box.width > most) [x, y] = [0, y + 44];
    boxes.push(Object.assign(box, { x, y, height: 36 }));
    width = Math.max(width, x + box.width);
    x += box.width + 10;
  };
  const shown = items.length > MOST_GHOSTS ? items.slice(0, MOST_GHOSTS - 1) : items;
  for (const item of shown) {
    const name = isGroup(item) ? item.label : item.name;
    const operator = isGroup(item) ? "" : shortOperator(item.operator);
    const needed = Math.max(textWidth(name, 11), textWidth(operator, 12, 600)) + 24;
    put({ key: keyOf(item), kind: "ghost", item, width: rounded(needed, 90, 200) });
  }
  if (items.length > shown.length) {
    const label = `${items.length - shown.length} more`;
    put({ key: `m:${group.path}`, kind: "more", label, item: group, width: 90 });
  }
  return { boxes, width, height: boxes.length ? y + 36 : 0 };
}

/** Absolute places of all boxes by key. */
export function placesOf(layout, x = 0, y = 0, found = new Map()) {
  for (const box of layout.boxes) {
    const place = { x: x + box.x, y: y + box.y, width: box.width, height: box.height, box };
    found.set(box.kind === "port" ? `${layout.group.path} ${box.key}` : box.key, place);
    if (box.inside) placesOf(box.inside, place.x, place.y, found);
  }
  return found;
}
