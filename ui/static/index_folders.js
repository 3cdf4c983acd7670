// Choosing a folder to index: only those that were allowed when the page was started.
import { element } from "./elements.js";
import { counted } from "./formats.js";
import { ask } from "./server.js";

export function folderChoice(place, known, { start }) {
  const running = known.run !== null && !["done", "failed", "cancelled"].includes(known.run.state);
  const title = element("h2", { id: "cs-index-add" }, known.status ? "Add a folder" : "Make an index");
  if (!known.folders.length) {
    place.replaceChildren(title, element("p", { class: "cs-note" },
      "This page was started without a folder that may be indexed from here. Start it with ",
      element("code", {}, "clipsearch ui --allow-dir FOLDER"), ", or index on a terminal: ",
      element("code", {}, "clipsearch index FOLDER")));
    return;
  }
  // Drawn once: what was chosen stays while the counts around it change.
  let choice = place.querySelector(".cs-index-choice");
  if (!choice || choice.dataset.kind !== String(Boolean(known.status))) {
    choice = drawChoice(known, start);
    choice.dataset.kind = String(Boolean(known.status));
  }
  choice.querySelector(".cs-index-go").disabled = running;
  if (choice.parentElement !== place) place.replaceChildren(title, choice);
}

function drawChoice(known, start) {
  let root = 0;
  let below = [];
  const crumbs = element("ol", {});
  const folders = element("ul", { class: "cs-index-folders" });
  const note = element("p", { class: "cs-note" });
  const go = element("button", { type: "submit", class: "cs-button cs-primary cs-index-go" });
  const models = known.models.map((model, number) => element("label", { class: "cs-index-model" },
    element("input", { type: "radio", name: "cs-index-model", value: model.name, checked: number === 0 }),
    element("span", {}, element("strong", {}, model.name), model.note ? ` – ${model.note}` : "")));

  async function enter(newRoot, newBelow, focus = true) {
    let listing;
    note.textContent = "";
    try {
      listing = await ask(`api/indexing/folders?${new URLSearchParams({ root: newRoot, below: newBelow.join("/") })}`);
    } catch (error) {
      note.textContent = error.message;
      return;
    }
    [root, below] = [newRoot, newBelow];
    const steps = [known.folders[root].name, ...below];
    crumbs.replaceChildren(...steps.map((name, depth) => element("li", {}, depth === steps.length - 1
      ? element("span", { "aria-current": "location", tabIndex: -1 }, name)
      : element("button", { type: "button", class: "cs-index-step", onclick: () => enter(root, below.slice(0, depth)) }, name))));
    folders.replaceChildren(...listing.folders.map((name) => element("li", {},
      element("button", { type: "button", class: "cs-button cs-index-folder", onclick: () => enter(root, [...below, name]) }, name))));
    note.textContent = listing.folders.length ? "Open a folder above to index only that one." : "There is no folder in this one.";
    if (listing.more) note.textContent = `${counted(listing.more, "more folder")} ${listing.more === 1 ? "is" : "are"} not shown.`;
    go.textContent = `Index “${steps.at(-1)}” and all below it`;
    // The button that was pressed is gone: whoever uses the keyboard goes on from here.
    if (focus) crumbs.querySelector("[aria-current]").focus();
  }

  const among = known.folders.length > 1 ? element("label", { class: "cs-index-among" }, "Allowed folders",
    element("select", { class: "cs-field", onchange: (event) => enter(Number(event.target.value), [], false) },
      known.folders.map((folder, number) => element("option", { value: String(number) }, folder.path)))) : null;
  const hasModels = !known.status && models.length;
  const form = element("form", {
    class: "cs-index-choice",
    onsubmit: (event) => {
      event.preventDefault();
      const model = form.querySelector("input[name=cs-index-model]:checked")?.value ?? null;
      start({ root, below: below.join("/"), model });
    },
  },
  among,
  element("nav", { class: "cs-index-crumbs", "aria-label": "Folder to index" }, crumbs),
  folders, note,
  hasModels ? element("fieldset", { class: "cs-index-models" },
    element("legend", {}, "Model (an index keeps the one it is made with)"), models,
    known.models.every((model) => model.name === "mini") ? element("p", { class: "cs-note" },
      "Only the small built-in model is on this machine: good for a try, weak in its answers. A better one comes with ",
      element("code", {}, "clipsearch model get balanced"), " on a terminal; then open this page again.") : null) : null,
  go);
  enter(0, [], false);
  return form;
}
