// One group: some typical photos, its name, how far that can be trusted, and what can be done.

import { element } from "./elements.js";
import { counted } from "./formats.js";
import { thumbnail } from "./server.js";

const SHOWN = 4;

export function clusterCard(cluster, images, { open, searchWithin, rename, renameTo, split, drop, choose }) {
  const pictures = cluster.typical.slice(0, SHOWN).map((id) => element("img", { src: thumbnail(id), alt: "", loading: "lazy", decoding: "async" }));
  const others = cluster.candidates.filter((one) => !one.taken).map((one) => one.name);
  const share = images ? Math.round((100 * cluster.size) / images) : 0;
  const action = (label, onclick, more = {}) => element("button", { type: "button", class: "cs-discover-link", "aria-label": `${label} ${cluster.name}`, onclick, ...more }, label);
  return element("li", { class: "cs-discover-card", dataset: { key: cluster.key } },
    element("button", { type: "button", class: `cs-discover-mosaic cs-discover-mosaic-${pictures.length}`, "aria-label": `Show the ${counted(cluster.size, "photo")} of ${cluster.name}`, onclick: () => open(cluster) }, pictures),
    element("div", { class: "cs-discover-name" },
      element("h3", {}, cluster.name),
      element("label", { class: "cs-discover-choose" }, element("input", { type: "checkbox", "aria-label": `Choose ${cluster.name}`, onchange: (event) => choose(cluster, event.target.checked) }))),
    element("p", { class: "cs-soft" }, `${counted(cluster.size, "photo")}${share ? ` · ${share} %` : ""}`, cluster.broader ? ` · ${cluster.broader}` : ""),
    trust(cluster),
    others.length ? element("p", { class: "cs-discover-others" }, element("span", { class: "cs-soft" }, "or "),
      others.map((name) => element("button", { type: "button", class: "cs-discover-chip", "aria-label": `Call it ${name} instead of ${cluster.name}`, onclick: () => renameTo(cluster, name) }, name))) : null,
    element("div", { class: "cs-discover-links" },
      action("Rename", () => rename(cluster)),
      cluster.size > 1 ? action("Split", () => split(cluster)) : null,
      action("Leave out", () => drop(cluster)),
      action("Search within", () => searchWithin(cluster))));
}

// The share of its photos that its name fits better than any other name does.
function trust(cluster) {
  if (cluster.by_hand) return element("p", { class: "cs-discover-trust cs-soft" }, "named by you");
  if (!cluster.candidates.length) return null;
  const percent = Math.round(100 * cluster.trust);
  const word = percent >= 60 ? "good name" : percent >= 30 ? "fair name" : "doubtful name";
  return element("p", { class: "cs-discover-trust cs-soft", title: `The name fits ${percent} % of the photos better than any other does.` },
    element("span", { class: "cs-discover-meter", style: `--cs-part: ${percent}%`, "aria-hidden": "true" }), `${word}, ${percent} %`);
}
