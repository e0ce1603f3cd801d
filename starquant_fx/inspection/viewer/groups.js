// A stage's nodes as a tree of groups: one for every module, with what the stage's pass removed from it.

import { errorOf, siteOf } from "./data.js";

/** Group of nodes that stand in no module, but for the model's inputs. */
export const OUTSIDE = "(outside modules)";
const FEW = 4;

class Group {
  constructor(path, label, parent) {
    Object.assign(this, { path, label, parent });
    this.key = `g:${path}`;
    this.chain = [path];
    this.nodes = [];
    this.removed = [];
    this.groups = new Map();
    /** Nodes and groups in the order of the graph. */
    this.items = [];
  }

  /** All nodes in it and below, in order. */
  get all() {
    this.foundAll ??= this.items.flatMap((i) => (i instanceof Group ? i.all : [i]));
    return this.foundAll;
  }

  get allRemoved() {
    return [...this.removed, ...[...this.groups.values()].flatMap((g) => g.allRemoved)];
  }

  /** Whether the pass removed all that was in it. */
  get gone() {
    return this.all.length === 0;
  }
}

/** Counts and sums of a group and all below it. */
function summed(group, stage, recording) {
  const { added, changed } = stage.changes;
  const found = { added: 0, changed: 0, flops: 0, bytes: 0, sites: new Set(), bits: new Set() };
  for (const node of group.all) {
    found.added += added.has(node.name);
    found.changed += changed.has(node.name);
    found.flops += node.flops ?? 0;
    found.bytes += node.bytes ?? 0;
    if (node.bits) found.bits.add(node.bits);
    const site = siteOf(recording, node);
    if (site) found.sites.add(site);
  }
  found.removed = group.allRemoved.length;
  const errors = group.all.map((node) => errorOf(recording, node)).filter((e) => e != null);
  found.error = errors.length ? errors.reduce((a, b) => Math.max(a, b)) : null;
  return found;
}

/** The groups of a stage. */
export class Tree {
  constructor(recording, stage) {
    this.recording = recording;
    this.stage = stage;
    this.root = new Group("", "", null);
    this.byPath = new Map([["", this.root]]);
    this.groupOf = new Map();
    const gone = [...stage.changes.removed.values()];
    const isOutside = (n) => n.module === "" && n.operator !== "input" && n.operator !== "output";
    this.hasOutside = [...stage.nodes.values()].filter(isOutside).length >= FEW;
    for (const node of stage.nodes.values()) this.place(node, this.groupFor(node), "nodes");
    for (const node of gone) this.place(node, this.groupFor(node), "removed");
    for (const group of [...this.root.groups.values()]) this.merge(group);
    for (const group of this.groups()) group.sums = summed(group, stage, recording);
  }

  place(node, group, list) {
    group[list].push(node);
    if (list === "nodes") group.items.push(node);
    this.groupOf.set(node.name, group);
  }

  groupFor(node) {
    if (node.module) return this.made(node.module);
    const inside = node.operator !== "input" && node.operator !== "output" && this.hasOutside;
    return inside ? this.made(OUTSIDE, [OUTSIDE]) : this.root;
  }

  /** The group of a module, made with all above it where there is none. */
  made(path, parts = path.split(".")) {
    const known = this.byPath.get(path);
    if (known) return known;
    const parent = parts.length > 1 ? this.made(parts.slice(0, -1).join(".")) : this.root;
    const group = new Group(path, parts.at(-1), parent);
    parent.groups.set(path, group);
    parent.items.push(group);
    this.byPath.set(path, group);
    return group;
  }

  /** Puts a group that only holds one other in that one's place, and numbers behind their parent's name. */
  merge(group) {
    for (const child of [...group.groups.values()]) this.merge(child);
    const own = group.label;
    if (group.items.length === 1 && group.groups.size === 1 && !group.removed.length) {
      const [child] = group.groups.values();
      child.label = child.label.startsWith(`${own}.`) ? child.label : `${own}.${child.label}`;
      child.chain.push(...group.chain);
      child.parent = group.parent;
      const { items, groups } = group.parent;
      items[items.indexOf(group)] = child;
      groups.delete(group.path);
      groups.set(child.path, child);
      for (const path of group.chain) this.byPath.set(path, child);
    } else if (/^\d+$/.test(own) && group.parent.label) {
      group.label = `${group.path.split(".").at(-2)}.${own}`;
    }
  }

  *groups(group = this.root) {
    yield group;
    for (const child of group.groups.values()) yield* this.groups(child);
  }

  /** What stands for a node among a group's items: the node or a group; null = it is not in the group. */
  itemIn(group, name) {
    let found = this.groupOf.get(name);
    if (found === group) return this.stage.nodes.get(name) ?? null;
    while (found && found.parent !== group) found = found.parent;
    return found ?? null;
  }

  /** Groups around a node or group, the innermost first, without the root. */
  around(group) {
    const found = [];
    for (let one = group; one && one !== this.root; one = one.parent) found.push(one);
    return found;
  }
}

export function isGroup(item) {
  return item instanceof Group;
}

/** Name of an item that no other has. */
export function keyOf(item) {
  return isGroup(item) ? item.key : `n:${item.name}`;
}

/** How a group as a whole changed: all of it came or went. */
export function groupChange(group) {
  if (group.gone) return "removed";
  const { added, changed, removed } = group.sums;
  if (added === group.all.length) return "added";
  return added + changed + removed > 0 ? "changed" : "";
}
