// Which part of a map is seen: a place of the unit square in the middle, and its scale.

export class Camera {
  // draw : is called when something else is to be seen. scale : CSS pixels of the square's side.
  constructor(places, draw) {
    this.places = places;
    this.draw = draw;
    this.width = this.height = 0;
    this.x = this.y = 0.5;
    this.scale = this.fitted = 1;
    this.flight = 0;
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.bounds = places.bounds();
  }

  get zoom() { return this.scale / this.fitted; }
  screenX(x) { return (x - this.x) * this.scale + this.width / 2; }
  screenY(y) { return (y - this.y) * this.scale + this.height / 2; }
  placeX(x) { return (x - this.width / 2) / this.scale + this.x; }
  placeY(y) { return (y - this.height / 2) / this.scale + this.y; }

  // The view that shows everything.
  whole() {
    const [left, top, right, bottom] = this.bounds;
    const room = Math.min(80, this.width / 11);
    const across = (this.width - 2 * room) / Math.max(right - left, 0.02);
    const down = (this.height - 2 * room) / Math.max(bottom - top, 0.02);
    this.fitted = Math.max(20, Math.min(across, down));
    return { x: (left + right) / 2, y: (top + bottom) / 2, scale: this.fitted };
  }

  resize(width, height) {
    const wasWhole = Math.abs(this.scale - this.fitted) < 1e-9;
    this.width = width;
    this.height = height;
    const whole = this.whole();
    if (wasWhole) Object.assign(this, whole);
  }

  // How large a point is drawn, in CSS pixels from its middle.
  radius() {
    const usual = Math.min(6, 110 / Math.sqrt(this.places.count + 1)) * Math.min(1, 0.4 + this.width / 1500);
    return Math.max(1.2, usual * Math.min(2.2, Math.pow(this.zoom, 0.35)));
  }

  zoomAt(x, y, factor) {
    const across = this.placeX(x), down = this.placeY(y);
    this.flight++;
    this.scale = Math.min(Math.max(this.scale * factor, this.fitted * 0.6), this.fitted * 120);
    this.x = across - (x - this.width / 2) / this.scale;
    this.y = down - (y - this.height / 2) / this.scale;
    this.keep();
  }

  move(dx, dy) {
    this.flight++;
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.keep();
  }

  keep() {
    this.x = Math.min(Math.max(this.x, -0.1), 1.1);
    this.y = Math.min(Math.max(this.y, -0.1), 1.1);
    this.draw();
  }

  // Go to a view; at once where motion is not wanted.
  fly(to) {
    const from = { x: this.x, y: this.y, scale: this.scale };
    const start = performance.now(), ticket = ++this.flight;
    if (this.still.matches) { Object.assign(this, to); this.draw(); return; }
    const step = (now) => {
      if (ticket !== this.flight) return;
      const t = Math.max(0, Math.min(1, (now - start) / 450)), ease = t * t * (3 - 2 * t);
      this.x = from.x + (to.x - from.x) * ease;
      this.y = from.y + (to.y - from.y) * ease;
      this.scale = from.scale * Math.pow(to.scale / from.scale, ease);
      this.draw();
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  flyTo([left, top, right, bottom]) {
    const across = 0.6 * this.width / Math.max(right - left, 0.01);
    const down = 0.6 * this.height / Math.max(bottom - top, 0.01);
    const scale = Math.max(this.fitted, Math.min(across, down, this.fitted * 12));
    this.fly({ x: (left + right) / 2, y: (top + bottom) / 2, scale });
  }
}
