// One photo, large, with what is known of it: a column beside the page, a sheet from below on a
// phone. There is one for all tabs.
//
// openDetail(id, {ids}): `ids` are the photos that previous and next go through, or a function that
// gives them as they are now. hitOf(id): the hit of a search, whose score is told too.
// The document hears "cs:opened" with the id, or null, whenever that changes.

import { factsOf } from "./detail_facts.js";
import { element } from "./elements.js";
import { count } from "./formats.js";
import { icon } from "./icons.js";
import { moreLike, lessLike } from "./search_links.js";
import { address, ask, preview, thumbnail } from "./server.js";

const phone = window.matchMedia("(max-width: 899px)");
let panel = null; // made when the first photo is opened
let current = null;
let hitOf = () => undefined;
let around = () => []; // the ids that previous and next go through, as they are now
let returnTo = null; // what had the focus before
let asking = null;

export const openedId = () => current;

export function openDetail(id, { ids = [], hitOf: found = () => undefined, focus = true } = {}) {
  panel ??= makePanel();
  const first = current === null;
  if (first) returnTo = document.activeElement;
  around = typeof ids === "function" ? ids : () => ids;
  hitOf = found;
  document.body.classList.add("cs-detail-open");
  panel.layer.hidden = false;
  show(id);
  asDialog();
  if (focus) panel.box.focus({ preventScroll: true });
}

export function closeDetail({ focus = true } = {}) {
  if (current === null) return;
  const id = current;
  current = null;
  asking?.abort();
  panel.layer.hidden = true;
  panel.picture.removeAttribute("src");
  document.body.classList.remove("cs-detail-open");
  mark();
  asDialog();
  document.dispatchEvent(new CustomEvent("cs:opened", { detail: null }));
  if (!focus) return;
  const tile = [...tilesOf(id)].find((found) => found.offsetParent);
  (tile ?? returnTo)?.focus?.();
}

// What previous and next go through has changed, or is known only now.
export function goThrough(ids, found = () => undefined) {
  if (current === null || !ids().includes(current)) return;
  around = ids;
  hitOf = found;
  showPlace();
  mark();
}

// Previous and next: -1 and 1.
export function step(by) {
  const ids = around();
  const at = ids.indexOf(current);
  const to = at < 0 ? undefined : ids[at + by];
  if (current === null || to === undefined) return false;
  show(to);
  return true;
}

function showPlace() {
  const ids = around();
  const at = ids.indexOf(current);
  panel.before.disabled = at <= 0;
  panel.after.disabled = at < 0 || at >= ids.length - 1;
  panel.place.textContent = at >= 0 && ids.length > 1 ? `${count(at + 1)} of ${count(ids.length)}` : "Photo";
}

function makePanel() {
  const button = (name, label, onclick, more = {}) =>
    element("button", { type: "button", class: "cs-icon-button", "aria-label": label, title: label, onclick, ...more }, icon(name));
  const made = {
    picture: element("img", { class: "cs-detail-picture", alt: "", decoding: "async" }),
    before: button("left", "Previous photo", () => step(-1), { class: "cs-icon-button cs-detail-step cs-before" }),
    after: button("right", "Next photo", () => step(1), { class: "cs-icon-button cs-detail-step cs-after" }),
    place: element("p", { class: "cs-detail-place" }),
    title: element("h2", { class: "cs-detail-name", id: "cs-detail-name" }),
    facts: element("div", { class: "cs-detail-facts" }),
    copied: element("span", { class: "cs-hidden", role: "status" }),
  };
  made.frame = element("button", { type: "button", class: "cs-detail-frame", "aria-label": "Show the photo alone", onclick: () => enlarge() }, made.picture);
  made.stage = element("div", { class: "cs-detail-stage" }, made.frame, made.before, made.after);
  made.actions = element("div", { class: "cs-detail-actions" },
    element("button", { type: "button", class: "cs-button cs-primary", onclick: () => moreLike(current) }, "More like this"),
    element("button", { type: "button", class: "cs-button", onclick: () => lessLike(current) }, "Less like this"));
  made.box = element("section", { class: "cs-detail", tabIndex: -1, "aria-labelledby": "cs-detail-name" },
    element("div", { class: "cs-detail-bar" }, made.place, button("close", "Close (Esc)", () => closeDetail())),
    made.stage, made.title, made.actions, made.facts, made.copied);
  made.layer = element("div", { class: "cs-panel cs-detail-layer", hidden: true },
    element("div", { class: "cs-detail-shade", onclick: () => closeDetail() }), made.box);
  made.alone = element("dialog", { class: "cs-alone", "aria-label": "The photo alone", onclick: () => made.alone.close() }, element("img", { alt: "" }));
  made.layer.append(made.alone);
  document.body.append(made.layer);
  made.box.addEventListener("keydown", keys);
  made.alone.addEventListener("keydown", turn);
  swipes(made.stage);
  phone.addEventListener("change", asDialog);
  return made;
}

