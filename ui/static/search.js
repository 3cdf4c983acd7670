// The Search tab: words, images, filters, and the photos that answer.

import { pageParameters, writeAddress } from "./address.js";
import { closeDetail, goThrough, openedId } from "./detail.js";
import { element } from "./elements.js";
import { exportChoices } from "./export_choices.js";
import { filterMenus, setChips } from "./filters.js";
import { photoGrid } from "./grid.js";
import { icon } from "./icons.js";
import { imageHandIn } from "./image_hand_in.js";
import { libraryStatus, noticed } from "./library_status.js";
import { popoverOf } from "./popover.js";
import { rememberSearch } from "./search_links.js";
import { NAMES, asksAnything, emptyQuestion, hasCut, isFirst, readQuestion, requestOf, writeQuestion } from "./search_question.js";
import { examples, nothing, summary, welcome } from "./search_view.js";
import { selectionBar } from "./selection_bar.js";
import { ask } from "./server.js";
import { onSearch } from "./tabs.js";
import { termRow } from "./terms.js";

const SEARCHING = "Searching …";
const SEEN = 12; // searches that are kept for going back

export async function mount(place) {
  let status = null;
  try { status = await libraryStatus(); } catch { /* the search below is told the same, and tells it */ }
  if (!status?.command) { drawSearch(place); return; }
  place.replaceChildren(welcome(status));
  // An index may be made while the page is open, most likely in the Index tab.
  const made = new AbortController();
  document.addEventListener("cs:library", ({ detail }) => {
    if (detail.command) return;
    made.abort();
    drawSearch(place);
  }, { signal: made.signal });
  document.addEventListener("cs:tab", () => { libraryStatus({ anew: true }).catch(() => {}); }, { signal: made.signal });
}

