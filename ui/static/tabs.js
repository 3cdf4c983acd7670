// Going from one tab to another: what one finds, another shows.
// The document hears "cs:tab" with the id of a tab when it has been opened.

// Gradio marks the button of a tab with its id.
export function showTab(name) {
  document.querySelector(`#cs-tabs button[role="tab"][data-tab-id="${CSS.escape(name)}"]`)?.click();
}

// The id of the tab that is open; null before Gradio has drawn them.
export const openTab = () => document.querySelector('#cs-tabs button[role="tab"][aria-selected="true"]')?.dataset.tabId ?? null;

// A search in the Search tab: `parameters` as in the address of the page and of api/search.
// What is asked before that tab is there waits for it.
let searchTab = null;
let waiting = null;
export function showSearch(parameters) {
  showTab("search");
  if (searchTab) searchTab(new URLSearchParams(parameters));
  else waiting = new URLSearchParams(parameters);
}

export function onSearch(search) {
  searchTab = search;
  if (waiting) search(waiting);
  waiting = null;
}

// Gradio draws the tabs some time after this runs.
let was = null;
const watched = new MutationObserver(() => {
  const now = openTab();
  if (now === null || now === was) return;
  was = now;
  document.dispatchEvent(new CustomEvent("cs:tab", { detail: now }));
});
function watch() {
  const row = document.querySelector("#cs-tabs > .tab-wrapper");
  if (!row) return false;
  was = openTab();
  watched.observe(row, { subtree: true, childList: true, attributeFilter: ["aria-selected"] });
  return true;
}
if (!watch()) {
  const drawn = new MutationObserver(() => { if (watch()) drawn.disconnect(); });
  drawn.observe(document.documentElement, { childList: true, subtree: true });
}