function show(id) {
  current = id;
  asking?.abort();
  asking = new AbortController();
  showPlace();
  panel.stage.style.setProperty("--cs-thumbnail", `url("${thumbnail(id)}")`);
  panel.stage.classList.add("cs-loading");
  panel.stage.hidden = panel.actions.hidden = false;
  mark();
  for (const tile of tilesOf(id)) tile.closest("li")?.scrollIntoView({ block: "nearest" });
  document.dispatchEvent(new CustomEvent("cs:opened", { detail: id }));
  describe(id, asking.signal);
}

// The preview is made from the file; where that is not there the thumbnail is all there is.
function draw(id, { original }) {
  panel.picture.onload = () => panel.stage.classList.remove("cs-loading");
  panel.picture.onerror = () => {
    panel.picture.onerror = () => panel.stage.classList.remove("cs-loading");
    panel.picture.src = thumbnail(id);
    if (original) panel.facts.prepend(element("p", { class: "cs-detail-missing", role: "alert" }, "The file cannot be shown: it has changed since it was indexed, or cannot be read."));
  };
  panel.picture.src = original ? preview(id) : thumbnail(id);
  if (panel.alone.open) enlarge();
}

async function describe(id, signal) {
  try {
    const image = await ask(`api/images/${id}`, { signal });
    if (signal.aborted) return;
    panel.title.textContent = image.name;
    panel.picture.alt = image.name;
    if (image.width && image.height) panel.stage.style.setProperty("--cs-ratio", `${image.width} / ${image.height}`);
    panel.facts.replaceChildren(...factsOf(image, {
      hit: hitOf(id),
      copied: (what) => { panel.copied.textContent = `${what} copied`; },
      download: image.original && !image.missing ? address(`media/original/${id}`) : null,
    }));
    draw(id, image);
    ahead(id);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    panel.title.textContent = "";
    panel.stage.hidden = panel.actions.hidden = error.status === 404; // there is no such photo
    panel.facts.replaceChildren(element("p", { class: "cs-note", role: "alert" }, error.message));
  }
}

// The next preview is fetched while this one is looked at.
function ahead(id) {
  const ids = around();
  const next = ids.includes(id) ? ids[ids.indexOf(id) + 1] : undefined;
  if (next === undefined) return;
  ask(`api/images/${next}`, { signal: asking.signal })
    .then(({ original }) => { if (original) new Image().src = preview(next); })
    .catch(() => { /* told when it is opened */ });
}

const tilesOf = (id) => document.querySelectorAll(`.cs-tile[data-id="${id}"]`);

// In every grid, the tile of the photo that is open.
function mark() {
  for (const tile of document.querySelectorAll(".cs-tile[aria-current]")) tile.removeAttribute("aria-current");
  if (current !== null) for (const tile of tilesOf(current)) tile.setAttribute("aria-current", "true");
}

function enlarge() {
  const [picture] = panel.alone.children;
  picture.src = panel.picture.src || thumbnail(current);
  picture.alt = panel.title.textContent;
  if (!panel.alone.open) panel.alone.showModal();
}

// Beside the page it is a part of it; over the page, on a phone, it is a dialog, and the rest of
// the page is out of reach.
function asDialog() {
  const open = phone.matches && current !== null;
  if (open) { panel.box.setAttribute("role", "dialog"); panel.box.setAttribute("aria-modal", "true"); }
  else { panel.box.setAttribute("role", "complementary"); panel.box.removeAttribute("aria-modal"); }
  for (const other of document.body.children) {
    if (other !== panel.layer && !["SCRIPT", "STYLE", "LINK"].includes(other.tagName)) other.inert = open;
  }
}

function turn(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return false;
  const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!by) return false;
  event.preventDefault();
  return step(by);
}

function keys(event) {
  if (turn(event) || event.key !== "Escape" || event.defaultPrevented) return;
  if (event.target.closest("dialog")) return; // Escape closes that first
  event.preventDefault();
  closeDetail();
}

// A finger that goes sideways turns to the next, one that goes down closes the sheet.
function swipes(stage) {
  let from = null;
  stage.addEventListener("touchstart", (event) => { from = event.touches.length === 1 ? event.touches[0] : null; }, { passive: true });
  stage.addEventListener("touchend", (event) => {
    if (!from) return;
    const [x, y] = [event.changedTouches[0].clientX - from.clientX, event.changedTouches[0].clientY - from.clientY];
    from = null;
    if (Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) step(x < 0 ? 1 : -1);
    else if (phone.matches && y > 90 && y > 2 * Math.abs(x)) closeDetail();
  }, { passive: true });
}
