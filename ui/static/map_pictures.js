// The photos that hang on the map: which of those in view, and their thumbnails, small.

import { thumbnail } from "./server.js";

const SIDE = 112;     // pixels of the longer side, twice what is drawn
const MOST = 400;     // that are kept
const SHOWN = 500;    // candidates, of which as many are hung as have room
const AFTER = 150;    // milliseconds that candidates stay the same, so that moving is smooth

export class MapPictures {
  // loaded : is called when another picture is there.
  constructor(places, ids, loaded) {
    Object.assign(this, { places, ids, loaded });
    this.known = new Map(); // row -> ImageBitmap, or null while it is fetched and where there is none
    this.rows = [];
    this.chosenAt = -Infinity;
  }

  of(row) {
    const found = this.known.get(row);
    if (found) { this.known.delete(row); this.known.set(row, found); } // the last used last
    if (found !== undefined) return found;
    this.known.set(row, null);
    this.load(row);
    return null;
  }

  load(row) {
    const image = new Image();
    image.decoding = "async";
    image.onload = async () => {
      const shrink = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
      const small = await createImageBitmap(image, {
        resizeWidth: Math.max(1, Math.round(image.naturalWidth * shrink)),
        resizeHeight: Math.max(1, Math.round(image.naturalHeight * shrink)), resizeQuality: "medium",
      }).catch(() => null);
      this.known.set(row, small);
      for (const [old, picture] of this.known) {
        if (this.known.size <= MOST) break;
        if (!picture) continue;
        this.known.delete(old);
        picture.close();
      }
      this.loaded();
    };
    image.src = thumbnail(this.ids[row]);
  }

  // Rows of images in view, evenly over them and the same ones for a while.
  near(camera) {
    const now = performance.now();
    if (now - this.chosenAt < AFTER) { this.again(); return this.rows; }
    this.chosenAt = now;
    const left = camera.placeX(0), right = camera.placeX(camera.width), top = camera.placeY(0), bottom = camera.placeY(camera.height);
    const rows = [];
    this.places.around(left, top, right, bottom, (row) => rows.push(row));
    const mask = (1 << Math.max(0, Math.ceil(Math.log2(rows.length / SHOWN)))) - 1;
    this.rows = rows.filter((row) => (mixed(row) & mask) === 0).sort((a, b) => mixed(a) - mixed(b));
    return this.rows;
  }

  // Once the map stands still, with those that are then in view.
  again() {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.loaded, AFTER);
  }
}

// A number of a row that looks random and is always the same.
function mixed(row) {
  let number = Math.imul(row ^ (row >>> 16), 0x45d9f3b);
  number = Math.imul(number ^ (number >>> 16), 0x45d9f3b);
  return (number ^ (number >>> 16)) >>> 0;
}
