// The Classify tab: labels on the left, what they come to on the right; for the whole collection
// or for one image.

import { collectionRun } from "./classify_collection.js";
import { oneImage } from "./classify_image.js";
import { element } from "./elements.js";
import { labelForm } from "./label_form.js";
import { choices } from "./label_choices.js";
import { ask } from "./server.js";

const sheet = document.createElement("link");
sheet.rel = "stylesheet";
sheet.href = new URL("./classify.css", import.meta.url);
document.head.append(sheet);

export async function mount(place, { props }) {
  const limits = JSON.parse(props.value);
  const form = labelForm(limits, () => act());
  const runs = collectionRun({ form, saved: () => refresh() });
  const image = oneImage({ form, limits });
  const parts = { collection: runs, image };
  let mode = "collection";

  const modes = choices({
    label: "What to label",
    options: [["collection", "The whole collection"], ["image", "One image"]],
    value: mode,
    change: (value) => show(value),
  });
  const act = () => parts[mode].start();
  form.slot.append(runs.button, image.button);
  place.replaceChildren(
    element("div", { class: "cs-classify-frame" },
      element("section", { class: "cs-classify-ask", "aria-label": "Labels" }, modes.node, form.node),
      element("section", { class: "cs-classify-answer", "aria-label": "Result" }, runs.node, image.node)));
  show(mode);

  function show(value) {
    mode = value;
    modes.set(value);
    for (const [name, part] of Object.entries(parts)) {
      part.node.hidden = name !== value;
      part.button.hidden = name !== value;
    }
  }

  // What is saved, and how many photos there are, may have changed since the tab was last open.
  async function refresh() {
    try {
      const found = await ask("api/label-sources");
      form.offer(found);
      runs.offer(found);
      return found;
    } catch (error) {
      runs.say(error.message);
      return null;
    }
  }
  document.addEventListener("cs:tab", (event) => { if (event.detail === "classify") refresh(); });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (!file || place.offsetParent === null) return;
    event.preventDefault();
    show("image");
    image.take(file);
  });
  // A file that is dropped beside its place would take the browser away from the page.
  for (const kind of ["dragover", "drop"]) place.addEventListener(kind, (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    const file = kind === "drop" ? event.dataTransfer.files[0] : null;
    if (!file) return;
    if (file.type.startsWith("image/")) { show("image"); image.take(file); } else form.read(file);
  });
  const found = await refresh();
  if (found && found.images === null) show("image");
}
