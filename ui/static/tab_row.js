// The row of tabs: arrow keys go along it, and the open one is never out of sight.

const ROW = '#cs-tabs [role="tablist"]';

function step(key, at, count) {
  if (key === "ArrowRight") return (at + 1) % count;
  if (key === "ArrowLeft") return (at + count - 1) % count;
  if (key === "Home") return 0;
  return key === "End" ? count - 1 : null;
}

document.addEventListener("keydown", (event) => {
  const row = event.target.closest?.(ROW);
  if (!row || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const tabs = [...row.querySelectorAll('button[role="tab"]')];
  const next = step(event.key, tabs.indexOf(event.target.closest("button")), tabs.length);
  if (next === null) return;
  event.preventDefault();
  event.stopImmediatePropagation(); // the arrows of the page are for its photos
  tabs[next].focus();
  tabs[next].click();
}, { capture: true });

// On a phone the row is wider than the page and scrolls.
document.addEventListener("cs:tab", ({ detail: name }) => {
  document.querySelector(`${ROW} [data-tab-id="${CSS.escape(name)}"]`)?.scrollIntoView({ block: "nearest", inline: "center" });
});
