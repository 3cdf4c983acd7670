// Mouse, touch, wheel and keys on a map: they move its camera, or are told to `on`.

const STILL = 4;  // pixels: of a click

// on.hover(x, y), on.leave(), on.tap(x, y, reach), on.key(event) -> whether it was of use,
// on.pointer() before anything of a pointer.
// on.draws(event) : whether this drag is a line; then on.line(points) while it is drawn and
// on.lined(points, event), points [[x, y], ...], null for one that was given up.
export function listen(canvas, camera, on) {
  const fingers = new Map();
  let travelled = 0, line = null;

  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    camera.flight++;
    on.pointer();
    if (fingers.size === 1) travelled = 0;
    if (fingers.size === 1 && on.draws?.(event)) line = [[event.offsetX, event.offsetY]];
    else if (line) { line = null; on.lined(null, event); }  // a second finger: to zoom
    canvas.classList.toggle("dragging", !line);
  });

  canvas.addEventListener("pointermove", (event) => {
    const x = event.offsetX, y = event.offsetY, before = fingers.get(event.pointerId);
    if (!before) { on.hover(x, y); return; }
    travelled += Math.hypot(x - before[0], y - before[1]);
    if (line) {
      line.push([x, y]);
      on.line(line);
    } else if (fingers.size === 1) {
      if (travelled > STILL) camera.move(x - before[0], y - before[1]);
    } else {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(x - other[0], y - other[1]);
      camera.move((x - before[0]) / 2, (y - before[1]) / 2);
      if (was > 0) camera.zoomAt((x + other[0]) / 2, (y + other[1]) / 2, is / was);
    }
    fingers.set(event.pointerId, [x, y]);
  });

  const lift = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (!fingers.size) canvas.classList.remove("dragging");
    const drawn = line, ended = event.type === "pointerup";
    line = null;
    if (drawn) on.lined(ended && travelled > STILL ? drawn : null, event);
    if (ended && travelled <= STILL && !fingers.size) {
      on.tap(event.offsetX, event.offsetY, event.pointerType === "mouse" ? 12 : 24);
    }
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => { if (!fingers.size) on.leave(); });

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? 300 : 1;
    camera.zoomAt(event.offsetX, event.offsetY, Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) * 0.0022));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => camera.zoomAt(event.offsetX, event.offsetY, 2));

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60, { key } = event, { width, height } = camera;
    if (key === "ArrowLeft") camera.move(step, 0);
    else if (key === "ArrowRight") camera.move(-step, 0);
    else if (key === "ArrowUp") camera.move(0, step);
    else if (key === "ArrowDown") camera.move(0, -step);
    else if (key === "+" || key === "=") camera.zoomAt(width / 2, height / 2, 1.4);
    else if (key === "-") camera.zoomAt(width / 2, height / 2, 1 / 1.4);
    else if (key === "0") camera.fly(camera.whole());
    else if (!on.key(event)) return;
    event.preventDefault();
    event.stopPropagation();
    on.keyed();
  });
}
