// Elements and text. Nothing of a recording is ever markup: text goes in as text nodes only.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child != null && child !== false) element.append(child);
  }
  return element;
}

/** An HTML element; attributes that are functions listen to the event of that name. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function shape(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

export function byId(id) {
  return document.getElementById(id);
}

/** A name that may wrap behind its dots and underscores. */
export function breakable(name) {
  return name.split(/(?<=[._+])/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));
}

/** A whole number with separators. */
export function whole(number) {
  return number.toLocaleString("en-US", { maximumFractionDigits: 0 });
}

export function plural(number, one, many = `${one}s`) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}

/** Three digits and a prefix of powers of 1000. */
function prefixed(number, units) {
  let i = 0;
  while (Math.abs(number) >= 999.5 && i < units.length - 1) {
    number /= 1000;
    i += 1;
  }
  const digits = i === 0 || Math.abs(number) >= 99.95 ? 0 : Math.abs(number) >= 9.995 ? 1 : 2;
  return `${number.toFixed(digits)} ${units[i]}`.trim();
}

export function bytesText(number) {
  return number == null ? "not counted" : prefixed(number, ["B", "kB", "MB", "GB", "TB"]);
}

export function flopsText(number) {
  const units = ["", "k", "M", "G", "T", "P"];
  return number == null
    ? "not counted"
    : prefixed(
        number,
        units.map((u) => `${u}FLOP`),
      );
}

export function errorText(number) {
  if (number == null || Number.isNaN(number)) return number == null ? "not measured" : "not a number";
  if (number === 0 || !Number.isFinite(number)) return String(number);
  return number >= 0.001 && number < 1000 ? number.toPrecision(3) : number.toExponential(1);
}

export function sqnrText(error) {
  if (error == null) return "not measured";
  if (!(error >= 0)) return "not a ratio";
  return error > 0 ? `${(-10 * Math.log10(error)).toFixed(1)} dB` : "infinite";
}

export function secondsText(number) {
  return number >= 10 ? `${number.toFixed(0)} s` : `${number.toFixed(2)} s`;
}

/** An operator without its namespace. */
export function shortOperator(operator) {
  return operator.slice(operator.lastIndexOf(".") + 1) || operator;
}

const measurer = document.createElement("canvas").getContext("2d");
const measured = new Map();

/** Width of a text in pixels. */
export function textWidth(text, size, weight = 400) {
  const key = `${weight} ${size} ${text}`;
  if (!measured.has(key)) {
    measurer.font = `${weight} ${size}px ${getComputedStyle(document.body).fontFamily}`;
    measured.set(key, measurer.measureText(text).width);
  }
  return measured.get(key);
}

/** A text cut so that it fits into a width. */
export function clipped(text, width, size, weight = 400) {
  if (textWidth(text, size, weight) <= width) return text;
  let low = 0;
  let high = text.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(`${text.slice(0, middle)}…`, size, weight) <= width) low = middle;
    else high = middle - 1;
  }
  return `${text.slice(0, low)}…`;
}
