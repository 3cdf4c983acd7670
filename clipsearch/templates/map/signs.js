// What is drawn over the points of a map: names of clusters and pictures, as far as there is room.

const LONGEST = 32;  // letters of a name on the map; the list has it whole
const CLOSE = 1.8;   // the zoom from which other pictures than those of the clusters are shown
const AT_ANY_ZOOM = 60;  // images, of which all are shown at any zoom

export class Signs {
  // groups : Int32Array, of every image the position of its cluster, -1 for none.
  // clusters : [{name, slot, x, y, first}], x null for one that is not on the map; first : row of
  // the image that stands for it, -1 for none.
  // picture : row -> what can be drawn, null for what is not there (yet).
  // others : zoom -> rows of the images to show from nearby.
  constructor({ places, groups, clusters, picture, others }) {
    Object.assign(this, { places, groups, clusters, picture, others });
    this.hung = [];  // the pictures on the map: middle, half width and height, row
    this.withPictures = true;
    this.first = new Set(clusters.map((cluster) => cluster.first));
    this.short = clusters.map(({ name }) => {
      const letters = [...name];
      return letters.length > LONGEST ? letters.slice(0, LONGEST - 1).join("").trimEnd() + "…" : name;
    });
    this.widths = new Map();
  }

  // chosen : position of the cluster that stands out, -1 for none. lit : as for the points; others
  // get no picture. covered : boxes [left, top, right, bottom] over the map that are taken.
  // theme : {ground, none, colours, ink}.
  paint(context, camera, { theme, chosen, lit, covered }) {
    const room = new Room(6);
    for (const box of covered) room.take(...box);
    const names = this.names(context, camera, chosen, room);
    this.hung = [];
    if (this.withPictures) this.pictures(context, camera, theme, lit, room);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    for (const [position, x, y, font] of names) {
      context.font = font;
      context.strokeStyle = theme.ground;
      context.lineWidth = 4;
      context.globalAlpha = 0.85;
      context.strokeText(this.short[position], x, y);
      context.globalAlpha = chosen < 0 || position === chosen ? 1 : 0.45;
      context.fillStyle = theme.ink;
      context.fillText(this.short[position], x, y);
      context.globalAlpha = 1;
    }
  }

  names(context, camera, chosen, room) {
    const { width, height } = camera, names = [];
    const order = this.clusters.map((_, position) => position);
    if (chosen >= 0) order.unshift(...order.splice(chosen, 1));
    for (const position of order) {
      const cluster = this.clusters[position];
      if (cluster.x === null) continue;
      const x = camera.screenX(cluster.x), y = camera.screenY(cluster.y) + camera.radius() + 10;
      if (x < -60 || y < -40 || x > width + 60 || y > height + 40) continue;
      const font = `${position === chosen ? 700 : 600} ${width < 700 ? 12 : 13}px system-ui, sans-serif`;
      const half = this.widthOf(context, position, font) / 2 + 6;
      const middle = Math.min(Math.max(x, half), Math.max(half, width - half));
      if (room.take(middle - half, y - 10, middle + half, y + 10)) names.push([position, middle, y, font]);
    }
    return names;
  }

  widthOf(context, position, font) {
    const key = font + position;
    let width = this.widths.get(key);
    if (width === undefined) {
      context.font = font;
      width = context.measureText(this.short[position]).width;
      this.widths.set(key, width);
    }
    return width;
  }

  pictures(context, camera, theme, lit, room) {
    const { width, height } = camera, side = width < 700 ? 40 : 56, far = camera.zoom < CLOSE && this.places.count > AT_ANY_ZOOM;
    let left = width < 700 ? 60 : 160;
    for (const row of far ? this.first : this.others(camera)) {
      if (row < 0 || (lit && !lit[row])) continue;
      const group = this.groups[row];
      const first = far && group >= 0;
      const x = camera.screenX(first ? this.clusters[group].x : this.places.x(row));
      const y = camera.screenY(first ? this.clusters[group].y : this.places.y(row));
      if (x < -side || y < -side || x > width + side || y > height + side) continue;
      for (const [across, down] of first ? AROUND : HERE) {
        const a = x + across * side, b = y + down * side;
        if (first && (a < side / 2 || b < side / 2 || a > width - side / 2 || b > height - side / 2)) continue;
        if (!room.take(a - side / 2, b - side / 2, a + side / 2, b + side / 2)) continue;
        const image = this.picture(row);
        if (image) this.hang(context, image, a, b, side, row, theme);
        left--;
        break;
      }
      if (!left) break;
    }
  }

  hang(context, image, x, y, side, row, { none, colours }) {
    const across = image.naturalWidth ?? image.width, down = image.naturalHeight ?? image.height;
    const shrink = side / Math.max(across, down), w = across * shrink, h = down * shrink;
    const group = this.groups[row];
    context.fillStyle = group < 0 ? none : colours[this.clusters[group].slot];
    context.fillRect(x - w / 2 - 2, y - h / 2 - 2, w + 4, h + 4);
    context.drawImage(image, x - w / 2, y - h / 2, w, h);
    this.hung.push([x, y, w / 2 + 2, h / 2 + 2, row]);
  }

  // The image whose picture or point is at a place of the screen, -1 for none within some pixels.
  touched(camera, x, y, within) {
    const picture = this.hung.find(([a, b, w, h]) => Math.abs(x - a) <= w && Math.abs(y - b) <= h);
    if (picture) return picture[4];
    return this.places.nearest(camera.placeX(x), camera.placeY(y), within / camera.scale);
  }
}

// Rings about a point that is looked at.
export function ring(context, x, y, size, { ink, ground }) {
  for (const [colour, line] of [[ground, 5], [ink, 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.beginPath();
    context.arc(x, y, size, 0, 2 * Math.PI);
    context.stroke();
  }
}

// A cross in the middle, where the keyboard points.
export function cross(context, { width, height }, { ink, ground }) {
  for (const [colour, line] of [[ground, 4], [ink, 1.5]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.beginPath();
    context.moveTo(width / 2 - 9, height / 2); context.lineTo(width / 2 + 9, height / 2);
    context.moveTo(width / 2, height / 2 - 9); context.lineTo(width / 2, height / 2 + 9);
    context.stroke();
  }
}

// Where something is drawn already, in cells of a few pixels.
class Room {
  constructor(cell) { this.cell = cell; this.taken = new Set(); }
  *cells(left, top, right, bottom) {
    for (let y = Math.floor(top / this.cell); y <= Math.floor(bottom / this.cell); y++)
      for (let x = Math.floor(left / this.cell); x <= Math.floor(right / this.cell); x++) yield x * 100003 + y;
  }
  take(...box) {
    for (const cell of this.cells(...box)) if (this.taken.has(cell)) return false;
    for (const cell of this.cells(...box)) this.taken.add(cell);
    return true;
  }
}

// Where a picture may be, from a place, in its own sides: right there, or around a name.
const HERE = [[0, 0]];
const AROUND = [0.78, 1.15, 1.6].flatMap((far) =>
  [[0, -1], [0, 1], [-1, -0.7], [1, -0.7], [-1, 0.7], [1, 0.7], [-1.25, 0], [1.25, 0]].map(
    ([across, down]) => [across * far, down * far]));
