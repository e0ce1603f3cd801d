// Colours of what things cost or lose, and their legend.

import { bytesText, errorText, flopsText } from "./text.js";
import { errorOf } from "./data.js";
import { isGroup } from "./groups.js";

/** Viridis: evenly lighter from end to end, so that it is read alike with any colour vision, and in print. */
const VIRIDIS = [
  [68, 1, 84],
  [72, 40, 120],
  [62, 74, 137],
  [49, 104, 142],
  [38, 130, 142],
  [31, 158, 137],
  [53, 183, 121],
  [110, 206, 88],
  [181, 222, 43],
  [253, 231, 37],
];

export const HEATS = {
  error: {
    title: "Error of sites",
    of: (recording, item) => (isGroup(item) ? item.sums.error : errorOf(recording, item)),
    text: errorText,
    groups: "groups: the largest inside",
    none: "nothing is quantized in this stage, or errors were not measured",
  },
  bytes: {
    title: "Bytes of a forward",
    of: (_, item) => (isGroup(item) ? item.sums.bytes : item.bytes),
    text: bytesText,
    groups: "groups: the sum",
    none: "not counted in this stage",
  },
  flops: {
    title: "FLOPs of a forward",
    of: (_, item) => (isGroup(item) ? item.sums.flops : item.flops),
    text: flopsText,
    mark: (value) => flopsText(value).replace("FLOP", ""),
    groups: "groups: the sum",
    none: "not counted in this stage",
  },
  bits: {
    title: "Bits",
    of: (_, item) => fewest(isGroup(item) ? item.sums.bits : item.bits ? [item.bits] : []),
    text: String,
    groups: "groups: the fewest inside",
    none: "nothing is quantized in this stage",
  },
};

function smallest(bits) {
  return Math.min(...(bits.match(/\d+/g) ?? ["99"]).map(Number));
}

/** Of several ways to quantize, the one of the fewest bits; null = none. */
function fewest(all) {
  const sorted = [...all].sort(
    (a, b) => smallest(a) - smallest(b) || b.length - a.length || (a < b ? -1 : 1),
  );
  return sorted[0] ?? null;
}

function colour(part) {
  const at = Math.min(1, Math.max(0, part)) * (VIRIDIS.length - 1);
  const i = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const [r, g, b] = VIRIDIS[i].map((v, c) => Math.round(v + (VIRIDIS[i + 1][c] - v) * (at - i)));
  return { fill: `rgb(${r}, ${g}, ${b})`, ink: 0.3 * r + 0.59 * g + 0.11 * b > 118 ? "#0b1220" : "#ffffff" };
}

/** The scale of one kind of heat over a stage; null = none chosen.

    Returns {title, groups, none, color(item), text(item), marks}; the root group is left out of the scale. */
export function heatOf(recording, tree, kind) {
  const heat = HEATS[kind];
  if (!heat) return null;
  const items = [...tree.stage.nodes.values(), ...[...tree.groups()].filter((g) => g.parent)];
  const values = items.map((i) => heat.of(recording, i)).filter((v) => v != null);
  const part = kind === "bits" ? ranked(values) : logarithmic(values);
  const at = (item) => {
    const value = heat.of(recording, item);
    return value == null ? null : part.of(value);
  };
  return {
    kind,
    ...heat,
    color: (item) => (at(item) == null ? null : colour(at(item))),
    text: (item) => (at(item) == null ? "" : heat.text(heat.of(recording, item))),
    marks: part.marks.map((value, i) => ({
      text: `${i === 0 && part.cut ? "≤ " : ""}${(heat.mark ?? heat.text)(value)}`,
      ...colour(part.of(value)),
    })),
  };
}

/** Equal steps for kinds of bits, the fewest darkest. */
function ranked(values) {
  const marks = [...new Set(values)].sort((a, b) => smallest(a) - smallest(b) || b.length - a.length);
  return {
    marks,
    of: (value) => (marks.length > 1 ? 0.15 + (0.8 * marks.indexOf(value)) / (marks.length - 1) : 0.15),
  };
}

/** Equal steps for equal ratios; zero has no colour. */
function logarithmic(values) {
  const positive = values.filter((v) => v > 0 && Number.isFinite(v));
  if (!positive.length) return { marks: [], of: () => null };
  let [least, high] = [Infinity, 0];
  for (const v of positive) [least, high] = [Math.min(least, v), Math.max(high, v)];
  // five decades show all that matters; what is below is as dark as can be
  const low = Math.max(least, high / 1e5);
  const span = Math.log(high / low);
  const marks = span ? [0, 0.25, 0.5, 0.75, 1].map((p) => low * Math.exp(span * p)) : [high];
  return { marks, cut: least < low, of: (v) => (v > 0 ? (span ? Math.log(v / low) / span : 0.5) : null) };
}
