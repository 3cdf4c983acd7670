// The photos that were chosen on the map, below it: in a grid, and where to go on from there.

import { element } from "./elements.js";
import { exportChoices } from "./export_choices.js";
import { counted } from "./formats.js";
import { photoGrid } from "./grid.js";
import { icon } from "./icons.js";
import { popoverOf } from "./popover.js";
import { moreLike } from "./search_links.js";
import { ask } from "./server.js";
import { showSearch } from "./tabs.js";

const LIKE = 5; // photos that a search for more of them starts from
const MOST_WHERE = 3500; // letters of an expression, as many as an address takes

// {node, show(ids, name), cleared}: `cleared` is called when the choice is given up here.
export function mapSelection() {
  let ids = [], where = "";
  const title = element("h2", { "aria-live": "polite" });
  const grid = photoGrid({ load, empty: "These photos are no longer in the index." });
  const made = { node: null, show, cleared: () => {} };
  const button = (text, onclick) => element("button", { type: "button", class: "cs-button", onclick }, text);
  const within = button("Search among these", () => showSearch({ where }));
  const more = button("Search for more like these", () => moreLike(...some()));
  const out = element("button", { type: "button", class: "cs-button" }, icon("download"), "Export");
  const sheet = popoverOf(out, "Export as", (into, close) => into.replaceChildren(...exportChoices({ ids: () => ids, close })));
  const clear = button("Let go", () => made.cleared());
  made.node = element("section", { class: "cs-map-selection", hidden: true, "aria-label": "Chosen photos" },
    element("div", { class: "cs-map-bar" }, title, within, more, out, clear), sheet, grid.node);

  function show(chosen, name) {
    ids = chosen;
    made.node.hidden = !ids.length;
    title.textContent = `${counted(ids.length, "photo")} ${name ? `in ${name}` : "chosen"}`;
    where = `id in (${ids.slice(0, MOST_WHERE).join(", ")})`;
    within.hidden = where.length > MOST_WHERE || ids.length > MOST_WHERE;
    if (ids.length) grid.reload();
  }

  // A page of the choice. Those that are gone since are left out of it for good, so that pages
  // stay whole.
  async function load(offset, limit, signal) {
    for (;;) {
      const page = ids.slice(offset, offset + limit);
      const body = JSON.stringify({ ids: page });
      const answer = await ask("api/map/photos", { method: "POST", signal, headers: { "Content-Type": "application/json" }, body });
      if (answer.hits.length === page.length) return { ...answer, total: ids.length };
      const gone = new Set(page);
      for (const hit of answer.hits) gone.delete(hit.id);
      ids = ids.filter((id) => !gone.has(id));
    }
  }

  // A few, evenly over the choice.
  function some() {
    const step = Math.max(1, ids.length / LIKE);
    return Array.from({ length: Math.min(LIKE, ids.length) }, (_, position) => ids[Math.floor(position * step)]);
  }
  return made;
}
