// Which box stays in its place when all is drawn anew, and which is next to the selected one.

/** Key of the box that stays: the selected one, or else the one next to the middle, if a tree has it. */
export function anchorOf(app, tree) {
  const { width, height } = app.view.size;
  const inTree = (key) => (key.startsWith("g:") ? tree.byPath : tree.groupOf).has(key.slice(2));
  const away = (place) => {
    const { x, y } = app.view.onScreen({ x: place.x + place.width / 2, y: place.y });
    return Math.hypot(x - width / 2, y - height / 3);
  };
  const near = [...app.places].filter(([key, { box }]) => box.item && box.kind !== "ghost" && inTree(key));
  const own = app.selectedKey && near.find(([key]) => key === app.selectedKey);
  if (own && away(own[1]) < Math.max(width, height)) return own[0];
  near.sort((a, b) => away(a[1]) - away(b[1]));
  return near[0]?.[0] ?? null;
}

/** What the selected item reads (-1) or what reads it (1), as it is drawn; the first item if none is selected. */
export function nextItem(app, way) {
  const { node, group } = app.selected ?? {};
  const own = app.stage.nodes.get(node);
  const item = own ?? app.tree.byPath.get(group);
  if (!item) return [...app.places.values()].find((p) => p.box.item)?.box.item;
  const inside = own ? [own] : item.all;
  const names = new Set(inside.map((n) => n.name));
  const near = (n) => (way < 0 ? n.sources : (app.stage.readers.get(n.name) ?? []));
  const found = inside.flatMap(near).find((s) => !names.has(s.node));
  return found && drawnFor(app, found.node);
}

/** The drawn box that stands for a node: itself, or the outermost collapsed group around it. */
function drawnFor(app, name) {
  const around = app.tree.around(app.tree.groupOf.get(name)).reverse();
  return around.find((g) => !app.isExpanded(g)) ?? app.stage.nodes.get(name);
}
