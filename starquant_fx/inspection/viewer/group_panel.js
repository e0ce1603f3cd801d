// The side panel for a group, and the table of sites.

import { bytesText, errorText, flopsText, make, plural, sqnrText, whole } from "./text.js";
import { groupChange } from "./groups.js";
import { changeCounts, changeTag, facts, heading, link, list, section } from "./parts.js";

/** What the panel shows of a group. */
export function groupPanel(app, path) {
  const close = () => app.select(null);
  const group = app.tree.byPath.get(path);
  if (!group) {
    return [
      heading("group", path, null, close),
      make("p", { class: "notice" }, `The stage ${app.stage.name} has no such group.`),
    ];
  }
  const { sums } = group;
  const operators = new Map();
  for (const node of group.all) operators.set(node.operator, (operators.get(node.operator) ?? 0) + 1);
  const sorted = [...operators].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  const { added, changed } = app.stage.changes;
  const names = (set) => group.all.filter((n) => set.has(n.name)).map((n) => n.name);
  return [
    heading("group", group.path, changeTag(groupChange(group)), close),
    !group.gone &&
      make(
        "p",
        { class: "actions" },
        make(
          "button",
          { type: "button", click: () => app.toggle(group) },
          app.isExpanded(group) ? "Collapse" : "Expand",
        ),
        make("button", { type: "button", click: () => app.toggle(group, true) }, "Expand all inside"),
      ),
    facts([
      ["nodes", [whole(group.all.length), " ", ...changeCounts(sums)]],
      ["FLOPs", flopsText(sums.flops)],
      ["bytes", bytesText(sums.bytes)],
      ["largest error", sums.error != null && `${errorText(sums.error)} (SQNR ${sqnrText(sums.error)})`],
    ]),
    changeList(app, "Added", names(added)),
    changeList(app, "Changed", names(changed)),
    changeList(
      app,
      "Removed",
      group.allRemoved.map((n) => n.name),
    ),
    section(
      "Operators",
      make(
        "table",
        {},
        ...sorted.map(([name, n]) =>
          make("tr", {}, make("td", {}, make("code", {}, name)), make("td", { class: "number" }, whole(n))),
        ),
      ),
    ),
    sums.sites.size > 0 && section(plural(sums.sites.size, "site"), siteTable(app, [...sums.sites])),
  ];
}

function changeList(app, title, names) {
  if (!names.length) return null;
  const parts = list(names.map((name) => link(name, () => app.go(app.stage.index, name))));
  return make("details", {}, make("summary", {}, `${title} (${whole(names.length)})`), parts);
}

/** Sites as rows, the largest errors first. */
export function siteTable(app, sites) {
  const isMeasured = sites.some((s) => s.error != null);
  const sorted = isMeasured ? [...sites].sort((a, b) => (b.error ?? -1) - (a.error ?? -1)) : sites;
  const head = ["site", "bits", isMeasured ? "SQNR" : "bytes"];
  const rows = sorted.map((site) =>
    make(
      "tr",
      {},
      make(
        "td",
        {},
        link(site.name.split(".").slice(-3).join("."), () => app.jumpSite(site), site.name),
      ),
      make("td", {}, site.bits || "full"),
      make(
        "td",
        { class: "number" },
        isMeasured ? (site.error == null ? "–" : sqnrText(site.error)) : bytesText(site.bytes_after),
      ),
    ),
  );
  const body = make("tbody", {}, ...rows.slice(0, 12));
  const table = make(
    "table",
    {},
    make(
      "thead",
      {},
      make("tr", {}, ...head.map((h, i) => make("th", { class: i === 2 ? "number" : null }, h))),
    ),
    body,
  );
  if (rows.length <= 12) return table;
  const more = make(
    "p",
    {},
    link(`show ${rows.length - 12} more`, () => {
      body.append(...rows.slice(12));
      more.remove();
    }),
  );
  return make("div", {}, table, more);
}
