// All groups of a discovery as cards: renamed, merged, split and left out from here.

import { clusterCard } from "./discover_card.js";
import { askFor } from "./dialog.js";
import { element } from "./elements.js";
import { counted } from "./formats.js";

const ORDERS = [["size", "Largest first"], ["name", "By name"], ["doubt", "Least sure names first"]];

// page(offset, order, find) -> the answer of api/discoveries/NAME; change(document) changes the
// discovery and shows it anew; open(cluster) its photos; searchWithin(cluster).
export function clusterBoard({ page, change, open, searchWithin }) {
  const chosen = new Map(); // key -> cluster
  let clusters = [];
  let total = 0;
  let order = "size";
  let asking = false;
  let turn = 0; // which load is the newest
  let images = 0; // in the whole discovery
  let typing = 0;
  const list = element("ul", { class: "cs-discover-cards" });
  const none = element("p", { class: "cs-note", hidden: true }, "No group is called so.");
  const end = element("div", { class: "cs-discover-end" });
  const sort = element("select", { class: "cs-field", "aria-label": "Order of the groups", onchange: () => { order = sort.value; load().catch(fail); } },
    ORDERS.map(([value, label]) => element("option", { value }, label)));
  const find = element("input", { class: "cs-field", type: "search", placeholder: "Find a group", "aria-label": "Find a group by its name", maxLength: 200, oninput: () => { clearTimeout(typing); typing = setTimeout(() => load().catch(fail), 250); } });
  const problem = element("p", { class: "cs-dialog-problem", role: "alert" });
  const said = element("span", { role: "status" });
  const merging = element("button", { type: "button", class: "cs-button cs-primary", onclick: merge }, "Merge into one");
  const bar = element("div", { class: "cs-discover-chosen", role: "group", "aria-label": "Chosen groups", hidden: true }, said, merging,
    element("button", { type: "button", class: "cs-button", onclick: () => drop([...chosen.values()]) }, "Leave out"),
    element("button", { type: "button", class: "cs-button", onclick: clear }, "Clear"));
  const node = element("div", {}, element("div", { class: "cs-discover-bar" }, sort, find), problem, none, list, end, bar);

  // The first page; as many pages as there were before where `key` has to be among them.
  async function load(key = null) {
    const mine = ++turn;
    asking = true;
    try {
      const before = clusters.length;
      const answer = await page(0, order, find.value.trim());
      const found = [...answer.clusters];
      while (key !== null && found.length < Math.min(before, answer.found) && !found.some((one) => one.key === key)) {
        const more = await page(found.length, order, find.value.trim());
        if (!more.clusters.length) break;
        found.push(...more.clusters);
      }
      if (mine !== turn) return answer;
      clusters = found;
      total = answer.found;
      problem.textContent = "";
      chosen.clear();
      images = answer.images;
      list.replaceChildren(...clusters.map((one) => card(one, images)));
      none.hidden = clusters.length > 0;
      told();
      return answer;
    } finally { if (mine === turn) asking = false; watch(); }
  }

  async function next() {
    const mine = turn;
    asking = true;
    try {
      const answer = await page(clusters.length, order, find.value.trim());
      if (mine !== turn) return;
      clusters.push(...answer.clusters);
      list.append(...answer.clusters.map((one) => card(one, images)));
      if (!answer.clusters.length) total = clusters.length;
    } catch (error) { total = clusters.length; fail(error); }
    finally { if (mine === turn) { asking = false; watch(); } }
  }

  const scroll = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting) && !asking && clusters.length < total) { scroll.unobserve(end); next(); }
  }, { rootMargin: "800px 0px" });
  function watch() { scroll.unobserve(end); if (clusters.length < total) scroll.observe(end); }

  const card = (cluster, whole) => clusterCard(cluster, whole, { open, searchWithin, rename, renameTo, split, drop: (one) => drop([one]), choose });

  function choose(cluster, isChosen) {
    if (isChosen) chosen.set(cluster.key, cluster); else chosen.delete(cluster.key);
    told();
  }
  function told() {
    bar.hidden = !chosen.size;
    merging.disabled = chosen.size < 2;
    const photos = [...chosen.values()].reduce((sum, one) => sum + one.size, 0);
    said.textContent = chosen.size ? `${counted(chosen.size, "group")} chosen, ${counted(photos, "photo")}` : "";
  }
  function clear() {
    chosen.clear();
    for (const box of list.querySelectorAll("input:checked")) box.checked = false;
    told();
  }
  const fail = (error) => { problem.textContent = error.message; };

  const buttonOf = (key) => list.querySelector(`li[data-key="${Number(key)}"] button`) ?? list.querySelector("button");
  const rename = (cluster) => askFor({
    returnTo: () => buttonOf(cluster.key),
    title: `Rename ${cluster.name}`, action: "Rename",
    fields: [{ name: "name", label: "New name", value: cluster.name }],
    send: ({ name }) => change({ kind: "rename", clusters: [cluster.key], name }),
  });
  async function renameTo(cluster, name) {
    try { await change({ kind: "rename", clusters: [cluster.key], name }); } catch (error) { fail(error); }
  }
  const split = (cluster) => askFor({
    returnTo: () => buttonOf(cluster.key),
    title: `Split ${cluster.name}`, action: "Split", note: "Its photos go into parts that look more alike, each with a name of its own.",
    fields: [{ name: "parts", label: "How many parts", value: 2, kind: "number", least: 2, most: Math.min(1000, cluster.size) }],
    send: ({ parts }) => change({ kind: "split", clusters: [cluster.key], parts }),
  });
  const drop = (some) => askFor({
    returnTo: () => buttonOf(-1),
    title: some.length === 1 ? `Leave out ${some[0].name}?` : `Leave out ${counted(some.length, "group")}?`, action: "Leave out",
    note: "Their photos, and later ones like them, will be in no group. No photo is deleted, and it can be undone.",
    send: () => change({ kind: "drop", clusters: some.map((one) => one.key) }),
  });
  function merge() {
    const some = [...chosen.values()].sort((a, b) => b.size - a.size);
    return askFor({
      returnTo: () => buttonOf(some[0].key),
      title: `Merge ${counted(some.length, "group")}`, action: "Merge", note: some.map((one) => one.name).join(", "),
      fields: [{ name: "name", label: "Name of the merged group", value: some[0].name }],
      send: ({ name }) => change({ kind: "merge", clusters: some.map((one) => one.key), name }),
    });
  }

  return {
    node, load,
    focus: (key) => buttonOf(key)?.focus(),
  };
}
