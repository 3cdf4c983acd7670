// The map of a discovery as a file of its own: its data, its list of clusters and its card.
import { Camera } from "./map/camera.js";
import { CanvasDots } from "./map/canvas_dots.js";
import { listen } from "./map/gestures.js";
import { Places } from "./map/places.js";
import { Signs, cross, ring } from "./map/signs.js";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const groups = new Int32Array(bytes(data.groups).buffer);
const places = new Places(new Uint16Array(bytes(data.places).buffer));
const clusters = data.clusters;
const thumbnails = new Map(data.thumbnails.map(([row, address]) => [row, address]));
const canvas = $("map");
const dark = matchMedia("(prefers-color-scheme: dark)");
const tints = Uint8Array.from(groups, (group) => (group < 0 ? 0 : clusters[group].slot + 1));
const camera = new Camera(places, draw);
const dots = new CanvasDots(canvas, places, tints);
const signs = new Signs({ places, groups, clusters, picture, others: () => thumbnails.keys() });

let ratio = 1;
let chosen = -1;      // cluster
let hovered = -1;     // image
let pinned = -1;
let byKeyboard = false;

// -- drawing -------------------------------------------------------------------------------

let wanted = false;
function draw() {
  if (!wanted) {
    wanted = true;
    requestAnimationFrame(() => { wanted = false; paint(); });
  }
}

function resize() {
  ratio = Math.min(window.devicePixelRatio || 1, 2);
  const { clientWidth: width, clientHeight: height } = $("stage");
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  camera.resize(width, height);
  paint();  // at once: a canvas is black after its size is set
}

function theme() {
  const colours = dark.matches ? data.dark : data.light;
  return { ...colours, ink: getComputedStyle(document.documentElement).getPropertyValue("--text") };
}

function paint() {
  const now = theme(), { context } = dots;
  dots.paint(camera, ratio, now);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  const covered = [$("tools"), $("help")].filter((over) => over.offsetWidth).map(
    ({ offsetLeft: left, offsetTop: top, offsetWidth: w, offsetHeight: h }) => [left, top, left + w, top + h]);
  signs.paint(context, camera, { theme: now, chosen, lit: dots.lit, covered });
  const marked = pinned >= 0 ? pinned : hovered;
  if (marked >= 0) ring(context, camera.screenX(places.x(marked)), camera.screenY(places.y(marked)), camera.radius() + 4, now);
  if (byKeyboard && document.activeElement === canvas) cross(context, camera, now);
  context.setTransform(1, 0, 0, 1, 0, 0);
  if (pinned >= 0) place(pinned);
}

const decoded = new Map();
function picture(row) {
  let image = decoded.get(row);
  if (!image) {
    const address = thumbnails.get(row);
    if (!address) return null;
    image = new Image();
    image.onload = draw;
    image.src = address;
    decoded.set(row, image);
  }
  return image.complete && image.naturalWidth ? image : null;
}

// -- the card ------------------------------------------------------------------------------

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
  const card = $("card"), x = camera.screenX(places.x(row)), y = camera.screenY(places.y(row));
  const w = card.offsetWidth, h = card.offsetHeight, { width, height } = camera;
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

function hover(row) {
  if (row === hovered || pinned >= 0) return;
  hovered = row;
  show(row);
  draw();
}

// -- choosing ------------------------------------------------------------------------------

function choose(position) {
  chosen = chosen === position ? -1 : position;
  dots.light(chosen < 0 ? null : Uint8Array.from(groups, (group) => Number(group === chosen)));
  [...$("list").children].forEach((item, row) => item.firstElementChild.setAttribute("aria-pressed", String(row === chosen)));
  if (pinned >= 0) pin(-1);
  if (chosen < 0) { camera.fly(camera.whole()); return; }
  const rows = [];
  for (let row = 0; row < groups.length; row++) if (groups[row] === chosen) rows.push(row);
  if (rows.length) camera.flyTo(places.middleOf(rows));
  else draw();
}

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

function toggle() {
  signs.withPictures = !signs.withPictures;
  $("pictures").setAttribute("aria-pressed", String(signs.withPictures));
  draw();
}

// -- mouse, touch and keyboard -------------------------------------------------------------

listen(canvas, camera, {
  pointer() { byKeyboard = false; },
  hover(x, y) {
    const row = signs.touched(camera, x, y, Math.max(10, camera.radius() + 4));
    canvas.classList.toggle("over", row >= 0);
    hover(row);
  },
  leave() { hover(-1); },
  tap(x, y, reach) { pin(signs.touched(camera, x, y, reach)); },
  key({ key }) {
    if (key === "p") toggle();
    else if (key === "Enter" || key === " ") pin(places.nearest(camera.x, camera.y, 2));
    else return false;
    return true;
  },
  keyed() {
    byKeyboard = true;
    hover(places.nearest(camera.x, camera.y, 40 / camera.scale));
    draw();
  },
});
canvas.addEventListener("focus", () => { byKeyboard = canvas.matches(":focus-visible"); draw(); });
canvas.addEventListener("blur", draw);
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (pinned >= 0) { pin(-1); canvas.focus(); } else if (chosen >= 0) choose(chosen);
});
const middle = (factor) => camera.zoomAt(camera.width / 2, camera.height / 2, factor);
$("closer").addEventListener("click", () => middle(1.6));
$("wider").addEventListener("click", () => middle(1 / 1.6));
$("whole").addEventListener("click", () => camera.fly(camera.whole()));
$("pictures").addEventListener("click", toggle);
$("unpin").addEventListener("click", () => { pin(-1); canvas.focus(); });
$("fold").addEventListener("click", () => {
  const open = $("fold").getAttribute("aria-expanded") !== "true";
  $("fold").setAttribute("aria-expanded", String(open));
  resize();
});

dark.addEventListener("change", () => { list(); draw(); });
if (matchMedia("(max-width: 700px)").matches) $("fold").setAttribute("aria-expanded", "false");
list();
resize();
Object.assign(camera, camera.whole());
draw();
new ResizeObserver(resize).observe($("stage"));
document.documentElement.dataset.ready = "yes";
