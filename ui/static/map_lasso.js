// Choosing by a line around: which images lie within a polygon, and how it is drawn.

const CORNERS = 300; // at most

// A line simplified: every so many points of it.
function corners(line) {
  const step = Math.max(1, Math.ceil(line.length / CORNERS));
  return line.filter((_, position) => position % step === 0);
}

export function rectangle([[a, b], [c, d]]) {
  return [[a, b], [c, b], [c, d], [a, d]];
}

// Rows of the images within a line on the screen.
export function within(places, camera, line) {
  const polygon = corners(line).map(([x, y]) => [camera.placeX(x), camera.placeY(y)]);
  const xs = polygon.map(([x]) => x), ys = polygon.map(([, y]) => y);
  const left = Math.min(...xs), right = Math.max(...xs), top = Math.min(...ys), bottom = Math.max(...ys);
  const rows = [];
  places.around(left, top, right, bottom, (row) => {
    const x = places.x(row), y = places.y(row);
    if (x >= left && x <= right && y >= top && y <= bottom && inside(polygon, x, y)) rows.push(row);
  });
  return rows.sort((a, b) => a - b);
}

// Whether a ray from the place crosses the polygon an odd number of times.
function inside(polygon, x, y) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [ax, ay] = polygon[i], [bx, by] = polygon[j];
    if ((ay > y) !== (by > y) && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
  }
  return odd;
}

export function drawLine(context, line, { ink, ground }) {
  context.beginPath();
  line.forEach(([x, y], position) => (position ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.globalAlpha = 0.12;
  context.fillStyle = ink;
  context.fill();
  context.globalAlpha = 1;
  for (const [colour, width, dash] of [[ground, 4, []], [ink, 1.5, [6, 4]]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.stroke();
  }
  context.setLineDash([]);
}