function drawSearch(place) {
  let question = readQuestion(pageParameters());
  let menus = [];

  // Words that are typed and not sent yet go along with whatever else is changed.
  const asTyped = () => ({ ...question, text: field.value.trim() });

  // The form.
  const field = element("input", { class: "cs-ask-field", id: "cs-search-field", type: "search", "aria-label": "What to look for", placeholder: "Describe a photo", autocomplete: "off", spellcheck: false, enterKeyHint: "search", maxLength: 2000 });
  const trouble = element("p", { class: "cs-trouble", role: "alert" });
  const image = imageHandIn({
    here: "search",
    taken: (image) => search({ ...asTyped(), terms: [...question.terms, { kind: "like", value: image, weight: 1 }] }),
    failed: (message) => { trouble.textContent = message; },
    busy: (on) => { form.toggleAttribute("aria-busy", on); if (on) trouble.textContent = ""; },
  });
  const form = element("form", { class: "cs-ask", role: "search", onsubmit: (event) => { event.preventDefault(); putAwayKeyboard(); search(asTyped()); } },
    element("div", { class: "cs-ask-box" }, icon("search"), field, image.button, image.field),
    element("button", { class: "cs-button cs-primary cs-ask-go" }, "Search"));
  // The cross of the field, and emptying it, go back to what is asked without words.
  field.addEventListener("search", () => { if (!field.value && question.text) search({ ...question, text: "", weight: 1 }); });

  // The keyboard of a phone would lie over the photos.
  const putAwayKeyboard = () => { if (window.matchMedia("(hover: none)").matches) field.blur(); };

  // Below it: terms, filters, what was found.
  const terms = element("div", { class: "cs-terms-place" });
  const chips = element("ul", { class: "cs-chips", "aria-label": "Filters" });
  const tries = examples((text) => search({ ...emptyQuestion(), text }));
  const found = element("p", { class: "cs-found", role: "status" });
  const took = element("span", { class: "cs-took" });
  const hint = element("p", { class: "cs-note", role: "status" });
  const sort = element("select", { class: "cs-sort", "aria-label": "Order", onchange: () => search({ ...asTyped(), sort: sort.value }) },
    element("option", { value: "relevance" }, "Best first"), element("option", { value: "date" }, "Newest first"));
  const fold = element("button", { type: "button", class: "cs-chip cs-fold", title: "Show photos that are nearly the same once", onclick: () => search({ ...asTyped(), fold: !question.fold }) }, "Fold near-duplicates");
  const weaker = element("div", { class: "cs-weaker" });

  const grid = photoGrid({
    selectable: true,
    load: (offset, limit, signal) => {
      const parameters = requestOf(question);
      parameters.set("offset", offset);
      parameters.set("limit", limit);
      return ask(`api/search?${parameters}`, { signal });
    },
    empty: (answer) => nothing(question, answer, {
      clearFilters: () => search({ ...question, filters: [] }),
      showAll: () => search({ ...question, cut: "none" }),
    }),
    answered,
  });
  const bar = selectionBar(grid.selection);
  const out = element("button", { type: "button", class: "cs-chip cs-out", "aria-label": "Export", title: "Export all that was found" }, icon("download"), element("span", { class: "cs-out-word" }, "Export"));
  const outSheet = popoverOf(out, "Export all that was found", (made, close) => made.replaceChildren(...exportChoices({ search: () => requestOf(question), close })));

  place.replaceChildren(form, trouble, terms, tries,
    element("div", { class: "cs-filters" }, chips),
    element("div", { class: "cs-line" }, found, took, element("div", { class: "cs-line-end" }, fold, out, outSheet, sort)),
    hint, grid.node, weaker, bar, image.veil);

  function answered(answer, hits) {
    noticed(answer.generation);
    found.textContent = summary(question, answer);
    took.textContent = found.textContent && answer.took_ms != null && !isFirst(question) ? `${Math.max(1, Math.round(answer.took_ms))} ms` : "";
    hint.textContent = answer.note ?? hint.textContent;
    goThrough(() => grid.hits().map((hit) => hit.id), grid.hitOf);
    const ended = hasCut(question) && hits.length && answer.hits.length && (answer.total == null ? answer.hits.length < 60 : hits.length >= answer.total) && hits.length < answer.searched;
    weaker.replaceChildren(...(ended ? [element("p", { class: "cs-soft" }, "That is all that stands out."),
      element("button", { type: "button", class: "cs-button", onclick: () => search({ ...question, cut: "none" }, { stay: true }) }, "Show weaker matches too")] : []));
  }

  // Everything that is drawn from the question, but for the photos.
  function draw() {
    field.value = question.text;
    const pressed = document.activeElement?.closest?.(".cs-terms-place") ? document.activeElement.getAttribute("aria-label") : null;
    terms.replaceChildren(termRow(question, search));
    if (pressed) [...terms.querySelectorAll("[aria-label]")].find((node) => node.getAttribute("aria-label") === pressed)?.focus();
    drawFilters();
    tries.hidden = !isFirst(question);
    sort.value = question.sort;
    sort.hidden = !asksAnything(question);
    fold.setAttribute("aria-pressed", String(question.fold));
  }

  const drawFilters = () => chips.replaceChildren(...setChips(question.filters, (filters) => search({ ...asTyped(), filters })), without(), ...menus);

  const withoutField = element("input", { class: "cs-field", "aria-label": "Words to stay away from", placeholder: "people", maxLength: 200 });
  const withoutItem = element("li", {});
  function without() {
    if (withoutItem.firstChild) return withoutItem;
    const button = element("button", { type: "button", class: "cs-chip" }, icon("minus"), "Without");
    const addWords = (event) => {
      event.preventDefault();
      const value = withoutField.value.trim();
      withoutField.value = "";
      sheet.hidePopover();
      if (value) search({ ...asTyped(), terms: [...question.terms, { kind: "not", value, weight: 1 }] });
    };
    const sheet = popoverOf(button, "Leave out", (made) => made.replaceChildren(
      element("form", { class: "cs-without", onsubmit: addWords }, withoutField, element("button", { class: "cs-button cs-primary" }, "Leave out"))));
    withoutItem.append(button, sheet);
    return withoutItem;
  }

  // What was on the page, for going back to it at once and to the same place.
  const seen = new Map();
  function remember() {
    const state = shown === null ? null : grid.state();
    if (!state) return;
    seen.delete(shown);
    seen.set(shown, { state, top: window.scrollY });
    if (seen.size > SEEN) seen.delete(seen.keys().next().value);
  }

  // Ask a new question: a step of the browser's history.
  function search(asked, { stay = false } = {}) {
    const same = String(writeQuestion(asked)) === String(writeQuestion(question)) && String(writeQuestion(asked)) === String(shown);
    remember();
    question = asked;
    if (!same) {
      writeAddress((parameters) => {
        for (const name of [...NAMES, "open"]) parameters.delete(name);
        for (const [name, value] of writeQuestion(question)) parameters.append(name, value);
      }, { push: true });
    }
    if (openedId() !== null) closeDetail({ focus: false });
    show(stay);
  }

  let shown = null; // the parameters of what is on the page
  function show(stay = false) {
    shown = String(writeQuestion(question));
    rememberSearch(writeQuestion(question));
    trouble.textContent = hint.textContent = "";
    weaker.replaceChildren();
    draw();
    if (!stay && window.scrollY > place.offsetTop) window.scrollTo({ top: 0 });
    // The first search loads the model, which takes seconds.
    const slow = setTimeout(() => { found.textContent = SEARCHING; took.textContent = ""; }, 600);
    grid.reload().finally(() => {
      clearTimeout(slow);
      if (!grid.state() && !grid.busy()) found.textContent = took.textContent = ""; // it failed
    });
  }

  function showAgain() {
    remember();
    question = readQuestion(pageParameters());
    const before = seen.get(String(writeQuestion(question)));
    if (!before) { show(); return; }
    shown = String(writeQuestion(question));
    rememberSearch(writeQuestion(question));
    trouble.textContent = hint.textContent = "";
    draw();
    grid.restore(before.state);
    window.scrollTo({ top: before.top });
  }

  window.addEventListener("popstate", () => {
    if (String(writeQuestion(readQuestion(pageParameters()))) !== shown) showAgain();
  });

  async function offerFilters() {
    try {
      menus = filterMenus(await ask("api/facets"), () => question, (filters) => search({ ...asTyped(), filters }, { stay: true }));
      if (!document.querySelector(":popover-open")) drawFilters(); // and leaves what is being typed
    } catch { /* the search has told what is wrong already */ }
  }
  document.addEventListener("cs:library", () => {
    seen.clear();
    offerFilters();
    if (isFirst(question) && window.scrollY < 100 && openedId() === null) grid.reload();
  });

  show();
  offerFilters();
  onSearch((parameters) => search(readQuestion(parameters)));
}
