// How many photos each label has: a bar each, which is a button that shows them.
//
// labelChart({pick}) -> {node, show(rows, total), choose(row)}
//   rows   [{key, name, count, share, quiet}]; quiet: drawn apart from the labels

import { element } from "./elements.js";
import { count } from "./formats.js";

const FEW = 16;

// Of many labels those that photos have, the most frequent first.
const few = (labels) => {
  const given = labels.filter((row) => row.count).slice(0, FEW);
  return given.length ? given : labels.slice(0, FEW);
};

export function labelChart({ pick }) {
  const list = element("ul", { class: "cs-classify-bars" });
  const filter = element("input", { class: "cs-field", type: "search", placeholder: "Find a label", "aria-label": "Find a label", hidden: true, oninput: () => draw() });
  const whole = element("button", { type: "button", class: "cs-button", hidden: true, onclick: () => { isWhole = !isWhole; draw(); } });
  const node = element("div", { class: "cs-classify-chart" }, filter, list, whole);
  let rows = [];
  let isWhole = false;
  let chosen = null;

  function show(found) {
    rows = found;
    isWhole = false;
    filter.value = "";
    filter.hidden = rows.length <= 2 * FEW;
    draw();
  }

  function draw() {
    const wanted = filter.value.trim().toLowerCase();
    const labels = rows.filter((row) => !row.quiet && (!wanted || row.name.toLowerCase().includes(wanted)));
    const fits = isWhole || wanted || labels.length <= FEW + 2;
    const most = Math.max(1, ...rows.map((row) => (row.quiet === "all" ? 0 : row.count)));
    list.replaceChildren(
      ...(fits ? labels : few(labels)).map((row) => bar(row, most)),
      ...rows.filter((row) => row.quiet && !wanted).map((row) => bar(row, most)));
    whole.hidden = Boolean(wanted) || labels.length <= FEW + 2;
    whole.textContent = isWhole ? "Show fewer labels" : `Show all ${count(labels.length)} labels`;
    if (wanted && !labels.length) list.replaceChildren(element("li", { class: "cs-note" }, "No label has that in it."));
  }

  function bar(row, most) {
    const share = `${row.share === 0 || row.share === 1 || (row.share >= 0.0995 && row.share < 0.995) ? Math.round(100 * row.share) : (100 * row.share).toFixed(1)} %`;
    const fill = element("span", { class: "cs-classify-fill" });
    fill.style.width = row.quiet === "all" ? "0" : `${(100 * row.count) / most}%`;
    return element("li", {}, element("button", {
      type: "button", class: `cs-classify-bar${row.quiet ? " cs-classify-quiet" : ""}`, "aria-pressed": String(row.key === chosen), dataset: { key: row.key },
      "aria-label": `${row.name}: ${count(row.count)} photos, ${share}`,
      onclick: () => { choose(row.key); pick(row); },
    }, element("span", { class: "cs-classify-label" }, row.name),
    element("span", { class: "cs-classify-track", "aria-hidden": "true" }, fill),
    element("span", { class: "cs-classify-count" }, count(row.count)),
    element("span", { class: "cs-classify-share" }, share)));
  }

  function choose(key) {
    chosen = key;
    for (const button of list.querySelectorAll(".cs-classify-bar")) button.setAttribute("aria-pressed", String(button.dataset.key === key));
  }

  return { node, show, choose };
}
