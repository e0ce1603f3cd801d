// What is shown, and all that can be done with it.

import { byId } from "./text.js";
import { isGroup, Tree } from "./groups.js";
import { layoutOf, placesOf } from "./layout.js";
import { heatOf } from "./heat.js";
import { drawn } from "./draw.js";
import { View } from "./view.js";
import { edgePanel, nodePanel } from "./panel.js";
import { groupPanel } from "./group_panel.js";
import { overviewPanel, showDrawn, showLegend, showStage } from "./overview.js";
import { anchorOf, nextItem } from "./places.js";

export class App {
  constructor(recording) {
    this.recording = recording;
    this.expanded = new Set();
    this.selected = null;
    this.heatKind = "none";
    this.trees = new Map();
    this.view = new View(byId("graph"), byId("content"));
    this.stage = recording.stages.at(-1);
    this.tree = this.treeOf(this.stage);
    this.expandFirst();
    byId("graph").addEventListener("click", () => this.select(null));
    byId("graph").addEventListener("dblclick", (event) => this.pressTwice(event));
  }

  treeOf(stage) {
    if (!this.trees.has(stage.index)) this.trees.set(stage.index, new Tree(this.recording, stage));
    return this.trees.get(stage.index);
  }

  /** Opens the groups down to the layers: from the root, those that hold most of the nodes. */
  expandFirst() {
    let around = this.tree.root;
    while (around) {
      const most = [...around.groups.values()].find((g) => g.all.length > this.stage.nodes.size / 2);
      if (most) this.open(most);
      around = most;
    }
  }

  open(group) {
    for (const path of group.chain) this.expanded.add(path);
  }

  isExpanded = (group) => this.expanded.has(group.path);

  /** Draws all anew; a box that is given stays where it is on the screen. */
  render(anchor = null) {
    const before = anchor && this.places?.get(anchor);
    const point = before && this.view.onScreen(before);
    this.heat = heatOf(this.recording, this.tree, this.heatKind);
    this.layout = layoutOf(this.tree, this.tree.root, this.isExpanded);
    this.places = placesOf(this.layout);
    const actions = {
      select: (item) => this.select(isGroup(item) ? { group: item.path } : { node: item.name }),
      toggle: (group) => this.toggle(group),
      jump: (name) => this.go(this.stage.index, name),
      edge: (edge) => this.select({ edge }),
    };
    byId("graph").classList.toggle("heated", this.heat !== null);
    byId("content").replaceChildren(drawn(this.layout, { stage: this.stage, heat: this.heat, actions }));
    const after = anchor && this.places.get(anchor);
    if (point && after) this.view.put(after, point);
    this.markSelected();
    showDrawn(this);
  }

  /** Shows a stage; what is expanded, selected and looked at stays. */
  show(index) {
    const stage = this.recording.stages[index];
    if (!stage || stage === this.stage) return;
    const anchor = anchorOf(this, this.treeOf(stage));
    this.stage = stage;
    this.tree = this.treeOf(stage);
    if (this.selected?.edge) this.selected = null;
    this.render(anchor);
    showStage(this);
    showLegend(this);
    this.showPanel();
    this.say(`stage ${stage.name}`);
  }

  get selectedKey() {
    const { node, group } = this.selected ?? {};
    return node !== undefined ? `n:${node}` : group !== undefined ? `g:${group}` : null;
  }

  /** Selects {node}, {group}, {edge} or nothing. */
  select(what) {
    if (!what && !this.selected) return;
    this.selected = what;
    this.markSelected();
    this.showPanel();
    if (what) this.openSheet(true);
    this.say(what ? `selected ${what.node ?? what.group ?? "an edge"}` : "nothing selected");
  }

  markSelected() {
    const key = this.selectedKey;
    const edge = this.selected?.edge;
    for (const one of byId("content").querySelectorAll(".selected, .near"))
      one.classList.remove("selected", "near");
    if (key)
      byId("content")
        .querySelector(`[data-key="${CSS.escape(key)}"]`)
        ?.classList.add("selected");
    for (const one of byId("content").querySelectorAll(".edge")) {
      const { from, to } = one.dataset;
      if (edge ? edge.from === from && edge.to === to : key && (from === key || to === key))
        one.classList.add("near");
    }
  }

