// The side panel for what is selected: a node or an edge.

import { breakable, bytesText, errorText, flopsText, make, plural, sqnrText } from "./text.js";
import { madeIn, nearestStage, siteOf } from "./data.js";
import { changeTag, facts, heading, link, list, nodeLink, section } from "./parts.js";

/** What the panel shows of a node by name, in this stage or in one that has it. */
export function nodePanel(app, name) {
  const { stage, recording } = app;
  const close = () => app.select(null);
  let node = stage.nodes.get(name);
  let from = stage;
  const missing = [];
  if (!node) {
    from = stage.changes.removed.has(name)
      ? stage.before
      : recording.stages[nearestStage(recording, stage.index, name)];
    if (!from) return [heading("node", name, null, close), make("p", {}, "No stage has this node.")];
    node = from.nodes.get(name);
    const why = from === stage.before ? `Removed by ${stage.text}.` : `Not in the stage ${stage.name}.`;
    missing.push(
      make(
        "p",
        { class: "notice" },
        why,
        " Shown as in ",
        link(from.name, () => app.go(from.index, name)),
        ".",
      ),
    );
  }
  const site = siteOf(recording, node);
  return [
    heading("node", node.name, changeTag(stage.change(name)), close),
    ...missing,
    facts([
      ["operator", make("code", {}, node.operator)],
      ["module", node.module && link(node.module, () => app.jumpGroup(node.module))],
      ["role", node.role],
      ["part", node.part],
      ["bits", node.bits],
      ["linear", node.linear !== node.module && breakable(node.linear)],
      ["FLOPs", flopsText(node.flops)],
      ["bytes", bytesText(node.bytes)],
    ]),
    node.outputs.length > 0 && section("Outputs", list(node.outputs.map((kind) => make("code", {}, kind)))),
    inputs(app, from, node),
    readers(app, from, node),
    node.tensors.length > 0 && section("Constants", list(node.tensors.map(constant))),
    node.arguments.length > 0 &&
      section("Arguments", facts(node.arguments.map(([k, v]) => [k || "value", make("code", {}, v)]))),
    provenance(app, from, node),
    difference(app, node),
    site && sitePart(app, site),
  ];
}

function inputs(app, stage, node) {
  if (!node.sources.length) return null;
  const items = node.sources.map(({ node: source, output, argument }) => {
    const kinds = stage.nodes.get(source)?.outputs ?? [];
    const which = kinds.length > 1 ? `[${output}]` : "";
    return [
      make("span", { class: "argument" }, argument),
      " ",
      nodeLink(app, source, stage.index),
      which,
      make("code", { class: "type" }, kinds[output] ?? ""),
    ];
  });
  return section("Inputs", list(items.map(row)));
}

function readers(app, stage, node) {
  const found = stage.readers.get(node.name) ?? [];
  if (!found.length) return null;
  const items = found.map(({ node: reader, output, argument }) => {
    const which = node.outputs.length > 1 ? ` reads [${output}]` : "";
    return [
      nodeLink(app, reader, stage.index),
      make("span", { class: "argument" }, argument && ` as ${argument}`, which),
    ];
  });
  return section(`Readers (${found.length})`, list(items.map(row)));
}

function row(parts) {
  return make("span", { class: "row" }, ...parts);
}

function constant([argument, name, kind]) {
  return row([
    make("span", { class: "argument" }, argument),
    " ",
    ...breakable(name),
    make("code", { class: "type" }, kind),
  ]);
}

/** Which pass made a node, and from what; those are nodes of the stage before. */
function provenance(app, stage, node) {
  const made = madeIn(app.recording, stage.index, node.name);
  const where = link(app.recording.stages[made].text, () => app.go(made, node.name));
  const origins = made > 0 ? node.madeFrom.map((name) => nodeLink(app, name, made - 1)) : [];
  return section(
    "Provenance",
    make(
      "p",
      {},
      made > 0 ? "Made by " : "There since ",
      where,
      node.madeBy !== app.recording.stages[made].name && node.madeBy !== "capture" ? ` (${node.madeBy})` : "",
      origins.length ? " from:" : ".",
    ),
    origins.length > 0 && list(origins),
  );
}

/** What the stage's pass changed of a node. */
function difference(app, node) {
  const { stage } = app;
  if (stage.change(node.name) !== "changed") return null;
  const old = stage.before.nodes.get(node.name);
  const pairs = stage
    .differing(old, node)
    .map((field) => [
      FIELDS[field] ?? field,
      make("span", { class: "diff" }, make("del", {}, told(old[field])), make("ins", {}, told(node[field]))),
    ]);
  return section(`Changed by ${stage.name}`, facts(pairs));
}

const FIELDS = { sources: "inputs", tensors: "constants" };

function told(value) {
  if (!Array.isArray(value)) return value === "" || value == null ? "–" : String(value);
  const one = (v) =>
    Array.isArray(v) ? v.filter(Boolean).join(" ") : typeof v === "object" ? `${v.argument}=${v.node}` : v;
  return value.map(one).join(", ") || "–";
}

function sitePart(app, site) {
  const isShort = site.bytes_after > 0 && site.bytes_before > 0;
  const saved = isShort ? ` (${(site.bytes_before / site.bytes_after).toFixed(2)}× smaller)` : "";
  return section(
    "Site",
    facts([
      ["name", link(site.name, () => app.jumpGroup(site.name))],
      [
        "linears",
        site.linears.length > 1 &&
          site.roles.map((role, i) => `${role} ${site.features}→${site.outputs[i]}`).join(", "),
      ],
      ["size", site.linears.length === 1 && `${site.features} → ${site.outputs[0]}`],
      ["bits", site.bits || "full precision"],
      ["reason", site.reason],
      ["transform", site.transform || "none"],
      ["gates r", site.gates ? String(site.gates) : "none"],
      ["error", errorText(site.error)],
      ["SQNR", sqnrText(site.error)],
      ["leakage", site.leakage == null ? "not fitted" : errorText(site.leakage)],
      ["bytes", `${bytesText(site.bytes_before)} → ${bytesText(site.bytes_after)}${saved}`],
      ["FLOPs", flopsText(site.flops)],
    ]),
  );
}

/** What the panel shows of an edge: all tensors that flow along it. */
export function edgePanel(app, edge) {
  const items = edge.tensors.map(({ source, output, argument, reader }) => {
    const node = app.stage.nodes.get(source);
    return row([
      nodeLink(app, source),
      " → ",
      nodeLink(app, reader),
      make("span", { class: "argument" }, argument && ` as ${argument}`),
      make("code", { class: "type" }, node?.outputs[output] ?? ""),
    ]);
  });
  return [heading("edge", plural(items.length, "tensor"), null, () => app.select(null)), list(items, 40)];
}
