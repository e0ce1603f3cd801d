// The recording: from the page's compressed text to stages of nodes. packing.py writes what is read here.

/** The JSON values of base64 text of gzip. */
export async function unpacked(base64) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error(
      "This browser cannot unpack the recording. Use one of 2023 or later: Chrome 80, Firefox 113 or Safari 16.4.",
    );
  }
  const bytes = Uint8Array.from(atob(base64.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Numbers that JSON cannot say come as text. */
function number(value) {
  return typeof value === "string" ? Number(value) : value;
}

function grouped(flat, size) {
  const found = [];
  for (let i = 0; i < flat.length; i += size) found.push(flat.slice(i, i + size));
  return found;
}

function nodeReader(fields, strings) {
  const at = Object.fromEntries(fields.map((name, i) => [name, i]));
  const texts = (list) => list.map((i) => strings[i]);
  return (row) => {
    const text = (name) => strings[row[at[name]]];
    return {
      name: text("name"),
      operator: text("operator"),
      module: text("module"),
      sources: grouped(row[at.sources], 3).map(([node, output, argument]) => ({
        node: strings[node],
        output,
        argument: strings[argument],
      })),
      outputs: texts(row[at.outputs]),
      tensors: grouped(texts(row[at.tensors]), 3),
      arguments: grouped(texts(row[at.arguments]), 2),
      role: text("role"),
      site: text("site"),
      part: text("part"),
      linear: text("linear"),
      madeBy: text("made_by"),
      madeFrom: texts(row[at.made_from]),
      bits: text("bits"),
      flops: number(row[at.flops]),
      bytes: number(row[at.bytes]),
    };
  };
}

/** The graph after one pass. What its nodes read and how they differ from the stage before is found when asked for. */
class Stage {
  constructor(told, index, nodes, before, compared) {
    Object.assign(this, { index, nodes, before, compared });
    this.name = told.name;
    this.text = told.text;
    this.preserves = told.preserves;
    this.seconds = number(told.seconds);
    this.notes = told.notes;
  }

  /** Readers of each node: name -> [{node, output, argument}]. */
  get readers() {
    if (!this.foundReaders) {
      this.foundReaders = new Map();
      for (const node of this.nodes.values()) {
        for (const { node: source, output, argument } of node.sources) {
          if (!this.foundReaders.has(source)) this.foundReaders.set(source, []);
          this.foundReaders.get(source).push({ node: node.name, output, argument });
        }
      }
    }
    return this.foundReaders;
  }

  /** Against the stage before: names that came or changed, and nodes that went. The first stage has no changes. */
  get changes() {
    if (!this.foundChanges) {
      const [added, changed, removed] = [new Set(), new Set(), new Map()];
      if (this.before) {
        for (const [name, node] of this.nodes) {
          const old = this.before.nodes.get(name);
          if (!old) added.add(name);
          else if (this.differing(old, node).length) changed.add(name);
        }
        for (const [name, node] of this.before.nodes) {
          if (!this.nodes.has(name)) removed.set(name, node);
        }
      }
      this.foundChanges = { added, changed, removed };
    }
    return this.foundChanges;
  }

  /** Names of the fields in which two nodes of one name differ, as difference.py compares them. */
  differing(old, node) {
    if (old === node) return [];
    return this.compared.filter((field) => JSON.stringify(old[field]) !== JSON.stringify(node[field]));
  }

  /** "added", "changed", "removed" or "". */
  change(name) {
    const { added, changed, removed } = this.changes;
    if (added.has(name)) return "added";
    return changed.has(name) ? "changed" : removed.has(name) ? "removed" : "";
  }
}

/** The recording with stages, nodes and sites. */
export function recordingOf(raw) {
  const nodes = raw.nodes.map(nodeReader(raw.fields, raw.strings));
  const stages = [];
  for (const told of raw.stages) {
    const own = new Map();
    let at = 0;
    for (const step of told.steps) {
      at += step;
      own.set(nodes[at].name, nodes[at]);
    }
    stages.push(new Stage(told, stages.length, own, stages.at(-1), raw.compared));
  }
  const sites = new Map();
  const byLinear = new Map();
  for (const site of raw.sites) {
    site.error = number(site.error);
    site.leakage = number(site.leakage);
    sites.set(site.name, site);
    for (const linear of site.linears) byLinear.set(linear, site);
  }
  const { model, recipe, tokens, package: version } = raw;
  return { model, recipe, tokens, version, stages, sites, byLinear };
}

/** The site that a node belongs to; before sites are found, a linear's is known by its module. */
export function siteOf(recording, node) {
  const known = recording.sites.get(node.site) ?? recording.byLinear.get(node.linear);
  if (known) return known;
  return node.operator.endsWith("linear") ? recording.byLinear.get(node.module) : undefined;
}

/** The error of a node's site, which stands on its products; where they are not quantized there is none. */
export function errorOf(recording, node) {
  const isProduct = node.operator.includes("linear") || node.part === "linear";
  return isProduct && node.bits ? (siteOf(recording, node)?.error ?? null) : null;
}

/** The number of the stage that a node was made in, going back from one that has it. */
export function madeIn(recording, index, name) {
  const { operator } = recording.stages[index].nodes.get(name);
  while (index > 0 && recording.stages[index - 1].nodes.get(name)?.operator === operator) index -= 1;
  return index;
}

/** The number of the nearest stage that has a node; -1 = none. */
export function nearestStage(recording, index, name) {
  const having = recording.stages.filter((s) => s.nodes.has(name)).map((s) => s.index);
  return having.sort((a, b) => Math.abs(a - index) - Math.abs(b - index))[0] ?? -1;
}
