// One image against the labels: dropped, chosen or pasted; shown with its best labels.

import { element } from "./elements.js";
import { bytes, counted } from "./formats.js";
import { icon } from "./icons.js";
import { ask } from "./server.js";

const TOPS = [3, 5, 10, 20];
const percent = (odds) => (odds < 0.0005 ? "< 0.1 %" : `${(100 * odds).toFixed(1)} %`);
let made = 0;

// oneImage({form, limits}) -> {node, button, start(), take(file)}
export function oneImage({ form, limits }) {
  const key = `cs-image-${(made += 1)}`;
  let file = null;
  let shown = null; // the address of the picture in this browser
  let running = null;

  const button = element("button", { type: "submit", class: "cs-button cs-primary cs-classify-go" }, "Label this image");
  const input = element("input", { type: "file", id: key, class: "cs-hidden", accept: "image/*,.heic,.heif,.avif", onchange: () => { if (input.files[0]) take(input.files[0]); input.value = ""; } });
  const picture = element("img", { class: "cs-classify-picture", alt: "", hidden: true, onerror: () => { picture.hidden = true; words.hidden = false; } });
  const words = element("span", { class: "cs-classify-drop-words" }, icon("image"), element("b", {}, "Drop an image here"), element("span", {}, "or press to choose one, or paste it"));
  const drop = element("label", { class: "cs-classify-drop", htmlFor: key }, input, picture, words);
  const about = element("p", { class: "cs-classify-hint" });
  const other = element("button", { type: "button", class: "cs-button", hidden: true, onclick: () => input.click() }, "Another image");
  const top = element("select", { class: "cs-field", id: `${key}-top`, onchange: () => { if (file && found.childElementCount) start(); } },
    ...TOPS.map((count) => element("option", { value: count, selected: count === 5 }, `${count} best labels`)));
  const notice = element("p", { class: "cs-classify-notice", role: "alert" });
  const found = element("ol", { class: "cs-classify-odds" });
  const notes = element("ul", { class: "cs-classify-notes" });
  const said = element("p", { class: "cs-hidden", role: "status" });
  const model = element("p", { class: "cs-classify-hint" });
  const node = element("div", { class: "cs-classify-one", hidden: true },
    element("div", { class: "cs-classify-shown" }, drop, element("div", { class: "cs-classify-row" }, other, about)),
    element("div", { class: "cs-classify-found" },
      element("div", { class: "cs-classify-row" }, element("h2", { class: "cs-classify-heading" }, "What it shows"), element("label", { class: "cs-hidden", htmlFor: `${key}-top` }, "How many labels"), top),
      notice, said, found, notes, model));

  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) drop.addEventListener(kind, (event) => {
    event.preventDefault();
    event.stopPropagation();
    drop.classList.toggle("cs-classify-over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  found.replaceChildren(element("li", { class: "cs-note" }, "Choose an image, type labels, and see how well each fits. The image stays on this machine and is not kept."));

  function take(chosen) {
    notice.textContent = "";
    if (chosen.size > limits.uploadBytes) { notice.textContent = `Expected an image of at most ${limits.uploadBytes >> 20} MB, got ${bytes(chosen.size)}.`; return; }
    file = chosen;
    if (shown) URL.revokeObjectURL(shown);
    shown = URL.createObjectURL(chosen);
    picture.alt = `The image ${chosen.name}`;
    picture.hidden = false;
    words.hidden = true;
    picture.src = shown;
    other.hidden = false;
    about.textContent = `${chosen.name} · ${bytes(chosen.size)}`;
    clear();
    start();
  }

  function clear() { found.replaceChildren(); notes.replaceChildren(); model.textContent = ""; said.textContent = ""; }

  async function start() {
    notice.textContent = "";
    const body = form.question();
    if (!body) return;
    if (!file) { notice.textContent = "Choose an image first."; input.focus(); return; }
    running?.abort();
    const mine = (running = new AbortController());
    const data = new FormData();
    data.append("image", file, file.name);
    for (const [name, value] of Object.entries(body)) if (name !== "none") data.append(name, typeof value === "string" ? value : JSON.stringify(value));
    data.append("top", top.value);
    node.setAttribute("aria-busy", "true");
    const slow = setTimeout(() => { found.replaceChildren(element("li", { class: "cs-note", role: "status" }, "Looking at the image …")); }, 400);
    try {
      show(await ask("api/classify-image", { method: "POST", body: data, signal: mine.signal }));
    } catch (error) {
      if (error.name === "AbortError") return;
      clear();
      notice.textContent = error.message;
    } finally { clearTimeout(slow); if (running === mine) { running = null; node.removeAttribute("aria-busy"); } }
  }

  function show(answer) {
    if (answer.preview) { picture.src = answer.preview; picture.hidden = false; words.hidden = true; }
    about.textContent = `${file.name} · ${answer.width.toLocaleString("en")} × ${answer.height.toLocaleString("en")} · ${bytes(file.size)}`;
    found.replaceChildren(...answer.labels.map(({ label, probability }) => {
      const fill = element("span", { class: "cs-classify-fill" });
      fill.style.width = `${100 * probability}%`;
      return element("li", {}, element("span", { class: "cs-classify-label" }, label), element("span", { class: "cs-classify-track", "aria-hidden": "true" }, fill), element("span", { class: "cs-classify-share" }, percent(probability)));
    }));
    if (!answer.labels.length) found.replaceChildren(element("li", { class: "cs-note" }, `None of the labels reaches its threshold${answer.runner_up ? `; the nearest is ${answer.runner_up}` : ""}.`));
    said.textContent = answer.labels.map(({ label, probability }) => `${label} ${(100 * probability).toFixed(0)} percent`).join(", ");
    notes.replaceChildren(...answer.notes.map((note) => element("li", {}, note)));
    // On a phone the labels are below the picture, and both below the form.
    if (model.getBoundingClientRect().top > innerHeight) node.scrollIntoView({ block: "start" });
    model.textContent = `Probabilities among ${counted(answer.asked, "label")}, by ${answer.model}.`;
  }

  return { node, button, start, take };
}
