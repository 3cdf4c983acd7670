// The points of a map on a 2-D canvas. Few are drawn smoothly; many, which are small, pixel by
// pixel and so ten times faster.

const SMOOTH = 5000;  // images

export class CanvasDots {
  // tints : Uint8Array, of every image 0 for no cluster, or 1 + the position of its colour.
  constructor(canvas, places, tints) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.places = places;
    this.tints = tints;
    this.lit = null;
  }

  // lit : Uint8Array, 1 for every image that stands out from the others; null for all alike.
  light(lit) { this.lit = lit; }

  // theme : colours as #rrggbb, {ground, none, colours}. ratio : pixels of the canvas for one of CSS.
  paint(camera, ratio, theme) {
    if (this.places.count > SMOOTH) this.many(camera, ratio, theme);
    else this.few(camera, ratio, theme);
  }

  few(camera, ratio, { ground, none, colours }) {
    const { context, places, tints, lit } = this;
    const size = camera.radius() * ratio, w = this.canvas.width, h = this.canvas.height, edge = size + 1;
    const sprites = [none, ...colours].map((colour) => {
      const sprite = document.createElement("canvas"), ink = sprite.getContext("2d");
      sprite.width = sprite.height = Math.ceil(2 * edge);
      ink.arc(edge, edge, size, 0, 2 * Math.PI);
      ink.fillStyle = colour;
      ink.fill();
      ink.lineWidth = Math.min(1.5, size / 4);
      ink.strokeStyle = ground;
      ink.stroke();
      return sprite;
    });
    context.fillStyle = ground;
    context.fillRect(0, 0, w, h);
    for (const pass of lit ? [0, 1] : [null]) {
      context.globalAlpha = pass === 0 ? 0.18 : 1;
      for (let row = 0; row < places.count; row++) {
        if (pass !== null && lit[row] !== pass) continue;
        const x = camera.screenX(places.x(row)) * ratio, y = camera.screenY(places.y(row)) * ratio;
        if (x < -edge || y < -edge || x > w + edge || y > h + edge) continue;
        context.drawImage(sprites[tints[row]], x - edge, y - edge);
      }
    }
    context.globalAlpha = 1;
  }

  many(camera, ratio, { ground, none, colours }) {
    const { places, tints, lit } = this, { steps } = places;
    const w = this.canvas.width, h = this.canvas.height;
    if (this.surface?.width !== w || this.surface?.height !== h) {
      this.surface = this.context.createImageData(w, h);
      this.pixels = new Uint32Array(this.surface.data.buffer);
    }
    const pixels = this.pixels;
    const solid = [none, ...colours].map((colour) => packed(colour, ground, 1));
    const pale = [none, ...colours].map((colour) => packed(colour, ground, 0.5));
    const faint = packed(none, ground, 0.35);
    pixels.fill(packed(ground, ground, 1));
    const [reach, rim, core] = disc(camera.radius() * ratio, w);
    const factor = camera.scale * ratio / 65535;
    const left = w / 2 - camera.x * camera.scale * ratio, top = h / 2 - camera.y * camera.scale * ratio;
    for (const pass of lit ? [0, 1] : [null]) {
      for (let row = 0; row < places.count; row++) {
        if (pass !== null && lit[row] !== pass) continue;
        const x = Math.round(steps[2 * row] * factor + left), y = Math.round(steps[2 * row + 1] * factor + top);
        if (x < reach || y < reach || x >= w - reach || y >= h - reach) continue;
        const at = y * w + x;
        const ink = pass === 0 ? faint : solid[tints[row]], edge = pass === 0 ? faint : pale[tints[row]];
        if (pass !== 0) for (let i = 0; i < rim.length; i++) pixels[at + rim[i]] = edge;
        for (let i = 0; i < core.length; i++) pixels[at + core[i]] = ink;
      }
    }
    this.context.putImageData(this.surface, 0, 0);
  }
}

// A colour over the ground as one number of a canvas's pixels.
function packed(colour, ground, share) {
  const mix = (shift) => {
    const of = (hex) => parseInt(hex.slice(1 + shift, 3 + shift), 16);
    return Math.round(of(colour) * share + of(ground) * (1 - share));
  };
  return (255 << 24 | mix(4) << 16 | mix(2) << 8 | mix(0)) >>> 0;
}

// Offsets of the pixels of a disc on a canvas so wide: its rim, which is drawn paler, and all else.
function disc(size, width) {
  const reach = Math.ceil(size), rim = [], core = [];
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const far = Math.hypot(x, y);
      if (far <= (size < 2 ? size : size - 0.75)) core.push(y * width + x);
      else if (size >= 2 && far <= size + 0.25) rim.push(y * width + x);
    }
  }
  return [reach + 1, Int32Array.from(rim), Int32Array.from(core)];
}
