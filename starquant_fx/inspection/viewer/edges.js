// What flows between the items of one group: edges between them, and ports to what is outside.

import { keyOf } from "./groups.js";

/** A source that more items read is written on its readers instead of drawn as edges: one outside the group, or an
    item of it, whose edges say more. */
const MANY_READERS = { outside: 4, item: 12 };
/** So many different sources from outside have a port of their own; more come as one port for each group. */
const MANY_PORTS = 10;

/** Finds the edges within a group.

    Returns edges ({from, to, tensors}; keys of items or ports), ports by key ({key, side, label, names}),
    and notes: key of an item -> names of the sources that many items read. */
export function edgesWithin(tree, group) {
  const edges = new Map();
  const ports = new Map();
  const readers = tree.stage.readers;
  const join = (from, to, tensor) => {
    const key = `${from}\n${to}`;
    if (!edges.has(key)) edges.set(key, { key, from, to, tensors: [] });
    edges.get(key).tensors.push(tensor);
  };
  for (const node of group.all) {
    const item = keyOf(tree.itemIn(group, node.name));
    for (const { node: source, output, argument } of node.sources) {
      const other = tree.itemIn(group, source);
      const tensor = { source, output, argument, reader: node.name };
      if (!other) join(port(ports, "in", `i:${source}`, source), item, tensor);
      else if (keyOf(other) !== item) join(keyOf(other), item, tensor);
    }
    if (group === tree.root) continue;
    for (const { node: reader, output, argument } of readers.get(node.name) ?? []) {
      if (tree.itemIn(group, reader)) continue;
      const tensor = { source: node.name, output, argument, reader };
      join(item, port(ports, "out", `o:${item}`, reader), tensor);
    }
  }
  const notes = withoutMany(edges, ports);
  return { edges: [...joined(edges, ports, tree, group).values()], ports, notes };
}

function port(ports, side, key, name) {
  if (!ports.has(key)) ports.set(key, { key, side, names: [] });
  const { names } = ports.get(key);
  if (!names.includes(name)) names.push(name);
  return key;
}

/** Takes the edges away of sources that many items read, and says what each item so reads. */
function withoutMany(edges, ports) {
  const from = new Map();
  for (const edge of edges.values()) {
    if (edge.to.startsWith("o:")) continue;
    if (!from.has(edge.from)) from.set(edge.from, []);
    from.get(edge.from).push(edge);
  }
  const notes = new Map();
  for (const [key, list] of from) {
    if (list.length <= (ports.has(key) ? MANY_READERS.outside : MANY_READERS.item)) continue;
    for (const edge of list) {
      edges.delete(edge.key);
      if (!notes.has(edge.to)) notes.set(edge.to, []);
      notes.get(edge.to).push(...new Set(edge.tensors.map((t) => t.source)));
    }
    ports.delete(key);
  }
  return notes;
}

/** Joins the ports that come from one group where there are many. */
function joined(edges, ports, tree, group) {
  const inner = [...ports.values()].filter((p) => p.side === "in");
  if (inner.length <= MANY_PORTS) return edges;
  const found = new Map();
  for (const edge of edges.values()) {
    let from = edge.from;
    if (from.startsWith("i:")) {
      const name = edge.tensors[0].source;
      const outer = tree.groupOf.get(name);
      from = `i:${outer.key}`;
      port(ports, "in", from, name);
      ports.delete(edge.from);
    }
    const key = `${from}\n${edge.to}`;
    if (!found.has(key)) found.set(key, { key, from, to: edge.to, tensors: [] });
    found.get(key).tensors.push(...edge.tensors);
  }
  return found;
}

/** Type of what an edge carries: of its only tensor, or how many there are. */
export function edgeType(stage, edge) {
  const kinds = new Set();
  const made = new Set();
  for (const { source, output } of edge.tensors) {
    kinds.add(stage.nodes.get(source)?.outputs[output] ?? "");
    made.add(`${source} ${output}`);
  }
  if (kinds.size === 1) {
    const [kind] = kinds;
    return made.size > 1 && kind ? `${made.size} × ${kind}` : kind;
  }
  return `${made.size} tensors`;
}

/** All that an edge carries, one tensor a line. */
export function edgeTitle(stage, edge, most = 12) {
  const lines = edge.tensors.map(({ source, output, argument, reader }) => {
    const node = stage.nodes.get(source);
    const which = node && node.outputs.length > 1 ? `[${output}]` : "";
    return `${source}${which} → ${reader}${argument ? `.${argument}` : ""}: ${node?.outputs[output] ?? "?"}`;
  });
  if (lines.length > most) lines.splice(most, lines.length, `and ${lines.length - most} more`);
  return lines.join("\n");
}
