// Handing an image in: chosen, pasted or dropped. It goes to this machine's clipsearch alone.

import { element } from "./elements.js";
import { icon } from "./icons.js";
import { ask } from "./server.js";
import { openTab } from "./tabs.js";

const TYPES = "image/*,.heic,.heif,.avif,.jxl,.tif,.tiff";

// here: the tab that takes what is pasted and dropped. taken(image), with an id or the token of
// what was handed in, and failed(message) tell how it went; busy(true | false) before and after.
export function imageHandIn({ here, taken, failed, busy }) {
  async function take(file) {
    if (!file) return;
    busy(true);
    try {
      const { upload, id } = await ask("api/uploads", { method: "POST", body: file, headers: { "Content-Type": file.type || "application/octet-stream" } });
      taken(String(id ?? upload)); // one that is in the index has a name that lasts
    } catch (error) { failed(error.message); } finally { busy(false); }
  }

  const field = element("input", { type: "file", accept: TYPES, class: "cs-hidden", tabIndex: -1, "aria-hidden": "true",
    onchange: () => { take(field.files[0]); field.value = ""; } });
  const button = element("button", { type: "button", class: "cs-icon-button cs-ask-image", "aria-label": "Search with an image", title: "Search with an image: choose, paste or drop one", onclick: () => field.click() }, icon("image"));
  const veil = element("div", { class: "cs-drop", hidden: true }, element("p", {}, icon("image"), "Drop an image to find photos like it"));

  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file || openTab() !== here) return;
    event.preventDefault();
    take(file);
  });

  // Every element that the pointer goes over tells of entering and leaving: only the outermost counts.
  let depth = 0;
  const files = (event) => openTab() === here && [...(event.dataTransfer?.types ?? [])].includes("Files");
  const cover = (by) => { depth = Math.max(0, depth + by); veil.hidden = depth === 0; };
  document.addEventListener("dragenter", (event) => { if (files(event)) { event.preventDefault(); cover(1); } });
  document.addEventListener("dragleave", (event) => { if (files(event)) cover(-1); });
  document.addEventListener("dragover", (event) => { if (files(event)) { event.preventDefault(); event.dataTransfer.dropEffect = "copy"; } });
  document.addEventListener("drop", (event) => {
    if (!files(event)) return;
    event.preventDefault();
    event.stopPropagation();
    cover(-depth);
    take(event.dataTransfer.files[0]);
  }, true);
  return { button, field, veil };
}
