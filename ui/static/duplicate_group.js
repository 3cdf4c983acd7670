// One group of files of which one would do: which is kept and why, and what to do with the others.

import { openDetail } from "./detail.js";
import { copyText } from "./detail_facts.js";
import { element } from "./elements.js";
import { bytes, count, counted } from "./formats.js";
import { thumbnail } from "./server.js";

const TITLES = { exact: "The same file", copy: "The same picture", burst: "A burst" };

// more(offset) brings further files; choose(file) says which to keep, null for all.
export function duplicateGroup(group, { more, choose }) {
  const files = [...group.files];
  let keep = 0;
  const list = element("ul", { class: "cs-duplicates-files" });
  const why = element("p", { class: "cs-soft" });
  const said = element("span", { class: "cs-soft", role: "status" });
  const whole = element("button", { type: "button", class: "cs-button", "aria-pressed": "false", onclick: () => chosen(keep === null ? 0 : null) }, "Keep all");
  const copy = element("button", { type: "button", class: "cs-button", onclick: copyOthers }, group.total === 2 ? "Copy the other path" : "Copy the other paths");
  const rest = element("button", { type: "button", class: "cs-button", onclick: showMore });
  const heading = element("h3", { id: `cs-duplicates-${group.kind}-${group.group}` }, `${TITLES[group.kind]}, ${counted(group.total, "file")}`);
  const node = element("li", { class: "cs-duplicates-group", "aria-labelledby": heading.id },
    element("div", { class: "cs-duplicates-head" }, heading, why, element("div", { class: "cs-duplicates-tools" }, said, copy, whole)), list, rest);

  function show() {
    list.replaceChildren(...files.map(row));
    rest.hidden = files.length >= group.total;
    rest.textContent = `Show more of ${count(group.total)}`;
    whole.setAttribute("aria-pressed", String(keep === null));
    copy.hidden = keep === null;
    why.textContent = keep === null ? "All are kept: none is in the list of what to part with."
      : `Keep ${keep === 0 ? reason(group.reason) : "the one you chose"}; ${group.total === 2 ? "the other takes" : `the other ${count(group.total - 1)} take`} ${bytes(freed())}.`;
    node.classList.toggle("cs-duplicates-whole", keep === null);
  }

  const freed = () => group.bytes_to_free + group.files[0].bytes - files.find((file) => file.file === keep).bytes;

  function row(file) {
    const isKept = keep === null || file.file === keep;
    const ids = [...new Set(files.map((one) => one.id))];
    const size = [file.width ? `${count(file.width)} × ${count(file.height)}` : null, bytes(file.bytes)].filter(Boolean).join(" · ");
    return element("li", { class: isKept ? "cs-duplicates-file cs-duplicates-kept" : "cs-duplicates-file" },
      element("button", { type: "button", class: "cs-tile", dataset: { id: file.id }, "aria-label": `Open ${file.name}`, onclick: () => openDetail(file.id, { ids }) },
        element("img", { src: thumbnail(file.id), alt: "", loading: "lazy", decoding: "async" })),
      element("div", { class: "cs-duplicates-words" },
        element("p", { class: "cs-duplicates-name" }, isKept ? element("strong", { class: "cs-duplicates-mark" }, "Keep") : null, element("span", {}, file.name)),
        element("p", { class: "cs-soft cs-duplicates-folder" }, file.folder),
        element("p", { class: "cs-soft" }, size, group.kind !== "exact" && file.file !== 0 ? ` · ${Math.round(100 * file.cosine)} % alike` : "", file.movable ? "" : " · inside an archive"),
        element("div", { class: "cs-duplicates-tools" },
          keep !== null && !isKept ? element("button", { type: "button", class: "cs-discover-link", "aria-label": `Keep ${file.name} instead`, onclick: () => chosen(file.file) }, "Keep this instead") : null,
          element("button", { type: "button", class: "cs-discover-link", "aria-label": `Copy the path of ${file.name}`, onclick: () => copied([file.path]) }, "Copy path"))));
  }

  function chosen(file) {
    keep = file;
    choose(file);
    show();
    if (file === null || file === 0) whole.focus(); // what was pressed may be gone
    else list.children[files.findIndex((one) => one.file === file)]?.querySelector("button")?.focus();
  }

  async function copied(paths) {
    said.textContent = (await copyText(paths.join("\n"))) ? `${counted(paths.length, "path")} copied` : "The browser does not let this page copy.";
  }

  async function copyOthers() {
    await all();
    copied(files.filter((file) => file.file !== keep && file.movable).map((file) => file.path));
  }

  async function all() { while (files.length < group.total && (await load())); }

  async function load() {
    const answer = await more(files.length).catch((error) => { said.textContent = error.message; return { files: [] }; });
    files.push(...answer.files);
    return answer.files.length > 0;
  }

  async function showMore() { await load(); show(); }

  show();
  return node;
}

const reason = (words) => (words.startsWith("none is") ? "the first: none is better" : words);
