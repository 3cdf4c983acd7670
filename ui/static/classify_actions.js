// What can be done with a classification: download it, save it as a label set, search within a
// label, and say what selected photos are, which teaches a saved set.

import { element } from "./elements.js";
import { counted } from "./formats.js";
import { address, ask, tell } from "./server.js";
import { showSearch } from "./tabs.js";

const NONE = "";

// resultActions({...}) -> {node, teaching, show(run), picked(row), sets(names)}
export function resultActions({ selection, run, replaced, saved, again }) {
  const csv = element("a", { class: "cs-button", download: "" }, "Download CSV");
  const parquet = element("a", { class: "cs-button", download: "" }, "Download Parquet");
  const name = element("input", { class: "cs-field", type: "text", maxLength: 64, placeholder: "a name, such as pets", "aria-label": "Name of the label set", autocomplete: "off", oninput: () => { replace.hidden = true; } });
  const replace = element("button", { type: "button", class: "cs-button", hidden: true, onclick: () => save(true) }, "Save over it");
  const within = element("button", { type: "button", class: "cs-button", hidden: true, onclick: () => showSearch({ label: within.dataset.label }) }, "Search within");
  const told = element("p", { class: "cs-classify-told", role: "status" });
  const form = element("form", { class: "cs-classify-save", onsubmit: (event) => { event.preventDefault(); save(false); } },
    name, element("button", { class: "cs-button" }, "Save as a label set"), replace);
  const node = element("div", { class: "cs-classify-actions" }, element("div", { class: "cs-classify-row" }, csv, parquet, form), told);

  const answer = element("select", { class: "cs-field", "aria-label": "What the selected photos are" });
  const chosen = element("span", {});
  const teach = element("button", { type: "button", class: "cs-button cs-primary", onclick: correct }, "Correct");
  const teaching = element("div", { class: "cs-classify-teach", role: "group", "aria-label": "Selected photos", hidden: true });
  let row = null;
  let known = []; // names of the saved sets

  const nameOfSet = () => run()?.saved_as ?? run()?.set ?? null;

  function show(now) {
    csv.href = address(`api/classify/${now.run}/table?form=csv`);
    parquet.href = address(`api/classify/${now.run}/table?form=parquet`);
    if (!name.value && now.set) name.value = now.set;
    replace.hidden = true;
    told.textContent = "";
    answer.replaceChildren(...now.labels.map((one) => element("option", { value: `=${one.label}` }, one.label)), element("option", { value: NONE }, "none of these"));
    offer();
    if (row) picked(row);
  }

  function picked(now) {
    row = now;
    const set = nameOfSet();
    const label = now.quiet === "none" ? "none" : now.name;
    within.hidden = !set || now.quiet === "all";
    within.dataset.label = `${set}:${label}`;
    within.textContent = `Search within ${now.quiet === "none" ? "these" : now.name}`;
    if (!within.isConnected) node.firstElementChild.append(within);
  }

  async function save(over) {
    const wanted = name.value.trim();
    if (!wanted) { told.textContent = "Give the set a name first."; name.focus(); return; }
    const there = known.find((one) => one.toLowerCase() === wanted.toLowerCase());
    replace.hidden = over || !there;
    if (there && !over) { told.textContent = `There is a label set ${there} already.`; return; }
    told.textContent = "Saving …";
    try {
      let now = await tell(`api/classify/${run().run}/save`, { name: wanted, replace: over, wait: 20 });
      while (now.saving) now = await ask(`api/classify/${now.run}?wait=20`);
      if (now.saving_error) throw new Error(now.saving_error);
      replaced(now);
      told.textContent = `Saved as ${now.saved_as}. Select photos to correct it; Search finds its labels.`;
      saved();
    } catch (error) {
      told.textContent = error.message;
      replace.hidden = error.status !== 409 || !error.message.startsWith("There is a label set");
    }
  }

  function offer() {
    const set = nameOfSet();
    teaching.hidden = !selection.size;
    chosen.textContent = `${counted(selection.size, "photo")} selected:`;
    const clear = element("button", { type: "button", class: "cs-button", onclick: () => selection.clear() }, "Clear");
    teaching.replaceChildren(chosen, ...(set
      ? [element("span", {}, selection.size === 1 ? "it is" : "they are"), answer, teach]
      : [element("span", { class: "cs-soft" }, "save the labels as a set to correct what these are.")]), clear);
  }
  selection.addEventListener("change", offer);

  async function correct() {
    const set = nameOfSet();
    const label = answer.value === NONE ? null : answer.value.slice(1);
    teach.disabled = true;
    try {
      const found = await tell(`api/label-sets/${encodeURIComponent(set)}/teach`, { images: Object.fromEntries(selection.ids().map((id) => [id, label])) });
      selection.clear();
      await again(set);
      told.textContent = `Taught ${set}: ${counted(found.examples, "example")}; ${counted(found.changed, "photo")} ${found.changed === 1 ? "has" : "have"} another label now.`;
      saved();
    } catch (error) { told.textContent = error.message; } finally { teach.disabled = false; }
  }

  return { node, teaching, show, picked, sets: (names) => { known = names; } };
}
