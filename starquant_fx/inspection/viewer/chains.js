// Long chains of groups, such as the layers of a model, in rows that are read like lines of text.

/** Chains of at least so many groups are folded. */
const LONG_CHAIN = 5;
const GAP = { x: 26, y: 30 };

let columns = [8, 7, 6, 5];

/** Numbers of columns that chains may be folded into, the preferred first. */
export function setColumns(numbers) {
  columns = numbers;
}

/** The boxes in order where they are a long chain of groups, each reading only the one before; or null. */
export function longChain(boxes, edges) {
  const groups = boxes.filter((b) => b.kind === "group" || b.kind === "open");
  if (groups.length < LONG_CHAIN || boxes.some((b) => b.kind === "node")) return null;
  const at = new Map(groups.map((b, i) => [b.key, i]));
  const isNext = ({ from, to }) => !at.has(from) || !at.has(to) || at.get(to) === at.get(from) + 1;
  return edges.every(isNext) ? groups : null;
}

/** Rows of a chain; an expanded group has a row of its own. */
export function folded(chain, boxes, edges) {
  const most = bestColumns(chain.length);
  const rows = [];
  const ports = (side) => boxes.filter((b) => b.port?.side === side);
  if (ports("in").length) rows.push(ports("in"));
  let row = null;
  const width = Math.max(...chain.map((b) => (b.kind === "open" ? 0 : b.width)));
  for (const box of chain) {
    if (box.kind !== "open") box.width = width;
    if (box.kind === "open") rows.push([box]);
    else if (row && row.length < most && rows.at(-1) === row) row.push(box);
    else rows.push((row = [box]));
  }
  if (ports("out").length) rows.push(ports("out"));
  let [right, y] = [0, 0];
  for (const one of rows) {
    let x = 0;
    const height = Math.max(...one.map((b) => b.height));
    for (const box of one) {
      Object.assign(box, { x, y: y + (height - box.height) / 2 });
      x += box.width + GAP.x;
    }
    right = Math.max(right, x - GAP.x);
    y += height + GAP.y;
  }
  const known = new Map(boxes.map((b) => [b.key, b]));
  const lines = edges.map((e) => ({
    ...e,
    points: step(known.get(e.from), known.get(e.to)),
    straight: true,
  }));
  return { width: right, height: Math.max(0, y - GAP.y), edges: lines };
}

/** The number of columns that leaves the fewest places empty. */
function bestColumns(count) {
  const gaps = (c) => (c - (count % c)) % c;
  return columns.reduce((best, c) => (gaps(c) < gaps(best) ? c : best));
}

/** A line to the right within a row, or down and back to the start of the next. */
function step(a, b) {
  const middle = (box) => box.y + box.height / 2;
  if (a.y < b.y + b.height && b.y < a.y + a.height && a.x < b.x) {
    return [
      { x: a.x + a.width, y: middle(a) },
      { x: b.x, y: middle(b) },
    ];
  }
  const [from, to] = [a.x + a.width / 2, b.x + Math.min(b.width / 2, 60)];
  const half = b.y - GAP.y / 2;
  return [
    { x: from, y: a.y + a.height },
    { x: from, y: half },
    { x: to, y: half },
    { x: to, y: b.y },
  ];
}
