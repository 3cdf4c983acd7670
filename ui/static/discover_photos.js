// The photos of one group.

import { element } from "./elements.js";
import { counted, day } from "./formats.js";
import { photoGrid } from "./grid.js";

// cluster {key, name, size}, the key null for photos in no group; load(offset, limit, order); back() to all groups;
// searchWithin() or null.
export function clusterPhotos({ cluster, load, back, searchWithin }) {
  let order = "typical";
  const grid = photoGrid({
    load: (offset, limit) => load(offset, limit, order),
    empty: "There is no photo in this group any more.",
    caption: (hit) => element("span", { class: "cs-when" }, hit.taken_at ? day(hit.taken_at) : hit.name),
  });
  const orders = [["typical", "Most typical first"], ["doubtful", "Most doubtful first"]].map(([value, label]) =>
    element("button", { type: "button", class: "cs-button", "aria-pressed": String(value === order), dataset: { order: value }, onclick: () => sort(value) }, label));

  function sort(value) {
    order = value;
    for (const button of orders) button.setAttribute("aria-pressed", String(button.dataset.order === value));
    grid.reload();
  }

  grid.reload();
  const heading = element("h2", { tabIndex: -1 }, cluster.name);
  const node = element("section", { class: "cs-discover-photos", "aria-label": cluster.name },
    element("div", { class: "cs-discover-bar" },
      element("button", { type: "button", class: "cs-button", onclick: back }, "All groups"),
      heading, element("span", { class: "cs-soft" }, counted(cluster.size, "photo")),
      cluster.key === null ? null : element("div", { class: "cs-discover-orders", role: "group", "aria-label": "Order" }, orders),
      searchWithin ? element("button", { type: "button", class: "cs-button", onclick: searchWithin }, "Search within") : null),
    grid.node);
  queueMicrotask(() => heading.focus({ preventScroll: true }));
  return node;
}
