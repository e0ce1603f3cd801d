// The picture: a layout as SVG.

import { clipped, plural, shape, shortOperator, textWidth, whole } from "./text.js";
import { groupChange } from "./groups.js";
import { at, edgeLabel, edgeShape, portShape, text, title } from "./lines.js";

/** Draws a layout.

    Args:
        layout: Of the root.
        scene: {stage, heat, actions}; actions has select, toggle, jump and edge.
    Returns an SVG group. */
export function drawn(layout, scene) {
  return shape("g", {}, ...contents(layout, scene));
}

function contents(layout, scene) {
  return [
    ...layout.edges.map((edge) => edgeShape(edge, scene)),
    ...layout.boxes.map((box) => BOXES[box.kind](box, scene)),
    ...layout.edges.filter((e) => e.text && e.at).map(edgeLabel),
  ];
}

const BOXES = {
  node: nodeShape,
  group: groupShape,
  open: openShape,
  ghost: ghostShape,
  more: moreShape,
  port: portShape,
};

function frame(box, name, heat) {
  const rect = shape("rect", { class: name, width: box.width, height: box.height, rx: 7 });
  if (heat) rect.style.fill = heat.fill;
  return rect;
}

function inked(element, heat) {
  if (heat) element.style.fill = heat.ink;
  return element;
}

/** What all boxes of nodes and groups share: hooks, names for readers of the screen, and clicks. */
function boxed(box, name, hooks, label, scene, ...children) {
  return shape(
    "g",
    {
      class: `box ${name}`,
      transform: at(box),
      tabindex: -1,
      role: "button",
      "aria-label": label,
      "data-key": box.key,
      ...hooks,
      click: (event) => {
        event.stopPropagation();
        scene.actions.select(box.item);
      },
    },
    ...children,
  );
}

function nodeShape(box, scene) {
  const { item: node } = box;
  const change = scene.stage.change(node.name);
  const heat = scene.heat?.color(node);
  const room = box.width - 20;
  const below = (scene.heat && scene.heat.text(node)) || node.name;
  const own = node.operator.startsWith("starquant.") ? "own" : "";
  const label = `${node.operator} ${node.name}${change ? `, ${change}` : ""}`;
  const hooks = { "data-node": node.name, "data-change": change || null };
  return boxed(
    box,
    `node ${own} ${heat ? "hot" : ""}`,
    hooks,
    label,
    scene,
    title(`${node.name}\n${node.operator}\n${node.outputs.join(", ")}`),
    frame(box, "body", heat),
    own && shape("rect", { class: "stripe", x: 0, y: 7, width: 3, height: box.height - 14, rx: 1.5 }),
    inked(text(11, 19, "name", clipped(shortOperator(node.operator), room, 13, 600)), heat),
    inked(text(11, 35, "small", clipped(below, room, 11)), heat),
    box.note && inked(text(11, 50, "small", box.note), heat),
    change && mark(box, change),
  );
}

/** A sign in the corner, for those who do not see the colour. */
function mark(box, change) {
  const sign = { added: "+", changed: "~", removed: "−" }[change];
  return shape(
    "g",
    { class: `mark ${change}`, transform: `translate(${box.width - 8} 0)` },
    shape("circle", { r: 7 }),
    text(0, 4, "sign", sign),
  );
}

function groupTitle(group) {
  const { added, changed, removed } = group.sums;
  const lines = [group.path, plural(group.all.length, "node")];
  if (added + changed + removed) lines.push(`${added} added, ${changed} changed, ${removed} removed`);
  return lines.join("\n");
}

function groupShape(box, scene) {
  const { item: group } = box;
  const change = groupChange(group);
  const heat = scene.heat?.color(group);
  const count = whole(group.all.length);
  const value = scene.heat?.text(group);
  return boxed(
    box,
    `group ${heat ? "hot" : ""}`,
    groupHooks(group, change, false),
    groupLabel(group, "collapsed"),
    scene,
    title(groupTitle(group)),
    shape("rect", { class: "behind", x: 3, y: 3, width: box.width, height: box.height, rx: 7 }),
    frame(box, "body", heat),
    toggle(group, 7, 5, "▸", scene, heat),
    inked(text(26, 19, "name", clipped(group.label, box.width - 44 - textWidth(count, 11), 13, 600)), heat),
    inked(text(box.width - 10, 19, "small end", count), heat),
    value
      ? inked(text(11, 36, "small", value), heat)
      : (badges(group, 11, 36) ?? text(11, 36, "small", clipped(operators(group), box.width - 20, 11))),
    box.note && inked(text(11, 53, "small", box.note), heat),
  );
}

