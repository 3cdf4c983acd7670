// Where the images of a map are: on the unit square, y downwards. What is nearest, what is within.

const STEPS = 65535;  // of a side
const CELLS = 256;    // of a side, for looking up what is near

export class Places {
  // steps : Uint16Array of x and y of every image in turn, 0 to 65,535.
  constructor(steps) {
    this.steps = steps;
    this.count = steps.length / 2;
    this.heads = new Int32Array(CELLS * CELLS).fill(-1);
    this.next = new Int32Array(this.count);
    for (let row = this.count - 1; row >= 0; row--) {
      const cell = (steps[2 * row + 1] >> 8) * CELLS + (steps[2 * row] >> 8);
      this.next[row] = this.heads[cell];
      this.heads[cell] = row;
    }
  }

  x(row) { return this.steps[2 * row] / STEPS; }
  y(row) { return this.steps[2 * row + 1] / STEPS; }

  // [left, top, right, bottom] of all; the whole square where there is none.
  bounds() {
    let left = STEPS, right = 0, top = STEPS, bottom = 0;
    for (let at = 0; at < this.steps.length; at += 2) {
      const x = this.steps[at], y = this.steps[at + 1];
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    if (!this.count) return [0, 0, 1, 1];
    return [left / STEPS, top / STEPS, right / STEPS, bottom / STEPS];
  }

  // Where most of some images are: the tenth that lie farthest out on each side does not count.
  middleOf(rows) {
    const ends = (values) => {
      values.sort((a, b) => a - b);
      const cut = Math.floor(values.length / 10);
      return [values[cut], values[values.length - 1 - cut]];
    };
    const [left, right] = ends(rows.map((row) => this.x(row)));
    const [top, bottom] = ends(rows.map((row) => this.y(row)));
    return [left, top, right, bottom];
  }

  // Calls `tell(row)` for every image whose cell meets the box, and maybe lies outside of it.
  around(left, top, right, bottom, tell) {
    const cell = (value) => Math.min(CELLS - 1, Math.max(0, Math.floor(value * CELLS)));
    for (let down = cell(top); down <= cell(bottom); down++) {
      for (let across = cell(left); across <= cell(right); across++) {
        for (let row = this.heads[down * CELLS + across]; row >= 0; row = this.next[row]) tell(row);
      }
    }
  }

  // The image nearest to a place, -1 where none is as near as `reach`.
  nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    this.around(x - reach, y - reach, x + reach, y + reach, (row) => {
      const dx = this.x(row) - x, dy = this.y(row) - y, far = dx * dx + dy * dy;
      if (far < least) { least = far; best = row; }
    });
    return best;
  }
}
