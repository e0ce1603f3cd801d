// Pan and zoom: by drag, wheel, two fingers and buttons.

const LEAST = 0.03;
const MOST = 3;
/** Pixels that a pointer may move and still click. */
const STILL = 4;
/** Below this zoom small text is left out. */
const FAR = 0.42;

export class View {
  constructor(svg, content) {
    Object.assign(this, { svg, content, x: 0, y: 0, zoom: 1 });
    this.pointers = new Map();
    svg.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    svg.addEventListener("pointerdown", (e) => this.down(e));
    svg.addEventListener("pointermove", (e) => this.move(e));
    for (const end of ["pointerup", "pointercancel", "pointerleave"])
      svg.addEventListener(end, (e) => this.up(e));
    // the click at the end of a drag selects nothing
    svg.addEventListener("click", (e) => this.dragged && e.stopImmediatePropagation(), true);
  }

  get size() {
    const { width, height } = this.svg.getBoundingClientRect();
    return { width, height };
  }

  apply() {
    this.content.setAttribute("transform", `translate(${this.x} ${this.y}) scale(${this.zoom})`);
    this.svg.classList.toggle("far", this.zoom < FAR);
  }

  /** Zooms by a factor; the point of the screen stays where it is. */
  zoomBy(factor, at = { x: this.size.width / 2, y: this.size.height / 2 }) {
    const zoom = Math.min(MOST, Math.max(LEAST, this.zoom * factor));
    this.x = at.x - ((at.x - this.x) * zoom) / this.zoom;
    this.y = at.y - ((at.y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.apply();
  }

  /** Shows a whole place; no smaller than a least zoom, and then its top. */
  fit({ x, y, width, height }, least = LEAST, margin = 20) {
    const size = this.size;
    const whole = Math.min((size.width - 2 * margin) / width, (size.height - 2 * margin) / height);
    this.zoom = Math.max(least, Math.min(whole, 1.2));
    const left = (size.width - width * this.zoom) / 2;
    const top = (size.height - height * this.zoom) / 2;
    this.x = Math.max(left, margin) - x * this.zoom;
    this.y = Math.max(top, margin) - y * this.zoom;
    this.apply();
  }

  /** Puts the middle of a place into the middle of the screen, large enough to be read. */
  center({ x, y, width, height }, least = 0.8) {
    const size = this.size;
    this.zoom = Math.max(this.zoom, least);
    this.x = size.width / 2 - (x + width / 2) * this.zoom;
    this.y = size.height / 2 - (y + Math.min(height / 2, size.height / 3)) * this.zoom;
    this.apply();
  }

  onScreen({ x, y }) {
    return { x: x * this.zoom + this.x, y: y * this.zoom + this.y };
  }

  /** Moves so that a place lies at a point of the screen. */
  put({ x, y }, point) {
    this.x = point.x - x * this.zoom;
    this.y = point.y - y * this.zoom;
    this.apply();
  }

  /** Moves as little as shows a place, or of a large one its top left corner. */
  reach({ x, y, width, height }, margin = 24) {
    const size = this.size;
    const start = this.onScreen({ x, y });
    const beyond = (from, length, room) =>
      Math.max(0, Math.min(from + length * this.zoom + margin - room, from - margin));
    this.x -= beyond(start.x, width, size.width);
    this.y -= beyond(start.y, height, size.height);
    this.apply();
  }

  within(event) {
    const { left, top } = this.svg.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  }

  wheel(event) {
    event.preventDefault();
    // a wheel turned by lines reports few, a pinch on a trackpad small steps
    const unit = event.deltaMode === 1 ? 16 : 1;
    const speed = event.ctrlKey ? 0.01 : 0.0016;
    this.zoomBy(Math.exp(-event.deltaY * unit * speed), this.within(event));
  }

  down(event) {
    this.pointers.set(event.pointerId, this.within(event));
    if (this.pointers.size === 1) {
      this.dragged = false;
      this.start = this.within(event);
    }
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.within(event);
    if (!this.dragged) {
      if (Math.hypot(now.x - this.start.x, now.y - this.start.y) < STILL) return;
      this.dragged = true;
      this.svg.setPointerCapture(event.pointerId);
    }
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, p]) => p);
    if (others.length) {
      const apart = (p) => Math.max(1, Math.hypot(p.x - others[0].x, p.y - others[0].y));
      this.zoomBy(apart(now) / apart(before), { x: (now.x + others[0].x) / 2, y: (now.y + others[0].y) / 2 });
    } else {
      this.x += now.x - before.x;
      this.y += now.y - before.y;
      this.apply();
    }
    this.pointers.set(event.pointerId, now);
  }

  up(event) {
    this.pointers.delete(event.pointerId);
  }
}
