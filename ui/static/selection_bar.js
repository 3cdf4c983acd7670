// The bar below the photos while some are selected: what can be done with them.

import { element } from "./elements.js";
import { exportChoices } from "./export_choices.js";
import { count } from "./formats.js";
import { icon } from "./icons.js";
import { popoverOf } from "./popover.js";
import { moreLike } from "./search_links.js";
import { openTab } from "./tabs.js";

const MOST_LIKE = 16; // as many parts as a search takes

// selection: a Selection of photos.
export function selectionBar(selection) {
  const number = element("span", { class: "cs-bar-count", role: "status" });
  const like = element("button", { type: "button", class: "cs-button", onclick: () => { const ids = selection.ids(); selection.clear(); moreLike(...ids); } }, "More like these");
  const out = element("button", { type: "button", class: "cs-button cs-primary" }, icon("download"), "Export");
  const sheet = popoverOf(out, "Export as", (made, close) => made.replaceChildren(...exportChoices({ ids: () => selection.ids(), close })));
  const clear = element("button", { type: "button", class: "cs-icon-button", "aria-label": "Let go of the selection", title: "Let go of the selection (Esc)", onclick: () => selection.clear() }, icon("close"));
  const bar = element("div", { class: "cs-bar", role: "region", "aria-label": "Selected photos", hidden: true }, clear, number, element("div", { class: "cs-bar-acts" }, like, out), sheet);

  selection.addEventListener("change", () => {
    bar.hidden = selection.size === 0;
    number.textContent = `${count(selection.size)} selected`;
    like.hidden = selection.size > MOST_LIKE;
    like.textContent = selection.size === 1 ? "More like this" : "More like these";
  });
  document.addEventListener("cs:let-go", () => { if (openTab() === "search") selection.clear(); });
  document.addEventListener("cs:select", ({ detail: id }) => { if (openTab() === "search") selection.toggle(id); });
  return bar;
}
