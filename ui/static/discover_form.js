// What is to be discovered, and how: the form.

import { element } from "./elements.js";

// start(wish) asks the server; what it throws is shown. cancel() closes the form.
export function discoverForm({ start, cancel }) {
  const count = element("input", { class: "cs-field", type: "number", min: 1, max: 10000, step: 1, placeholder: "as many as stand out", "aria-describedby": "cs-discover-count" });
  const words = element("textarea", { class: "cs-field", rows: 5, maxLength: 200000, placeholder: "dog, cat, car\nbirthday cake" });
  const ownWords = element("label", { class: "cs-discover-field", hidden: true }, element("span", {}, "Your words, with commas or lines between them"), words);
  const sources = [["nouns", "10,000 English nouns"], ["own", "words of your own"], ["none", "no names, only numbers"]];
  const names = element("select", { class: "cs-field", onchange: () => { ownWords.hidden = names.value !== "own"; if (names.value === "own") words.focus(); } },
    sources.map(([value, label]) => element("option", { value }, label)));
  const least = element("input", { class: "cs-field", type: "number", min: 1, max: 1000000, step: 1, placeholder: "2" });
  const where = element("input", { class: "cs-field", type: "text", maxLength: 2000, autocomplete: "off", placeholder: "rating >= 4 and taken >= 2024" });
  const name = element("input", { class: "cs-field", type: "text", maxLength: 64, autocomplete: "off" });
  const replace = element("input", { type: "checkbox" });
  const problem = element("p", { class: "cs-dialog-problem", role: "alert" });
  const go = element("button", { class: "cs-button cs-primary" }, "Discover groups");
  const not = element("button", { type: "button", class: "cs-button", onclick: cancel }, "Cancel");

  const node = element("form", { class: "cs-discover-form", hidden: true, "aria-label": "New discovery", onsubmit: submitted },
    element("div", { class: "cs-discover-fields" },
      field("How many groups", count, element("span", { class: "cs-soft", id: "cs-discover-count" }, "Empty: found out from the photos.")),
      field("Names from", names)),
    ownWords,
    element("details", {}, element("summary", {}, "More choices"),
      element("div", { class: "cs-discover-fields" },
        field("Fewest photos of a group", least, element("span", { class: "cs-soft" }, "Photos of smaller groups are in none.")),
        field("Only photos where", where, element("span", { class: "cs-soft" }, "An expression as of --where; empty: all.")),
        field("Keep as", name)),
      element("label", { class: "cs-dialog-check" }, replace, element("span", {}, "Replace a discovery of this name, even one changed by hand"))),
    problem, element("div", { class: "cs-discover-bar" }, go, not));

  async function submitted(event) {
    event.preventDefault();
    go.disabled = true;
    problem.textContent = "";
    try {
      await start({
        n_clusters: count.value === "" ? null : Number(count.value),
        names: names.value,
        words: names.value === "own" ? words.value : null,
        least_size: least.value === "" ? null : Number(least.value),
        where: where.value.trim(),
        name: name.value.trim(),
        replace: replace.checked,
      });
    } catch (error) { problem.textContent = error.message; }
    finally { go.disabled = false; }
  }

  return {
    node,
    open(nextName, closable) {
      problem.textContent = "";
      name.value = nextName;
      replace.checked = false;
      not.hidden = !closable;
      if (node.hidden) { node.hidden = false; if (closable) count.focus(); }
    },
    close() { node.hidden = true; },
  };
}

const field = (label, input, ...hints) => element("label", { class: "cs-discover-field" }, element("span", {}, label), input, hints);
