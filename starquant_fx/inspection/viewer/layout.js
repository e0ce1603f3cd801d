// Where things stand: every expanded group is laid out on its own, so that each layout is small.

import { clipped, shortOperator, textWidth, whole } from "./text.js";
import { edgesWithin, edgeType } from "./edges.js";
import { isGroup, keyOf } from "./groups.js";

const PAD = 16;
const HEADER = 30;
const NOTE = 15;
/** Chains of at least so many groups are folded into rows. */
const LONG_CHAIN = 5;
const GAP = { x: 26, y: 30 };
/** More edges than this within a group are drawn without their types. */
const MOST_LABELS = 120;
/** Removed nodes that a group shows; its panel lists all. */
export const MOST_GHOSTS = 12;

const shapes = new Map();
let columns = [8, 7, 6, 5];

/** Numbers of columns that chains may be folded into, the preferred first. */
export function setColumns(numbers) {
  columns = numbers;
}

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

/** The boxes in order where they are a long chain of groups, each reading only the one before; or null. */
function longChain(boxes, edges) {
  const groups = boxes.filter((b) => b.kind === "group" || b.kind === "open");
  if (groups.length < LONG_CHAIN || boxes.some((b) => b.kind === "node")) return null;
  const at = new Map(groups.map((b, i) => [b.key, i]));
  const isNext = ({ from, to }) => !at.has(from) || !at.has(to) || at.get(to) === at.get(from) + 1;
  return edges.every(isNext) ? groups : null;
}

/** Rows of a chain; an expanded group has a row of its own. */
function folded(chain, boxes, edges) {
  const most = bestColumns(chain.length);
  const rows = [];
  const ports = (side) => boxes.filter((b) => b.port?.side === side);
  if (ports("in").length) rows.push(ports("in"));
  let row = null;
  const width = Math.max(...chain.map((b) => (b.kind === "open" ? 0 : b.width)));
  for (const box of chain) {
    if (box.kind !== "open") box.width = width;
    if (box.kind === "open") rows.push([box]);
    else if (row && row.length < most && rows.at(-1) === row) row.push(box);
    else rows.push((row = [box]));
  }
  if (ports("out").length) rows.push(ports("out"));
  let [right, y] = [0, 0];
  for (const one of rows) {
    let x = 0;
    const height = Math.max(...one.map((b) => b.height));
    for (const box of one) {
      Object.assign(box, { x, y: y + (height - box.height) / 2 });
      x += box.width + GAP.x;
    }
    right = Math.max(right, x - GAP.x);
    y += height + GAP.y;
  }
  const known = new Map(boxes.map((b) => [b.key, b]));
  const lines = edges.map((e) => ({
    ...e,
    points: step(known.get(e.from), known.get(e.to)),
    straight: true,
  }));
  return { width: right, height: Math.max(0, y - GAP.y), edges: lines };
}

/** The number of columns that leaves the fewest places empty. */
function bestColumns(count) {
  const gaps = (c) => (c - (count % c)) % c;
  return columns.reduce((best, c) => (gaps(c) < gaps(best) ? c : best));
}

/** A line to the right within a row, or down and back to the start of the next. */
function step(a, b) {
  const middle = (box) => box.y + box.height / 2;
  if (a.y < b.y + b.height && b.y < a.y + a.height && a.x < b.x) {
    return [
      { x: a.x + a.width, y: middle(a) },
      { x: b.x, y: middle(b) },
    ];
  }
  const [from, to] = [a.x + a.width / 2, b.x + Math.min(b.width / 2, 60)];
  const half = b.y - GAP.y / 2;
  return [
    { x: from, y: a.y + a.height },
    { x: from, y: half },
    { x: to, y: half },
    { x: to, y: b.y },
  ];
}

/** Boxes in layers, by dagre. Groups of the same shape, such as the layers of a model, are laid out once. */
function layered(stage, boxes, edges) {
  const labelled = edges.length <= MOST_LABELS;
  const told = new Set();
  const labels = edges.map((edge) => {
    const text = labelled ? edgeType(stage, edge) : "";
    const key = `${edge.from} ${text}`;
    if (told.has(key)) return "";
    told.add(key);
    return text.length > 34 ? "" : text;
  });
  const number = new Map(boxes.map((b, i) => [b.key, i]));
  const sizes = boxes.map((b) => [b.width, b.height]);
  const lines = edges.map((e, i) => {
    const width = labels[i] ? Math.ceil(textWidth(labels[i], 10) / 10) * 10 + 8 : 0;
    return [number.get(e.from), number.get(e.to), width];
  });
  const key = JSON.stringify([sizes, lines]);
  if (!shapes.has(key)) {
    if (shapes.size > 500) shapes.clear();
    shapes.set(key, dagreLayout(sizes, lines));
  }
  const { width, height, places, paths } = shapes.get(key);
  boxes.forEach((box, i) => Object.assign(box, places[i]));
  const drawn = edges.map((edge, i) => ({ ...edge, ...paths[i], text: labels[i] }));
  return { width, height, edges: drawn };
}

/* global dagre */
function dagreLayout(sizes, lines) {
  if (!sizes.length) return { width: 0, height: 0, places: [], paths: [] };
  const graph = new dagre.graphlib.Graph();
  const ranker = sizes.length > 300 ? "longest-path" : "network-simplex";
  graph.setGraph({ rankdir: "TB", nodesep: 24, edgesep: 14, ranksep: 34, ranker });
  sizes.forEach(([width, height], i) => graph.setNode(String(i), { width, height }));
  for (const [from, to, width] of lines) {
    graph.setEdge(String(from), String(to), { width, height: width ? 12 : 0, labelpos: "c" });
  }
  dagre.layout(graph);
  const places = sizes.map(([width, height], i) => {
    const { x, y } = graph.node(String(i));
    return { x: x - width / 2, y: y - height / 2 };
  });
  const paths = lines.map(([from, to, width]) => {
    const { points, x, y } = graph.edge(String(from), String(to));
    return { points, at: width ? { x, y } : null };
  });
  return boundedBy({ width: graph.graph().width, height: graph.graph().height, places, paths });
}

/** Makes room for lines beyond the outermost boxes, of which dagre's width does not tell. */
function boundedBy({ width, height, places, paths }) {
  const across = paths.flatMap(({ points }) => points.map(({ x }) => x));
  const left = across.reduce((a, b) => Math.min(a, b - 2), 0);
  const right = across.reduce((a, b) => Math.max(a, b + 2), width);
  const moved = (place) => ({ ...place, x: place.x - left });
  return {
    width: right - left,
    height,
    places: places.map(moved),
    paths: paths.map(({ points, at }) => ({ points: points.map(moved), at: at && moved(at) })),
  };
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
