// The clusters of a map as a list: a click shows where one is and chooses its photos.

import { element } from "./elements.js";
import { count, counted } from "./formats.js";

// {node, mark(position)}: mark tells which is chosen, -1 for none.
export function mapClusters(scene, stage) {
  const { clusters } = scene.about;
  const items = clusters.map((cluster, position) => element("li", {},
    element("button", { type: "button", "aria-pressed": "false", title: cluster.name, onclick: () => stage.choose(position) },
      element("span", { class: `cs-map-dot cs-map-dot-${cluster.slot}`, "aria-hidden": "true" }),
      element("span", { class: "cs-map-name", dir: "auto" }, cluster.name),
      element("span", { class: "cs-map-size", "aria-label": counted(cluster.size, "photo") }, count(cluster.size)))));
  const fold = element("details", { class: "cs-map-clusters", open: !matchMedia("(max-width: 899px)").matches, hidden: !clusters.length },
    element("summary", {}, counted(clusters.length, "group")), element("ol", {}, items));
  const colours = element("style", {}, rules(scene.about));
  return {
    node: element("div", { class: "cs-map-side", hidden: !clusters.length }, colours, fold),
    mark(chosen) {
      items.forEach((item, position) => item.firstElementChild.setAttribute("aria-pressed", String(position === chosen)));
    },
  };
}

// Colours are numbers of ours, #rrggbb.
function rules({ light, dark }) {
  const safe = (colour) => (/^#[0-9a-f]{6}$/i.test(colour) ? colour : "#888888");
  return [["", light], [".dark ", dark]].flatMap(([where, theme]) =>
    theme.colours.map((colour, slot) => `${where}.cs-map-dot-${slot} { background: ${safe(colour)}; }`)).join("\n");
}
