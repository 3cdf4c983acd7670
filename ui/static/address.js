// The address of the page: which tab, which photo, and what is asked. The Search tab writes its
// question, this writes the rest; both leave each other's part alone.

import { closeDetail, openDetail, openedId } from "./detail.js";
import { openTab, showTab } from "./tabs.js";

export const pageParameters = () => new URLSearchParams(location.search);

// change(parameters) edits them; push: as a new step of the browser's history.
export function writeAddress(change, { push = false, state = null } = {}) {
  const parameters = pageParameters();
  change(parameters);
  // Commas, colons and slashes are read more easily as they are, and mean nothing here.
  const query = parameters.toString().replace(/%2C/g, ",").replace(/%3A/g, ":").replace(/%2F/g, "/");
  const to = query ? `?${query}` : location.pathname;
  if (push && to !== location.search) history.pushState(state, "", to);
  else history.replaceState(push ? history.state : (state ?? history.state), "", to);
}

// An opened photo is a step of the history, so that "back" closes it; the next photos are not.
const openedHere = () => history.state?.cs === "opened";
let leading = false; // while the address leads, and is not to be written

document.addEventListener("cs:opened", ({ detail: id }) => {
  if (leading) return;
  const had = pageParameters().has("open");
  if (id === null) {
    if (!had) return;
    if (openedHere()) history.back();
    else writeAddress((parameters) => parameters.delete("open"));
  } else writeAddress((parameters) => parameters.set("open", String(id)), { push: !had, state: had ? null : { cs: "opened" } });
});

document.addEventListener("cs:tab", ({ detail: name }) => {
  if (leading) return;
  writeAddress((parameters) => { if (name === "search") parameters.delete("tab"); else parameters.set("tab", name); });
});

function follow() {
  leading = true;
  const parameters = pageParameters();
  const tab = parameters.get("tab") ?? "search";
  if (/^[a-z]+$/.test(tab) && tab !== openTab()) showTab(tab);
  const open = Number(parameters.get("open") ?? NaN);
  if (Number.isSafeInteger(open) && open >= 0) { if (openedId() !== open) openDetail(open, { focus: false }); }
  else closeDetail({ focus: false });
  leading = false;
}

window.addEventListener("popstate", follow);

// Gradio draws the tabs after this runs.
const drawn = new MutationObserver(() => { if (openTab()) { drawn.disconnect(); follow(); } });
if (openTab()) follow(); else drawn.observe(document.documentElement, { childList: true, subtree: true });
