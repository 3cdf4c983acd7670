// The drawing of a map, and what the mouse, fingers and keys do in it.

import { openDetail } from "./detail.js";
import { element } from "./elements.js";
import { icon } from "./icons.js";
import { Camera } from "./map/camera.js";
import { CanvasDots } from "./map/canvas_dots.js";
import { listen } from "./map/gestures.js";
import { Places } from "./map/places.js";
import { Signs, cross, ring } from "./map/signs.js";
import { MapCard } from "./map_card.js";
import { drawLine, rectangle, within } from "./map_lasso.js";
import { MapPictures } from "./map_pictures.js";
import { openTab } from "./tabs.js";
import { WebglDots } from "./webgl_dots.js";

const NEIGHBOURS = 60; // photos around an opened one, that previous and next go through

export class MapStage {
  // scene : as fetchScene has it. selected(rows) : is told what is chosen, [] for nothing.
  constructor(scene, { selected }) {
    Object.assign(this, { scene, selected });
    this.clusters = scene.about.clusters;
    this.places = new Places(scene.steps);
    this.chosen = -1;   // cluster
    this.hovered = -1;  // row
    this.opened = -1;
    this.byKeyboard = false;
    this.drawing = false;  // whether a drag draws a line
    this.line = null;
    this.draw = this.draw.bind(this);
    this.camera = new Camera(this.places, this.draw);
    this.pictures = new MapPictures(this.places, scene.ids, this.draw);
    this.signs = new Signs({
      places: this.places, groups: scene.groups, clusters: this.clusters,
      picture: (row) => this.pictures.of(row), others: (camera) => this.pictures.near(camera),
    });
    this.card = new MapCard(scene);
    this.build();
    this.dots = this.makeDots();
    this.listen();
  }

  build() {
    const tool = (name, label, onclick, more = {}) =>
      element("button", { type: "button", class: "cs-icon-button", "aria-label": label, title: label, onclick, ...more }, name);
    const middle = (factor) => this.camera.zoomAt(this.camera.width / 2, this.camera.height / 2, factor);
    this.lasso = tool("◌", "Choose by drawing around photos (l)", () => this.toggleLasso(), { "aria-pressed": "false" });
    this.shown = tool(icon("image"), "Pictures on the map (p)", () => this.togglePictures(), { "aria-pressed": "true" });
    this.tools = element("div", { class: "cs-map-tools", role: "toolbar", "aria-label": "Map" },
      tool(icon("plus"), "Zoom in (+)", () => middle(1.6)), tool(icon("minus"), "Zoom out (-)", () => middle(1 / 1.6)),
      tool("⤢", "Show the whole map (0)", () => this.camera.fly(this.camera.whole())), this.shown, this.lasso);
    this.help = element("p", { class: "cs-map-help", id: "cs-map-help" },
      element("span", { class: "cs-map-pointed" }, "Drag or arrow keys move, wheel or + and - zoom, a click or Enter opens. To choose photos, draw around them (l), or drag with Shift; Esc lets go."),
      element("span", { class: "cs-map-touched" }, "Drag to move, pinch to zoom, tap to open. To choose photos, tap the dashed circle and draw around them."));
    this.base = element("canvas", { class: "cs-map-base", "aria-hidden": "true" });
    this.over = element("canvas", { class: "cs-map-over", tabIndex: 0, role: "application", "aria-roledescription": "map", "aria-label": "Map of the photos", "aria-describedby": "cs-map-help" });
    this.frame = element("div", { class: "cs-map-frame" }, this.base, this.over, this.tools, this.card.node);
    this.node = element("div", { class: "cs-map-stage" }, this.frame, this.help);
    this.context = this.over.getContext("2d");
  }

  makeDots() {
    const { groups } = this.scene;
    const tints = Uint8Array.from(groups, (group) => (group < 0 ? 0 : this.clusters[group].slot + 1));
    try {
      const dots = new WebglDots(this.base, this.places, tints);
      dots.restored = this.draw;
      this.node.dataset.drawnBy = "webgl";
      return dots;
    } catch {
      // A canvas that has given WebGL gives nothing else.
      const plain = element("canvas", { class: "cs-map-base", "aria-hidden": "true" });
      this.base.replaceWith(plain);
      this.base = plain;
      this.node.dataset.drawnBy = "canvas";
      return new CanvasDots(plain, this.places, tints);
    }
  }

  start() {
    this.sizes = new ResizeObserver(() => this.resize());
    this.sizes.observe(this.frame);
    this.themes = new MutationObserver(this.draw); // Gradio changes a class for dark
    for (const root of [document.documentElement, document.body]) this.themes.observe(root, { attributes: true, attributeFilter: ["class"] });
    this.follow = ({ detail: id }) => { this.opened = id === null ? -1 : this.rowOf(id); this.draw(); };
    document.addEventListener("cs:opened", this.follow);
    this.letGo = () => { if (this.dots.lit && openTab() === "map") this.clear(); };
    document.addEventListener("cs:let-go", this.letGo);
    this.resize();
  }

