// A grid of photos with endless scroll: the one that every tab shows its photos in.
//
// photoGrid({load, open, empty, caption, selectable}) -> {node, reload(), busy(), hits(), selection,
//     state(), restore(state)}
//   load(offset, limit, signal)  an answer as of api/search, or a promise of one
//   open(id, ids)                what opening does; the detail panel when left out
//   empty                        what stands there without a hit: text, a node, or a function of
//                                the answer
//   caption(hit)                 text or a node below the picture; score and date when left out
//   selectable                   true, or a Selection shared with others
//   answered(answer, hits)       told of every answer, with all hits so far
// Keys: arrows, Home, End, Enter opens, x selects, Shift with a click or x selects up to there.

import { openDetail } from "./detail.js";
import { element } from "./elements.js";
import { count, day, dayAndTime, score } from "./formats.js";
import { icon } from "./icons.js";
import { Selection } from "./selection.js";
import { thumbnail } from "./server.js";

const PAGE = 60;

export function photoGrid({ load, open, empty = "No photos here.", caption = scoreAndDate, selectable = false, answered }) {
  const selection = selectable instanceof Selection ? selectable : selectable ? new Selection() : null;
  const list = element("ul", { class: "cs-grid" });
  const note = element("div", { class: "cs-grid-note", role: "status" });
  const end = element("div", { class: "cs-grid-end" });
  const node = element("div", { class: "cs-grid-frame" }, note, list, end);
  let shown = []; // hits, in the order of the tiles
  let offset = 0; // of the next page; hits that an answer repeats are shown once
  let more = false;
  let running = null; // the AbortController of the page that is being fetched
  let last = null; // the last answer
  let anchor = null; // id of the last selected, from which Shift selects

  const ids = () => shown.map((hit) => hit.id);
  const hitOf = (id) => shown.find((hit) => hit.id === id);
  const show = open ?? ((id) => openDetail(id, { ids, hitOf }));

  async function fetchPage(fresh) {
    running?.abort();
    const mine = (running = new AbortController());
    node.setAttribute("aria-busy", "true");
    if (fresh && !shown.length) list.replaceChildren(...waiting());
    try {
      const answer = await load(fresh ? 0 : offset, PAGE, mine.signal);
      if (mine.signal.aborted) return;
      take(answer, fresh);
    } catch (error) {
      if (mine.signal.aborted || error.name === "AbortError") return;
      fail(error, fresh);
    } finally {
      if (running === mine) {
        running = null;
        node.removeAttribute("aria-busy");
        if (more) scroll.observe(end);
      }
    }
  }

  function take(answer, fresh) {
    const known = new Set(fresh ? [] : ids());
    const found = fresh && !answer.hits.length ? (answer.below ?? []) : answer.hits;
    const added = found.filter((hit) => !known.has(hit.id));
    if (fresh) { shown = []; offset = 0; list.replaceChildren(); anchor = null; }
    offset += answer.hits.length;
    more = answer.hits.length >= PAGE && (answer.total == null || offset < answer.total);
    shown.push(...added);
    list.append(...added.map(tile));
    if (fresh) begun(answer);
    last = answer;
    answered?.(answer, shown);
  }

  function begun(answer) {
    focusable(list.querySelector(".cs-tile"));
    note.replaceChildren(...(offset ? [] : [words(typeof empty === "function" ? empty(answer) : empty)]));
  }

  // As it was when state() was taken, without asking anew.
  function restore(state) {
    running?.abort();
    scroll.unobserve(end);
    end.replaceChildren();
    ({ shown, offset, more, last } = { ...state, shown: [...state.shown] });
    anchor = null;
    list.replaceChildren(...shown.map(tile));
    begun(last);
    answered?.(last, shown);
    if (more) scroll.observe(end);
  }

  function fail(error, fresh) {
    more = false;
    if (fresh) { shown = []; last = null; list.replaceChildren(); }
    const again = element("button", { type: "button", class: "cs-button", onclick: () => { notice.remove(); fetchPage(fresh); } }, "Try again");
    const notice = element("div", { class: "cs-grid-error", role: "alert" }, element("p", {}, error.message), again);
    (fresh ? note : end).replaceChildren(notice);
  }

  function tile(hit) {
    const about = [hit.name, hit.score != null && `score ${score(hit.score)}`, hit.strength && `${hit.strength} match`,
      hit.taken_at && `taken ${dayAndTime(hit.taken_at)}`, hit.missing && "file missing"].filter(Boolean).join(", ");
    const picture = element("img", { src: thumbnail(hit.id), alt: "", loading: "lazy", decoding: "async", draggable: false,
      onerror: () => picture.replaceWith(icon("image")) });
    const button = element("button", { type: "button", class: "cs-tile", "aria-label": about, title: hit.name, tabIndex: -1, dataset: { id: hit.id } }, picture,
      hit.folded ? element("span", { class: "cs-tile-folded", title: `${count(hit.folded)} more nearly the same` }, `+${count(hit.folded)}`) : null,
      hit.missing ? element("span", { class: "cs-tile-missing" }, "file missing") : null);
    const mark = selection ? element("button", { type: "button", class: "cs-tile-mark", role: "checkbox", "aria-checked": String(selection.has(hit.id)), "aria-label": `Select ${hit.name}`, tabIndex: -1, dataset: { id: hit.id } }) : null;
    return element("li", { class: selection?.has(hit.id) ? "cs-selected" : "", dataset: { id: hit.id } }, button, mark,
      element("div", { class: "cs-caption" }, caption(hit)));
  }

  // Selecting.
  function select(id, upTo) {
    const all = ids();
    const [from, to] = [all.indexOf(anchor), all.indexOf(id)];
    if (upTo && from >= 0) selection.set(all.slice(Math.min(from, to), Math.max(from, to) + 1), true);
    else selection.toggle(id);
    anchor = id;
  }
  selection?.addEventListener("change", () => {
    for (const item of list.children) {
      const selected = selection.has(Number(item.dataset.id));
      if (item.classList.contains("cs-selected") === selected) continue;
      item.classList.toggle("cs-selected", selected);
      item.querySelector(".cs-tile-mark")?.setAttribute("aria-checked", String(selected));
    }
    list.classList.toggle("cs-selecting", selection.size > 0);
  });

  list.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-id]");
    if (!button) return;
    const id = Number(button.dataset.id);
    if (button.classList.contains("cs-tile-mark") || (selection && event.shiftKey)) { select(id, event.shiftKey); return; }
    focusable(button);
    show(id, ids());
  });

  // Moving: one tile is in the order of Tab, the arrows go to its neighbours.
  function focusable(button) {
    if (!button) return;
    for (const other of list.querySelectorAll('.cs-tile[tabindex="0"]')) other.tabIndex = -1;
    button.tabIndex = 0;
  }
  list.addEventListener("focusin", (event) => { if (event.target.classList.contains("cs-tile")) focusable(event.target); });
  list.addEventListener("keydown", (event) => {
    if (!event.target.classList.contains("cs-tile") || event.ctrlKey || event.metaKey || event.altKey) return;
    const tiles = [...list.querySelectorAll(".cs-tile")];
    const at = tiles.indexOf(event.target);
    const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: tiles.length - 1 - at };
    if (event.key in steps) {
      const to = tiles[at + steps[event.key]] ?? (event.key === "ArrowDown" && at + columns >= tiles.length ? tiles.at(-1) : null);
      to?.focus();
      to?.scrollIntoView({ block: "nearest" });
    } else if (event.key.toLowerCase() === "x" && selection) select(Number(event.target.dataset.id), event.shiftKey);
    else return;
    event.preventDefault();
  });

  // The next page is asked for before its place comes into view.
  const scroll = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting) || running || !more || !node.isConnected) return;
    scroll.unobserve(end); // observed anew when the page is there, so that a short one asks on
    fetchPage(false);
  }, { rootMargin: "900px 0px" });

  return {
    node,
    selection,
    reload: () => { scroll.unobserve(end); end.replaceChildren(); return fetchPage(true); },
    hits: () => [...shown],
    hitOf,
    busy: () => running !== null,
    state: () => (last && !running ? { shown: [...shown], offset, more, last } : null),
    restore,
    focus: (id) => {
      const to = id == null ? list.querySelector('.cs-tile[tabindex="0"]') : list.querySelector(`.cs-tile[data-id="${Number(id)}"]`);
      to?.focus();
      return Boolean(to);
    },
  };
}

const words = (what) => (typeof what === "string" ? element("p", { class: "cs-note" }, what) : what);
const waiting = () => Array.from({ length: 12 }, () => element("li", { class: "cs-waiting", "aria-hidden": "true" }, element("div", { class: "cs-tile" })));

// "0.342 · 12 Mar 2019"; the name where there is neither.
export function scoreAndDate(hit) {
  const parts = [];
  if (hit.score != null) parts.push(element("span", { class: `cs-score cs-${hit.strength ?? "plain"}` }, score(hit.score)));
  if (hit.taken_at) parts.push(element("span", { class: "cs-when" }, day(hit.taken_at)));
  if (!parts.length) parts.push(element("span", { class: "cs-when" }, hit.name));
  return parts;
}
