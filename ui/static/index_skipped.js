// The images that could not be indexed, with the reason of each, fifty at a time.
import { element } from "./elements.js";
import { bytes, count, counted } from "./formats.js";
import { ask } from "./server.js";

const AT_ONCE = 50;
const WORDS = {
  corrupt: "damaged", truncated: "cut short", unsupported: "of a kind that cannot be read", too_large: "too large",
  unreadable: "may not be read", vanished: "gone while read", empty: "empty files",
};

export async function skippedView(place, skipped) {
  place.hidden = !skipped;
  if (!skipped) { place.replaceChildren(); return; }
  if (place.dataset.shown === String(skipped)) return;
  place.dataset.shown = String(skipped);
  const rows = element("tbody", {});
  const more = element("button", { type: "button", class: "cs-button", hidden: true, onclick: () => load() }, "Show more");
  const note = element("p", { class: "cs-note", role: "status" });
  const which = element("select", { class: "cs-field", onchange: () => { rows.replaceChildren(); load(); } });

  async function load() {
    const asked = new URLSearchParams({ offset: rows.children.length, limit: AT_ONCE });
    if (which.value) asked.set("reason", which.value);
    let found;
    try { found = await ask(`api/indexing/skipped?${asked}`); } catch (error) { note.textContent = error.message; return; }
    if (!which.options.length) {
      const all = Object.values(found.counts).reduce((sum, one) => sum + one, 0);
      which.replaceChildren(element("option", { value: "" }, `all ${count(all)}`),
        ...Object.entries(found.counts).map(([reason, number]) => element("option", { value: reason }, `${WORDS[reason] ?? reason} (${count(number)})`)));
    }
    rows.append(...found.images.map((image) => element("tr", {},
      element("th", { scope: "row" }, element("span", { class: "cs-index-path", dir: "auto" }, image.name), element("span", { class: "cs-index-more" }, image.folder)),
      element("td", {}, image.words, image.message ? element("span", { class: "cs-index-more" }, image.message) : null),
      element("td", { class: "cs-index-number" }, bytes(image.bytes)))));
    more.hidden = rows.children.length >= found.total;
    note.textContent = `${count(rows.children.length)} of ${counted(found.total, "image")} shown.`;
  }

  place.replaceChildren(
    element("h2", { id: "cs-index-skipped" }, "Skipped images"),
    element("p", { class: "cs-note" }, "They are tried again when they have changed; ",
      element("code", {}, "clipsearch failures --retry"), " on a terminal tries all of them again."),
    element("label", { class: "cs-index-among" }, "Reason", which),
    element("div", { class: "cs-index-table", tabIndex: 0, role: "group", "aria-label": "Table of skipped images" },
      element("table", {}, element("thead", {}, element("tr", {},
        element("th", { scope: "col" }, "File"), element("th", { scope: "col" }, "Why"), element("th", { scope: "col" }, "Size"))), rows)),
    note, more);
  await load();
}
