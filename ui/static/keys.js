// The keys that work everywhere on the page, and the sheet that names them all.

import { closeDetail, openedId } from "./detail.js";
import { element } from "./elements.js";
import { moreLike } from "./search_links.js";
import { openTab, showTab } from "./tabs.js";

const KEYS = [
  ["/", "Go to the search field"],
  ["← ↑ ↓ →", "Move among the photos; in an open photo: previous and next"],
  ["Enter", "Search; open the photo"],
  ["Esc", "Close the photo; let go of the selection"],
  ["x", "Select the photo; with Shift: up to this one"],
  ["m", "More like this photo"],
  ["?", "This help"],
];

let help = null;

export function helpDialog() {
  if (help) return help;
  const close = element("button", { type: "button", class: "cs-button", onclick: () => help.close() }, "Close");
  help = element("dialog", { class: "cs-help", "aria-labelledby": "cs-help-name", onclick: (event) => { if (event.target === help) help.close(); } },
    element("div", {}, element("h2", { id: "cs-help-name" }, "Keys"),
      element("dl", {}, KEYS.flatMap(([key, does]) => [element("dt", {}, key.split(" ").map((one) => element("kbd", {}, one))), element("dd", {}, does)])), close));
  return help;
}

const writes = (target) => target.closest?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true]");

// The photo that a key is about: the tile with the focus, else the one that is open.
function photo() {
  const tile = document.activeElement?.closest?.(".cs-tile[data-id]");
  return tile ? Number(tile.dataset.id) : openedId();
}

// From another tab the field can take the focus only after Gradio has shown its tab.
function toField() {
  const focus = () => {
    const field = document.querySelector("#cs-search-field");
    field?.focus();
    field?.select();
  };
  if (openTab() === "search") { focus(); return; }
  showTab("search");
  setTimeout(focus, 60);
}

document.addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open], :popover-open")) return;
  if (event.key === "Escape") {
    if (openedId() !== null) closeDetail();
    else if (!writes(event.target)) document.dispatchEvent(new CustomEvent("cs:let-go"));
    else return;
    event.preventDefault();
    return;
  }
  if (writes(event.target)) return;
  const about = photo();
  if (event.key === "/") toField();
  else if (event.key === "?") helpDialog().showModal();
  else if (event.key === "m" && about !== null) moreLike(about);
  else if (event.key === "x" && openedId() !== null) document.dispatchEvent(new CustomEvent("cs:select", { detail: openedId() }));
  else return;
  event.preventDefault();
});