  showPanel() {
    const { node, group, edge } = this.selected ?? {};
    let parts;
    if (node !== undefined) parts = nodePanel(this, node);
    else if (group !== undefined) parts = groupPanel(this, group);
    else parts = edge ? edgePanel(this, edge) : overviewPanel(this);
    const panel = byId("panel-content");
    panel.replaceChildren(...parts.filter(Boolean));
    panel.scrollTop = 0;
    byId("sheet-title").textContent = node ?? group ?? (edge ? "edge" : "recording and stages");
  }

  /** Expands or collapses a group, and with `deep` all in it. */
  toggle(group, deep = false) {
    if (deep) [...this.tree.groups(group)].forEach((g) => this.open(g));
    else if (this.isExpanded(group)) group.chain.forEach((path) => this.expanded.delete(path));
    else this.open(group);
    this.render(group.key);
    const place = this.places.get(group.key);
    if (place && this.isExpanded(group)) this.view.reach(place);
    if (this.selected?.group === group.path) this.showPanel();
  }

  toggleSelected() {
    const group = this.tree.byPath.get(this.selected?.group);
    if (group?.parent) this.toggle(group);
    else this.showSelected();
  }

  pressTwice(event) {
    const path = event.target.closest?.(".box")?.dataset.group;
    const group = path === undefined ? null : this.tree.byPath.get(path);
    if (group && !event.target.closest(".toggle")) this.toggle(group);
  }

  collapse() {
    this.expanded.clear();
    this.expandFirst();
    this.render();
    this.fit();
  }

  /** Goes to a node in a stage: expands the groups around it, selects it and puts it into the middle. */
  go(index, name) {
    this.show(index);
    const group = this.tree.groupOf.get(name);
    if (group) this.reveal(group, { node: name });
    else this.select({ node: name });
  }

  jumpGroup(path) {
    let known = this.tree.byPath.get(path);
    for (let p = path; !known && p.includes("."); known = this.tree.byPath.get(p))
      p = p.slice(0, p.lastIndexOf("."));
    if (known?.parent) this.reveal(known.parent, { group: known.path });
  }

  jumpSite(site) {
    const own = [...this.stage.nodes.values()].find(
      (n) => n.site === site.name && n.operator.endsWith("linear"),
    );
    if (own) this.go(this.stage.index, own.name);
    else this.jumpGroup(site.name);
  }

  reveal(group, selected) {
    this.tree.around(group).forEach((g) => this.open(g));
    this.selected = null;
    this.render();
    this.select(selected);
    this.showSelected();
  }

  showSelected() {
    const place = this.selectedKey && this.places.get(this.selectedKey);
    if (!place) return;
    this.view.center(place);
    byId("content").querySelector(".selected")?.focus({ preventScroll: true });
  }

  /** Selects what the selected item reads (-1) or what reads it (1), as it is drawn. */
  walk(way) {
    const next = nextItem(this, way);
    if (!next) return;
    this.select(isGroup(next) ? { group: next.path } : { node: next.name });
    this.showSelected();
  }

  setHeat(kind) {
    this.heatKind = kind;
    byId("heat").value = kind;
    this.render(anchorOf(this, this.tree));
    showLegend(this);
  }

  fit(least) {
    this.view.fit({ x: 0, y: 0, width: this.layout.width, height: this.layout.height }, least);
  }

  toggleTheme() {
    const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
    document.documentElement.dataset.theme = isDark ? "light" : "dark";
  }

  toggleSheet() {
    this.openSheet(!document.body.classList.contains("sheet-open"));
  }

  /** On a phone the panel is a sheet that comes up from below. */
  openSheet(isOpen) {
    document.body.classList.toggle("sheet-open", isOpen);
    byId("sheet").setAttribute("aria-expanded", String(isOpen));
  }

  /** For readers of the screen. */
  say(text) {
    byId("status").textContent = text;
  }
}
