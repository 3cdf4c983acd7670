"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const places = new Uint16Array(bytes(data.places).buffer);
  const groups = new Int32Array(bytes(data.groups).buffer);
  const count = groups.length;
  const clusters = data.clusters;
  const thumbnails = new Map(data.thumbnails.map(([row, address]) => [row, address]));
  const representatives = new Set(clusters.map((cluster) => cluster.first));
  const canvas = $("map");
  const context = canvas.getContext("2d", { alpha: false });
  const stage = $("stage");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const still = matchMedia("(prefers-reduced-motion: reduce)");

  // -- the view: a place of the unit square, and how many CSS pixels its side takes ----------

  let width = 0, height = 0, ratio = 1;
  let view = { x: 0.5, y: 0.5, scale: 1 };
  let fitted = 1;
  let chosen = -1;      // cluster
  let hovered = -1;     // image
  let pinned = -1;
  let withPictures = true;
  let byKeyboard = false;
  let surface = null, pixels = null;

  const atX = (row) => places[2 * row] / 65535;
  const atY = (row) => places[2 * row + 1] / 65535;
  const screenX = (x) => (x - view.x) * view.scale + width / 2;
  const screenY = (y) => (y - view.y) * view.scale + height / 2;

  function fit() {
    let left = 1, right = 0, top = 1, bottom = 0;
    for (let row = 0; row < count; row++) {
      const x = atX(row), y = atY(row);
      if (x < left) left = x;
      if (x > right) right = x;
      if (y < top) top = y;
      if (y > bottom) bottom = y;
    }
    if (!count) { left = top = 0; right = bottom = 1; }
    const room = Math.min(80, width / 11);
    fitted = Math.min((width - 2 * room) / Math.max(right - left, 0.02), (height - 2 * room) / Math.max(bottom - top, 0.02));
    fitted = Math.max(fitted, 20);
    return { x: (left + right) / 2, y: (top + bottom) / 2, scale: fitted };
  }

  function resize() {
    const wasWhole = Math.abs(view.scale - fitted) < 1e-9;
    ratio = Math.min(window.devicePixelRatio || 1, 2);
    width = stage.clientWidth;
    height = stage.clientHeight;
    canvas.width = Math.max(1, Math.round(width * ratio));
    canvas.height = Math.max(1, Math.round(height * ratio));
    surface = context.createImageData(canvas.width, canvas.height);
    pixels = new Uint32Array(surface.data.buffer);
    const whole = fit();
    if (wasWhole) view = whole;
    paint();  // at once: a canvas is black after its size is set
  }

  // -- drawing -------------------------------------------------------------------------------

  let wanted = false;
  function draw() {
    if (!wanted) {
      wanted = true;
      requestAnimationFrame(() => { wanted = false; paint(); });
    }
  }

  function packed(colour, ground, share) {
    const mix = (shift) => {
      const of = (hex) => parseInt(hex.slice(1 + shift, 3 + shift), 16);
      return Math.round(of(colour) * share + of(ground) * (1 - share));
    };
    return (255 << 24 | mix(4) << 16 | mix(2) << 8 | mix(0)) >>> 0;
  }

  function theme() {
    return dark.matches ? data.dark : data.light;
  }

  function radius() {
    const closer = Math.sqrt(view.scale / fitted);
    const usual = Math.min(6, 110 / Math.sqrt(count + 1)) * Math.min(1, 0.4 + width / 1500);
    return Math.max(1.2, usual * Math.min(2.2, Math.pow(closer, 0.7)));
  }

  function disc(size) {
    // Offsets of the pixels of a disc: its rim, which is drawn paler, and all else.
    const reach = Math.ceil(size), rim = [], core = [];
    for (let y = -reach; y <= reach; y++) {
      for (let x = -reach; x <= reach; x++) {
        const far = Math.hypot(x, y);
        if (far <= (size < 2 ? size : size - 0.75)) core.push(y * canvas.width + x);
        else if (size >= 2 && far <= size + 0.25) rim.push(y * canvas.width + x);
      }
    }
    return [reach + 1, Int32Array.from(rim), Int32Array.from(core)];
  }

  // Few points are drawn smoothly; many, which are small, pixel by pixel and so ten times faster.
  function points() {
    if (count > 5000) manyPoints();
    else fewPoints();
  }

  function fewPoints() {
    const { ground, none, colours } = theme();
    const size = radius() * ratio, w = canvas.width, h = canvas.height, edge = size + 1;
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
    for (const pass of chosen < 0 ? [null] : [false, true]) {
      context.globalAlpha = pass === false ? 0.18 : 1;
      for (let row = 0; row < count; row++) {
        const group = groups[row];
        if (pass !== null && (group === chosen) !== pass) continue;
        const x = screenX(atX(row)) * ratio, y = screenY(atY(row)) * ratio;
        if (x < -edge || y < -edge || x > w + edge || y > h + edge) continue;
        context.drawImage(sprites[group < 0 ? 0 : clusters[group].slot + 1], x - edge, y - edge);
      }
    }
    context.globalAlpha = 1;
  }

  function manyPoints() {
    const { ground, none, colours } = theme();
    const solid = [none, ...colours].map((colour) => packed(colour, ground, 1));
    const pale = [none, ...colours].map((colour) => packed(colour, ground, 0.5));
    const faint = packed(none, ground, 0.35);
    const slots = Int8Array.from([0, ...clusters.map((cluster) => cluster.slot + 1)]);
    pixels.fill(packed(ground, ground, 1));
    const [reach, rim, core] = disc(radius() * ratio);
    const w = canvas.width, h = canvas.height;
    const factor = view.scale * ratio / 65535;
    const left = w / 2 - view.x * view.scale * ratio, top = h / 2 - view.y * view.scale * ratio;
    const passes = chosen < 0 ? [null] : [false, true];
    for (const pass of passes) {
      for (let row = 0; row < count; row++) {
        const group = groups[row];
        if (pass !== null && (group === chosen) !== pass) continue;
        const x = Math.round(places[2 * row] * factor + left), y = Math.round(places[2 * row + 1] * factor + top);
        if (x < reach || y < reach || x >= w - reach || y >= h - reach) continue;
        const at = y * w + x, slot = slots[group + 1];
        const ink = pass === false ? faint : solid[slot], edge = pass === false ? faint : pale[slot];
        if (pass !== false) for (let i = 0; i < rim.length; i++) pixels[at + rim[i]] = edge;
        for (let i = 0; i < core.length; i++) pixels[at + core[i]] = ink;
      }
    }
    context.putImageData(surface, 0, 0);
  }

  const decoded = new Map();
  function picture(row) {
    let image = decoded.get(row);
    if (!image) {
      image = new Image();
      image.onload = draw;
      image.src = thumbnails.get(row);
      decoded.set(row, image);
    }
    return image.complete && image.naturalWidth ? image : null;
  }

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

  // Where a picture may be, from a place, in its own sides: around a name, or right there.
  const here = [[0, 0]];
  const around = [];
  for (const far of [0.78, 1.15, 1.6]) {
    for (const [across, down] of [[0, -1], [0, 1], [-1, -0.7], [1, -0.7], [-1, 0.7], [1, 0.7], [-1.25, 0], [1.25, 0]]) around.push([across * far, down * far]);
  }

  const LONGEST = 32;  // letters of a name on the map; the list has it whole
  const short = clusters.map(({ name }) => {
    const letters = [...name];
    return letters.length > LONGEST ? letters.slice(0, LONGEST - 1).join("").trimEnd() + "…" : name;
  });

  let hung = [];  // the pictures on the map: middle, half width and height, image

  function signs() {
    hung = [];
    const { ground, none, colours } = theme();
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--text");
    const room = new Room(6);
    const zoom = view.scale / fitted;
    const side = width < 700 ? 40 : 56;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    const order = clusters.map((_, position) => position);
    if (chosen >= 0) order.unshift(...order.splice(chosen, 1));
    for (const over of [$("tools"), $("help")]) {  // what lies over the map
      const { offsetLeft: left, offsetTop: top, offsetWidth: w, offsetHeight: h } = over;
      if (w) room.take(left, top, left + w, top + h);
    }
    const names = [];
    for (const position of order) {
      const cluster = clusters[position];
      if (cluster.x === null) continue;
      const x = screenX(cluster.x), y = screenY(cluster.y) + radius() + 10;
      if (x < -60 || y < -40 || x > width + 60 || y > height + 40) continue;
      context.font = `${position === chosen ? 700 : 600} ${width < 700 ? 12 : 13}px system-ui, sans-serif`;
      const half = context.measureText(short[position]).width / 2 + 6;
      const middle = Math.min(Math.max(x, half), Math.max(half, width - half));
      if (!room.take(middle - half, y - 10, middle + half, y + 10)) continue;
      names.push([position, middle, y, context.font]);
    }
    if (withPictures) {
      const rows = [...thumbnails.keys()];
      let left = width < 700 ? 60 : 160;
      for (const row of rows) {
        if (!representatives.has(row) && zoom < 1.8) continue;
        if (chosen >= 0 && groups[row] !== chosen) continue;
        const first = representatives.has(row) && groups[row] >= 0 && zoom < 1.8;
        const x = first ? screenX(clusters[groups[row]].x) : screenX(atX(row));
        const y = first ? screenY(clusters[groups[row]].y) : screenY(atY(row));
        if (x < -side || y < -side || x > width + side || y > height + side) continue;
        for (const [across, down] of first ? around : here) {
          const a = x + across * side, b = y + down * side;
          if (first && (a < side / 2 || b < side / 2 || a > width - side / 2 || b > height - side / 2)) continue;
          if (!room.take(a - side / 2, b - side / 2, a + side / 2, b + side / 2)) continue;
          const image = picture(row);
          if (image) {
            const shrink = side / Math.max(image.naturalWidth, image.naturalHeight);
            const w = image.naturalWidth * shrink, h = image.naturalHeight * shrink;
            context.fillStyle = groups[row] < 0 ? none : colours[clusters[groups[row]].slot];
            context.fillRect(a - w / 2 - 2, b - h / 2 - 2, w + 4, h + 4);
            context.drawImage(image, a - w / 2, b - h / 2, w, h);
            hung.push([a, b, w / 2 + 2, h / 2 + 2, row]);
          }
          left--;
          break;
        }
        if (!left) break;
      }
    }
    for (const [position, x, y, font] of names) {
      context.font = font;
      context.strokeStyle = ground;
      context.lineWidth = 4;
      context.globalAlpha = 0.85;
      context.strokeText(short[position], x, y);
      context.globalAlpha = chosen < 0 || position === chosen ? 1 : 0.45;
      context.fillStyle = ink;
      context.fillText(short[position], x, y);
      context.globalAlpha = 1;
    }
    const marked = pinned >= 0 ? pinned : hovered;
    if (marked >= 0) ring(screenX(atX(marked)), screenY(atY(marked)), radius() + 4, ink, ground);
    if (byKeyboard && document.activeElement === canvas) {
      for (const [colour, line] of [[ground, 4], [ink, 1.5]]) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.beginPath();
        context.moveTo(width / 2 - 9, height / 2); context.lineTo(width / 2 + 9, height / 2);
        context.moveTo(width / 2, height / 2 - 9); context.lineTo(width / 2, height / 2 + 9);
        context.stroke();
      }
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  function ring(x, y, size, ink, ground) {
    for (const [colour, line] of [[ground, 5], [ink, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.beginPath();
      context.arc(x, y, size, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  function paint() {
    points();
    signs();
    if (pinned >= 0) place(pinned);
  }

  // -- which image is where --------------------------------------------------------------------

  const CELLS = 256;
  const heads = new Int32Array(CELLS * CELLS).fill(-1), next = new Int32Array(count);
  for (let row = count - 1; row >= 0; row--) {
    const cell = (places[2 * row + 1] >> 8) * CELLS + (places[2 * row] >> 8);
    next[row] = heads[cell];
    heads[cell] = row;
  }

  function nearest(x, y, within) {
    const cx = (x - width / 2) / view.scale + view.x, cy = (y - height / 2) / view.scale + view.y;
    const reach = within / view.scale;
    const low = (value) => Math.max(0, Math.floor((value - reach) * CELLS));
    const high = (value) => Math.min(CELLS - 1, Math.floor((value + reach) * CELLS));
    let best = -1, least = reach * reach;
    for (let b = low(cy); b <= high(cy); b++) {
      for (let a = low(cx); a <= high(cx); a++) {
        for (let row = heads[b * CELLS + a]; row >= 0; row = next[row]) {
          const dx = atX(row) - cx, dy = atY(row) - cy, far = dx * dx + dy * dy;
          if (far < least) { least = far; best = row; }
        }
      }
    }
    return best;
  }

  function touched(x, y, within) {
    const picture = hung.find(([a, b, w, h]) => Math.abs(x - a) <= w && Math.abs(y - b) <= h);
    return picture ? picture[4] : nearest(x, y, within);
  }

  // -- the card ----------------------------------------------------------------------------------

  function path(row) {
    const [folder, name] = data.paths[row];
    return folder < 0 ? "its file is not known" : data.folders[folder].shown + name;
  }

  function link(row) {
    const [folder, name, plain] = data.paths[row];
    if (folder < 0 || plain === 0 || data.folders[folder].address === null) return null;
    return data.folders[folder].address + encodeURIComponent(name);
  }

  function show(row) {
    const card = $("card");
    card.hidden = row < 0;
    if (row < 0) return;
    const image = $("card-image"), address = thumbnails.get(row);
    image.hidden = !address;
    $("card-none").hidden = Boolean(address);
    if (address) { image.src = address; image.alt = path(row); }
    const group = groups[row], label = $("card-cluster");
    label.lastElementChild.textContent = group < 0 ? "in no cluster" : clusters[group].name;
    label.firstElementChild.style.setProperty("--dot", dot(group));
    $("card-path").textContent = path(row);
    const there = link(row);
    $("card-link").hidden = !there || pinned !== row;
    if (there) $("card-link").href = there;
    card.classList.toggle("pinned", pinned === row);
    place(row);
  }

  function place(row) {
    const card = $("card"), x = screenX(atX(row)), y = screenY(atY(row));
    const w = card.offsetWidth, h = card.offsetHeight;
    const left = x + 18 + w < width ? x + 18 : x - 18 - w;
    card.style.transform = `translate(${Math.round(Math.min(Math.max(left, 14), Math.max(14, width - w - 14)))}px, ${Math.round(Math.min(Math.max(y - h / 2, 14), Math.max(14, height - h - 14)))}px)`;
  }

  function dot(group) {
    const { none, colours } = theme();
    return group < 0 ? none : colours[clusters[group].slot];
  }

  function pin(row) {
    pinned = row;
    hovered = row;
    show(row);
    draw();
  }

  // -- moving ------------------------------------------------------------------------------------

  const most = () => fitted * 120;
  function zoomAt(x, y, factor) {
    const scale = Math.min(Math.max(view.scale * factor, fitted * 0.6), most());
    const cx = (x - width / 2) / view.scale + view.x, cy = (y - height / 2) / view.scale + view.y;
    view = { x: cx - (x - width / 2) / scale, y: cy - (y - height / 2) / scale, scale };
    keep();
    draw();
  }

  function move(dx, dy) {
    view = { ...view, x: view.x - dx / view.scale, y: view.y - dy / view.scale };
    keep();
    draw();
  }

  function keep() {
    view.x = Math.min(Math.max(view.x, -0.1), 1.1);
    view.y = Math.min(Math.max(view.y, -0.1), 1.1);
  }

  let flight = 0;
  function fly(to) {
    const from = view, start = performance.now(), ticket = ++flight;
    if (still.matches) { view = to; draw(); return; }
    const step = (now) => {
      if (ticket !== flight) return;
      const t = Math.min(1, (now - start) / 450), ease = t * t * (3 - 2 * t);
      view = {
        x: from.x + (to.x - from.x) * ease,
        y: from.y + (to.y - from.y) * ease,
        scale: from.scale * Math.pow(to.scale / from.scale, ease),
      };
      paint();
      if (t < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  function choose(position) {
    chosen = chosen === position ? -1 : position;
    [...$("list").children].forEach((item, row) => item.firstElementChild.setAttribute("aria-pressed", String(row === chosen)));
    if (pinned >= 0) pin(-1);
    if (chosen < 0) { fly(fit()); return; }
    // Most of its images: the tenth that lie farthest out do not count.
    const xs = [], ys = [];
    for (let row = 0; row < count; row++) if (groups[row] === chosen) { xs.push(atX(row)); ys.push(atY(row)); }
    if (!xs.length) { draw(); return; }
    const ends = (values) => { values.sort((a, b) => a - b); const cut = Math.floor(values.length / 10); return [values[cut], values[values.length - 1 - cut]]; };
    const [left, right] = ends(xs), [top, bottom] = ends(ys);
    const scale = Math.min(0.6 * width / Math.max(right - left, 0.01), 0.6 * height / Math.max(bottom - top, 0.01), fitted * 12);
    fly({ x: (left + right) / 2, y: (top + bottom) / 2, scale: Math.max(scale, fitted) });
  }

  // -- mouse, touch and keyboard --------------------------------------------------------------------

  const fingers = new Map();
  let travelled = 0;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
    byKeyboard = false;
    flight++;
    if (fingers.size === 1) travelled = 0;
    canvas.classList.add("dragging");
  });
  canvas.addEventListener("pointermove", (event) => {
    const x = event.offsetX, y = event.offsetY, before = fingers.get(event.pointerId);
    if (!before) {
      const row = touched(x, y, Math.max(10, radius() + 4));
      canvas.classList.toggle("over", row >= 0);
      if (row !== hovered && pinned < 0) { hovered = row; show(row); draw(); }
      return;
    }
    travelled += Math.hypot(x - before[0], y - before[1]);
    if (fingers.size === 1) {
      if (travelled > 4) move(x - before[0], y - before[1]);
    } else {
      const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(x - other[0], y - other[1]);
      move((x - before[0]) / 2, (y - before[1]) / 2);
      if (was > 0) zoomAt((x + other[0]) / 2, (y + other[1]) / 2, is / was);
    }
    fingers.set(event.pointerId, [x, y]);
  });
  const lift = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (!fingers.size) canvas.classList.remove("dragging");
    if (event.type === "pointerup" && travelled <= 4 && !fingers.size) {
      pin(touched(event.offsetX, event.offsetY, event.pointerType === "mouse" ? 12 : 24));
    }
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => {
    if (pinned < 0 && hovered >= 0) { hovered = -1; show(-1); draw(); }
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    flight++;
    const lines = event.deltaMode === 1 ? 20 : event.deltaMode === 2 ? 300 : 1;
    zoomAt(event.offsetX, event.offsetY, Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) * 0.0022));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoomAt(event.offsetX, event.offsetY, 2));

  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 60, key = event.key;
    byKeyboard = true;
    if (key === "ArrowLeft") move(step, 0);
    else if (key === "ArrowRight") move(-step, 0);
    else if (key === "ArrowUp") move(0, step);
    else if (key === "ArrowDown") move(0, -step);
    else if (key === "+" || key === "=") zoomAt(width / 2, height / 2, 1.4);
    else if (key === "-") zoomAt(width / 2, height / 2, 1 / 1.4);
    else if (key === "0") fly(fit());
    else if (key === "p") toggle();
    else if (key === "Enter" || key === " ") pin(nearest(width / 2, height / 2, Math.max(width, height)));
    else return;
    event.preventDefault();
    if (pinned < 0) {
      const row = nearest(width / 2, height / 2, 40);
      if (row !== hovered) { hovered = row; show(row); }
    }
    draw();
  });
  canvas.addEventListener("focus", () => { byKeyboard = canvas.matches(":focus-visible"); draw(); });
  canvas.addEventListener("blur", draw);
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (pinned >= 0) { pin(-1); canvas.focus(); } else if (chosen >= 0) choose(chosen);
  });

  function toggle() {
    withPictures = !withPictures;
    $("pictures").setAttribute("aria-pressed", String(withPictures));
    draw();
  }
  $("closer").addEventListener("click", () => zoomAt(width / 2, height / 2, 1.6));
  $("wider").addEventListener("click", () => zoomAt(width / 2, height / 2, 1 / 1.6));
  $("whole").addEventListener("click", () => fly(fit()));
  $("pictures").addEventListener("click", toggle);
  $("unpin").addEventListener("click", () => { pin(-1); canvas.focus(); });
  $("fold").addEventListener("click", () => {
    const open = $("fold").getAttribute("aria-expanded") !== "true";
    $("fold").setAttribute("aria-expanded", String(open));
    resize();
  });

  function list() {
    $("list").replaceChildren(...clusters.map((cluster, position) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const mark = document.createElement("i"), name = document.createElement("b"), size = document.createElement("small");
      mark.style.setProperty("--dot", dot(position));
      name.textContent = name.title = cluster.name;
      name.dir = "auto";
      size.textContent = cluster.size.toLocaleString("en");
      button.type = "button";
      button.setAttribute("aria-pressed", String(position === chosen));
      button.append(mark, name, size);
      button.addEventListener("click", () => choose(position));
      item.append(button);
      return item;
    }));
  }

  dark.addEventListener("change", () => { list(); draw(); });
  if (matchMedia("(max-width: 700px)").matches) $("fold").setAttribute("aria-expanded", "false");
  list();
  new ResizeObserver(resize).observe(stage);
  resize();
  view = fit();
  document.documentElement.dataset.ready = "yes";
})();