/** What a group does, of which nothing changed. */
function operators(group) {
  return [...new Set(group.all.map((n) => shortOperator(n.operator)))].slice(0, 8).join(", ");
}

function groupHooks(group, change, isOpen) {
  return { "data-group": group.path, "data-change": change || null, "aria-expanded": String(isOpen) };
}

function groupLabel(group, how) {
  const { added, changed, removed } = group.sums;
  const parts = [`group ${group.path}`, how, plural(group.all.length, "node")];
  if (added) parts.push(`${added} added`);
  if (changed) parts.push(`${changed} changed`);
  if (removed) parts.push(`${removed} removed`);
  return parts.join(", ");
}

function toggle(group, x, y, sign, scene, heat) {
  const press = (event) => {
    event.stopPropagation();
    scene.actions.toggle(group);
  };
  return shape(
    "g",
    { class: "toggle", transform: `translate(${x} ${y})`, click: press },
    title(sign === "▸" ? "Expand" : "Collapse"),
    shape("rect", { x: -7, y: -5, width: 30, height: 28, class: "target" }),
    inked(text(8, 14, "chevron", sign), heat),
  );
}

function badges(group, x, y, name = "") {
  const { added, changed, removed } = group.sums;
  const parts = [
    ["added", "+", added],
    ["changed", "~", changed],
    ["removed", "−", removed],
  ];
  const spans = parts
    .filter(([, , n]) => n)
    .map(([kind, sign, n], i) =>
      shape("tspan", { class: `count ${kind}`, dx: i ? 7 : 0 }, `${sign}${whole(n)}`),
    );
  return spans.length ? shape("text", { x, y, class: `small badges ${name}` }, ...spans) : null;
}

function openShape(box, scene) {
  const { item: group, inside } = box;
  const heat = scene.heat?.text(group);
  return boxed(
    box,
    "open",
    groupHooks(group, groupChange(group), true),
    groupLabel(group, "expanded"),
    scene,
    title(groupTitle(group)),
    frame(box, "body"),
    shape("line", { class: "rule", x1: 1, x2: box.width - 1, y1: inside.top, y2: inside.top }),
    toggle(group, 9, 6, "▾", scene),
    text(30, 20, "name", clipped(group.label, box.width - 150, 13, 600)),
    heat ? text(box.width - 14, 20, "small end", heat) : badges(group, box.width - 14, 20, "end"),
    inside.note && text(30, 36, "small", clipped(inside.note, box.width - 44, 11)),
    ...contents(inside, scene),
  );
}

function ghostShape(box, scene) {
  const { item } = box;
  const isNode = item.operator !== undefined;
  const hooks = isNode ? { "data-node": item.name } : { "data-group": item.path };
  const name = isNode ? item.name : item.label;
  const above = isNode ? shortOperator(item.operator) : plural(item.sums.removed, "node");
  return boxed(
    box,
    "ghost",
    { ...hooks, "data-change": "removed" },
    `${name}, removed`,
    scene,
    title(`removed by ${scene.stage.text}\n${isNode ? `${item.name}\n${item.operator}` : item.path}`),
    frame(box, "body"),
    text(11, 15, "name", clipped(isNode ? above : name, box.width - 20, 12, 600)),
    text(11, 29, "small", clipped(isNode ? name : above, box.width - 20, 11)),
    mark(box, "removed"),
  );
}

function moreShape(box, scene) {
  return boxed(
    box,
    "ghost",
    {},
    `${box.label} removed nodes`,
    scene,
    frame(box, "body"),
    text(11, 22, "small", `− ${box.label}`),
  );
}
