// The bar of the stages, and the panel while nothing is selected: the recording and its stages.

import { byId, flopsText, make, plural, secondsText, whole } from "./text.js";
import { changeCounts, facts, heading, section } from "./parts.js";
import { siteTable } from "./group_panel.js";

const PRESERVES = {
  bitwise: "keeps the function bitwise",
  numerically: "keeps the function numerically",
  not: "changes the function",
};

function counts(stage) {
  const { added, changed, removed } = stage.changes;
  return changeCounts({ added: added.size, changed: changed.size, removed: removed.size });
}

/** Shows the stage in the bar. */
export function showStage(app) {
  const { stage, recording } = app;
  const slider = byId("stage-slider");
  slider.max = recording.stages.length - 1;
  slider.value = stage.index;
  slider.setAttribute("aria-valuetext", `${stage.name}, ${stage.index + 1} of ${recording.stages.length}`);
  byId("stage-previous").disabled = stage.index === 0;
  byId("stage-next").disabled = stage.index === recording.stages.length - 1;
  byId("stage-number").textContent = `${stage.index + 1}/${recording.stages.length}`;
  byId("stage-name").textContent = stage.text;
  byId("stage-name").title = stage.text;
  const { flops } = app.tree.root.sums;
  const told = [
    make("span", {}, plural(stage.nodes.size, "node")),
    make("span", { id: "stage-changes" }, ...counts(stage)),
    stage.preserves &&
      make("span", { class: `preserves ${stage.preserves}` }, PRESERVES[stage.preserves] ?? stage.preserves),
    stage.seconds > 0 && make("span", { class: "seconds" }, secondsText(stage.seconds)),
    flops > 0 && make("span", { class: "cost" }, flopsText(flops)),
  ];
  byId("stage-facts").replaceChildren(...told.filter(Boolean));
}

/** What the panel shows while nothing is selected. */
export function overviewPanel(app) {
  const { recording, stage } = app;
  const sites = [...recording.sites.values()];
  return [
    heading("recording", recording.model, null, null),
    facts([
      ["recipe", recording.recipe],
      ["forward", `${recording.tokens} tokens`],
      ["package", recording.version],
      ["sites", sites.length > 0 && `${sites.filter((s) => s.bits).length} of ${sites.length} quantized`],
    ]),
    stage.notes.length > 0 &&
      section(
        `Notes of ${stage.name}`,
        make("ul", { class: "notes" }, ...stage.notes.map((n) => make("li", {}, n))),
      ),
    section(
      "Stages",
      make("ol", { class: "stages" }, ...recording.stages.map((s) => make("li", {}, stageRow(app, s)))),
    ),
    sites.length > 0 && section("Sites", siteTable(app, sites)),
  ];
}

function stageRow(app, stage) {
  return make(
    "button",
    {
      type: "button",
      class: "stage",
      "data-stage": stage.name,
      "aria-current": stage === app.stage ? "step" : null,
      title: [stage.text, PRESERVES[stage.preserves], ...stage.notes].filter(Boolean).join("\n"),
      click: () => app.show(stage.index),
    },
    make("span", { class: "title" }, stage.name),
    make("span", { class: "badges" }, ...counts(stage)),
    make(
      "span",
      { class: "below" },
      [
        plural(stage.nodes.size, "node"),
        stage.preserves && (stage.preserves === "not" ? "changes the function" : stage.preserves),
        stage.seconds > 0 && secondsText(stage.seconds),
        stage.notes.length > 0 && plural(stage.notes.length, "note"),
      ]
        .filter(Boolean)
        .join(" · "),
    ),
  );
}

/** Shows what the colours mean. */
export function showLegend(app) {
  const legend = byId("legend");
  const heat = app.heat;
  if (!heat) {
    const kinds = [
      ["added", "+", "added"],
      ["changed", "~", "changed"],
      ["removed", "−", "removed"],
    ];
    const parts = kinds.map(([kind, sign, word]) =>
      make("span", { class: `key ${kind}` }, make("i", {}, sign), word),
    );
    const hint = app.stage.index ? `by ${app.stage.name}` : "by a stage's pass";
    legend.replaceChildren(make("p", {}, ...parts), make("p", { class: "muted" }, hint));
    return;
  }
  const marks = heat.marks.map(({ text, fill, ink }) => {
    const swatch = make("span", { class: "swatch" }, text);
    Object.assign(swatch.style, { background: fill, color: ink });
    return swatch;
  });
  const scale = marks.length
    ? make("p", { class: "scale" }, ...marks)
    : make("p", { class: "muted" }, heat.none);
  legend.replaceChildren(
    make("p", {}, make("b", {}, heat.title), make("span", { class: "muted" }, ` ${heat.groups}`)),
    scale,
  );
}

/** How many nodes and groups are drawn. */
export function showDrawn(app) {
  const boxes = [...app.places.values()].map((p) => p.box.kind);
  const drawn = boxes.filter((k) => k === "node").length;
  byId("graph").setAttribute(
    "aria-label",
    `Graph after ${app.stage.name}: ${whole(drawn)} of ${plural(app.stage.nodes.size, "node")} shown one by one`,
  );
}