  remove() {
    this.sizes?.disconnect();
    this.themes?.disconnect();
    document.removeEventListener("cs:opened", this.follow);
    document.removeEventListener("cs:let-go", this.letGo);
    this.node.remove();
    this.dots.gl?.getExtension("WEBGL_lose_context")?.loseContext(); // a browser has few of them
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.frame;
    if (!width || !height) return; // in a tab that is not open
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.max(1, Math.round(width * this.ratio));
      canvas.height = Math.max(1, Math.round(height * this.ratio));
    }
    this.camera.resize(width, height);
    this.paint(); // at once: a canvas is empty after its size is set
  }

  // -- drawing ---------------------------------------------------------------------------

  draw() {
    if (this.wanted || !this.camera.width) return;
    this.wanted = true;
    requestAnimationFrame(() => { this.wanted = false; this.paint(); });
  }

  theme() {
    const style = getComputedStyle(this.frame);
    const colours = this.frame.closest(".dark") ? this.scene.about.dark : this.scene.about.light;
    return { ...colours, ink: style.getPropertyValue("--cs-ink").trim() };
  }

  paint() {
    if (!this.node.isConnected) return;
    const { context, camera, places, ratio } = this, theme = this.theme();
    this.dots.paint(camera, ratio, theme);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, camera.width, camera.height);
    const { offsetLeft: left, offsetTop: top, offsetWidth: w, offsetHeight: h } = this.tools;
    this.signs.paint(context, camera, { theme, chosen: this.chosen, lit: this.dots.lit, covered: [[left, top, left + w, top + h]] });
    for (const row of new Set([this.opened, this.hovered])) {
      if (row >= 0) ring(context, camera.screenX(places.x(row)), camera.screenY(places.y(row)), camera.radius() + 4, theme);
    }
    if (this.byKeyboard && document.activeElement === this.over) cross(context, camera, theme);
    if (this.line) drawLine(context, this.line, theme);
    if (this.hovered >= 0) this.card.place(camera, places);
    this.frames = (this.frames ?? 0) + 1;
  }

  // -- choosing and opening --------------------------------------------------------------

  rowOf(id) {
    const { ids } = this.scene;
    let low = 0, high = ids.length;
    while (low < high) { const middle = (low + high) >> 1; if (ids[middle] < id) low = middle + 1; else high = middle; }
    return ids[low] === id ? low : -1;
  }

  hover(row) {
    if (row === this.hovered) return;
    this.hovered = row;
    this.card.show(row, this.camera, this.places);
    this.draw();
  }

  open(row) {
    if (row < 0) return;
    this.hover(-1);
    openDetail(this.scene.ids[row], { ids: this.neighbours(row).map((other) => this.scene.ids[other]) });
  }

  // The images nearest to one on the map, nearest first, itself at the beginning.
  neighbours(row) {
    const { places } = this, x = places.x(row), y = places.y(row);
    for (let reach = 0.01; ; reach *= 2) {
      const found = [];
      places.around(x - reach, y - reach, x + reach, y + reach, (other) => {
        const far = Math.hypot(places.x(other) - x, places.y(other) - y);
        if (far <= reach) found.push([other === row ? -1 : far, other]);
      });
      if (found.length >= Math.min(NEIGHBOURS, places.count) || reach > 2) {
        return found.sort((a, b) => a[0] - b[0] || a[1] - b[1]).slice(0, NEIGHBOURS).map(([, other]) => other);
      }
    }
  }

  // A cluster, or nothing where it was chosen already.
  choose(position) {
    if (this.chosen === position) { this.clear(); return; }
    const rows = [];
    this.scene.groups.forEach((group, row) => { if (group === position) rows.push(row); });
    this.chosen = position;
    this.select(rows);
    if (rows.length) this.camera.flyTo(this.places.middleOf(rows));
  }

  chosenName() { return this.chosen < 0 ? "" : this.clusters[this.chosen].name; }

  select(rows) {
    const lit = rows.length ? new Uint8Array(this.places.count) : null;
    for (const row of rows) lit[row] = 1;
    this.dots.light(lit);
    this.selected(rows);
    this.draw();
  }

  clear() {
    const back = this.chosen >= 0;
    this.chosen = -1;
    this.select([]);
    if (back) this.camera.fly(this.camera.whole());
  }

  toggleLasso() {
    this.drawing = !this.drawing;
    this.lasso.setAttribute("aria-pressed", String(this.drawing));
    this.over.classList.toggle("lasso", this.drawing);
  }

  togglePictures() {
    this.signs.withPictures = !this.signs.withPictures;
    this.shown.setAttribute("aria-pressed", String(this.signs.withPictures));
    this.draw();
  }

  // -- mouse, touch and keyboard ---------------------------------------------------------

  listen() {
    const { camera, over, places } = this;
    let square = false;
    const shape = (line) => (square ? rectangle([line[0], line.at(-1)]) : line);
    listen(over, camera, {
      pointer: () => { this.byKeyboard = false; this.hover(-1); },
      hover: (x, y) => {
        const row = this.signs.touched(camera, x, y, Math.max(10, camera.radius() + 4));
        over.classList.toggle("over", row >= 0);
        this.hover(row);
      },
      leave: () => this.hover(-1),
      tap: (x, y, reach) => this.open(this.signs.touched(camera, x, y, reach)),
      draws: (event) => { square = event.shiftKey; return this.drawing || event.shiftKey; },
      line: (line) => { this.line = shape(line); this.draw(); },
      lined: (line) => {
        this.line = null;
        this.draw();
        if (!line) return;
        this.chosen = -1;
        this.select(within(places, camera, shape(line)));
      },
      key: (event) => this.key(event),
      keyed: () => {
        this.byKeyboard = true;
        this.hover(places.nearest(camera.x, camera.y, 40 / camera.scale));
        this.draw();
      },
    });
    over.addEventListener("focus", () => { this.byKeyboard = over.matches(":focus-visible"); this.draw(); });
    over.addEventListener("blur", () => { if (this.byKeyboard) this.hover(-1); this.draw(); });
  }

  key({ key }) {
    if (key === "p") this.togglePictures();
    else if (key === "l") this.toggleLasso();
    else if (key === "Enter" || key === " ") this.open(this.places.nearest(this.camera.x, this.camera.y, 2));
    else return false;
    return true;
  }
}
