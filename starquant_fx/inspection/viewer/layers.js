// Boxes in layers, placed by dagre.

import { textWidth } from "./text.js";
import { edgeType } from "./edges.js";

/** More edges than this within a group are drawn without their types. */
const MOST_LABELS = 120;

const shapes = new Map();

/** Places boxes and lines. Groups of the same shape, such as the layers of a model, are laid out once. */
export function layered(stage, boxes, edges) {
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
    const [from, to] = [number.get(e.from), number.get(e.to)];
    // groups may read each other; then what comes first in the graph stands above
    const isBack = from > to && !boxes[from].port;
    return [from, to, width, isBack];
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
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  const ranker = sizes.length > 300 ? "longest-path" : "network-simplex";
  graph.setGraph({ rankdir: "TB", nodesep: 24, edgesep: 14, ranksep: 34, ranker });
  sizes.forEach(([width, height], i) => graph.setNode(String(i), { width, height }));
  const ends = ([from, to, , isBack], i) => (isBack ? [to, from, i] : [from, to, i]).map(String);
  lines.forEach((line, i) => {
    const [from, to, name] = ends(line, i);
    graph.setEdge(from, to, { width: line[2], height: line[2] ? 12 : 0, labelpos: "c" }, name);
  });
  dagre.layout(graph);
  const places = sizes.map(([width, height], i) => {
    const { x, y } = graph.node(String(i));
    return { x: x - width / 2, y: y - height / 2 };
  });
  const paths = lines.map((line, i) => {
    const [, , width, isBack] = line;
    const { points, x, y } = graph.edge(...ends(line, i));
    return { points: isBack ? [...points].reverse() : points, at: width ? { x, y } : null };
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
