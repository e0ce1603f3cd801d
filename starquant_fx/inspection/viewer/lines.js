// Edges, their types, and ports, as SVG.

import { shape } from "./text.js";
import { edgeTitle } from "./edges.js";

export function at(box) {
  return `translate(${box.x} ${box.y})`;
}

export function text(x, y, name, content, more = {}) {
  return shape("text", { x, y, class: name, ...more }, content);
}

export function title(content) {
  return shape("title", {}, content);
}

/** What stands for a node outside the group. */
export function portShape(box, scene) {
  const { port, label } = box;
  const inward = port.side === "in";
  const names = port.names.slice(0, 12).join("\n");
  const press = (event) => {
    event.stopPropagation();
    scene.actions.jump(port.names[0]);
  };
  return shape(
    "g",
    {
      class: `port ${port.side}`,
      transform: at(box),
      click: press,
      "data-key": box.key,
      role: "button",
      "aria-label": `${inward ? "from" : "to"} ${label}`,
      tabindex: -1,
    },
    title(`${inward ? "from" : "to"}\n${names}`),
    shape("rect", { width: box.width, height: box.height, rx: 11 }),
    text(12, 15, "small", inward ? `↓ ${box.text}` : `→ ${box.text}`),
  );
}

export function edgeShape(edge, scene) {
  const path = edge.straight ? angular(edge.points) : smooth(edge.points);
  const press = (event) => {
    event.stopPropagation();
    scene.actions.edge(edge);
  };
  return shape(
    "g",
    { class: "edge", "data-from": edge.from, "data-to": edge.to, click: press },
    shape("path", { class: "wide", d: path }, title(edgeTitle(scene.stage, edge))),
    shape("path", {
      class: edge.tensors.length > 1 ? "line many" : "line",
      d: path,
      "marker-end": "url(#arrow)",
    }),
  );
}

export function edgeLabel(edge) {
  return text(edge.at.x, edge.at.y + 3.5, "kind", edge.text);
}

function angular(points) {
  return points.map(({ x, y }, i) => `${i ? "L" : "M"}${x} ${y}`).join("");
}

/** A curve through the middles of a line's parts, straight at both ends. */
function smooth(points) {
  if (points.length < 3) return angular(points);
  const middle = (a, b) => `${(a.x + b.x) / 2} ${(a.y + b.y) / 2}`;
  let path = `M${points[0].x} ${points[0].y}`;
  for (let i = 1; i < points.length - 1; i += 1) {
    const end = i === points.length - 2 ? points[i + 1] : null;
    path += `Q${points[i].x} ${points[i].y} ${end ? `${end.x} ${end.y}` : middle(points[i], points[i + 1])}`;
  }
  return path;
}
