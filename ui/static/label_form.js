// Which labels: typed or pasted, from a file, from a saved set or from the clusters of a discovery.
//
// labelForm(limits, submit) -> {node, slot, offer(sources), choose(source), question(), read(file), refuse(text)}
//   question()   what api/classify and api/classify-image take; null, and a word about it, when
//                there is no label

import { element } from "./elements.js";
import { counted } from "./formats.js";
import { ask } from "./server.js";

const EXAMPLES = ["people, animals, buildings, landscapes, food", "indoors, outdoors", "day, night, sunset or sunrise"];
const OWN = "own";
let forms = 0;

export function labelForm(limits, submit) {
  const key = `cs-labels-${(forms += 1)}`;
  let source = null; // {kind, name, labels, total, body, groups, keepsWording}; null: what is typed

  const text = element("textarea", { class: "cs-field cs-classify-text", id: `${key}-text`, rows: 5,
    placeholder: "dog, cat, a cup of coffee", "aria-describedby": `${key}-hint`,
    onkeydown: (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); } },
    oninput: () => tell("") });
  const examples = element("p", { class: "cs-classify-examples" }, "For example ",
    ...EXAMPLES.map((words) => element("button", { type: "button", class: "cs-chip", onclick: () => { text.value = words; tell(""); text.focus(); } }, words)));
  const typed = element("div", {},
    element("label", { class: "cs-classify-name", htmlFor: `${key}-text` }, "Labels"),
    text,
    element("p", { class: "cs-classify-hint", id: `${key}-hint` }, "With commas or new lines between them. Whole phrases work too."),
    examples);

  const chosen = element("div", { class: "cs-classify-source", hidden: true });
  const group = element("select", { class: "cs-field", "aria-label": "Which group of labels" });
  const from = element("select", { class: "cs-field", "aria-label": "Take labels from a saved set or a discovery", hidden: true, onchange: pick });
  const file = element("input", { type: "file", class: "cs-hidden", accept: ".txt,.toml,.json,text/plain,application/json", tabIndex: -1, "aria-label": "A file of labels", onchange: () => { if (file.files[0]) readFile(file.files[0]); file.value = ""; } });
  const upload = element("button", { type: "button", class: "cs-button", onclick: () => file.click() }, "Load a file");

  const context = element("input", { class: "cs-field", id: `${key}-context`, type: "text", maxLength: 300, placeholder: "a type of pet" });
  const templates = element("select", { class: "cs-field", id: `${key}-templates`, onchange: () => { own.hidden = templates.value !== OWN; if (!own.hidden) own.focus(); } },
    element("option", { value: "simple" }, "7 everyday sentences (usual)"),
    element("option", { value: "openai" }, "80 sentences (slower, steadier)"),
    element("option", { value: "none" }, "The label alone"),
    element("option", { value: OWN }, "A sentence of my own"));
  const own = element("input", { class: "cs-field", type: "text", maxLength: 300, value: "a photo of a {}", "aria-label": "A sentence with {} where the label goes", hidden: true });
  const none = element("input", { type: "checkbox", id: `${key}-none`, checked: true });
  const wording = element("div", { class: "cs-classify-options" },
    field(`${key}-context`, "What the labels are", context),
    field(`${key}-templates`, "Asked as", templates), own,
    element("label", { class: "cs-classify-check", htmlFor: `${key}-none` }, none, element("span", {}, "Photos may be none of these")));
  const more = element("details", { class: "cs-classify-more" }, element("summary", {}, "More options"), wording);
  const notice = element("p", { class: "cs-classify-notice", role: "alert" });
  const slot = element("div", { class: "cs-classify-slot" });

  const node = element("form", { class: "cs-classify-form", novalidate: true, onsubmit: (event) => { event.preventDefault(); submit(); } },
    typed, chosen,
    element("div", { class: "cs-classify-from" }, from, upload, file),
    more, notice, slot);

  function tell(words) { notice.textContent = words; }

  function offer({ sets, discoveries }) {
    const option = (kind, name, words) => element("option", { value: `${kind}:${name}` }, words);
    from.hidden = !sets.length && !discoveries.length;
    from.replaceChildren(
      element("option", { value: "" }, "Take labels from …"),
      sets.length ? element("optgroup", { label: "Saved label sets" }, ...sets.map((one) => option("set", one.name, `${one.name} (${counted(one.labels, "label")}${one.taught ? ", taught" : ""})`))) : null,
      discoveries.length ? element("optgroup", { label: "Names of discovered clusters" }, ...discoveries.map((one) => option("discovery", one.name, one.name))) : null);
    for (const empty of [...from.childNodes].filter((child) => child.nodeType !== Node.ELEMENT_NODE)) empty.remove();
  }

  async function pick() {
    const [kind, ...name] = from.value.split(":");
    from.value = "";
    if (kind) await choose(kind, name.join(":"));
  }

  async function choose(kind, name) {
    try {
      const found = await ask(`api/label-sources/labels?${new URLSearchParams({ [kind]: name })}`);
      take({ kind, name, labels: found.labels, total: found.total, body: { [kind]: name }, groups: [], keepsWording: kind === "set" });
    } catch (error) { tell(error.message); }
  }

  async function readFile(chosenFile) {
    if (chosenFile.size > 2 << 20) { tell("A file of labels has at most 2 MB."); return; }
    tell("");
    try {
      const found = await ask(`api/label-file?${new URLSearchParams({ name: chosenFile.name })}`, { method: "POST", body: chosenFile, headers: { "Content-Type": "application/octet-stream" } });
      const body = found.definitions ? { definitions: found.definitions } : { labels: found.labels };
      take({ kind: "file", name: chosenFile.name, labels: found.labels, total: found.labels.length, body, groups: found.groups, keepsWording: false });
    } catch (error) { tell(error.message); }
  }

  function take(found) {
    source = found;
    tell("");
    typed.hidden = Boolean(source);
    chosen.hidden = !source;
    more.hidden = Boolean(source?.keepsWording);
    if (!source) { chosen.replaceChildren(); return; }
    const kinds = { set: "Saved set", discovery: "Clusters of", file: "File" };
    const shown = source.labels.slice(0, 24).join(", ") + (source.total > 24 ? ` and ${(source.total - 24).toLocaleString("en")} more` : "");
    group.replaceChildren(...source.groups.map((name) => element("option", { value: name }, name)));
    chosen.replaceChildren(
      element("p", { class: "cs-classify-name" }, `${kinds[source.kind]} `, element("b", {}, source.name), ` · ${counted(source.total, "label")}`),
      element("p", { class: "cs-classify-hint" }, shown),
      ...(source.groups.length > 1 ? [group] : []),
      element("div", { class: "cs-classify-row" },
        element("button", { type: "button", class: "cs-button", onclick: () => { text.value = source.labels.join("\n"); take(null); text.focus(); } }, "Edit as text"),
        element("button", { type: "button", class: "cs-button", onclick: () => { take(null); text.focus(); } }, "Remove")));
  }

  function question() {
    tell("");
    if (source?.keepsWording) return { ...source.body };
    const words = source ? source.body : { labels: text.value.trim() };
    if (!source && !words.labels) {
      tell("Type at least one label first, such as: dog, cat, a cup of coffee");
      text.focus();
      return null;
    }
    if (templates.value === OWN && !own.value.includes("{}")) {
      tell("Put {} where the label goes, as in: a photo of a {}");
      more.open = true;
      own.focus();
      return null;
    }
    return {
      ...words,
      ...(source?.groups.length ? { group: group.value || source.groups[0] } : {}),
      ...(context.value.trim() ? { context: context.value.trim() } : {}),
      templates: templates.value === OWN ? own.value.trim() : templates.value,
      none: none.checked ? "auto" : "off",
    };
  }

  return { node, slot, offer, choose, question, read: readFile, refuse: tell };
}

function field(id, words, control) {
  return element("div", { class: "cs-classify-field" }, element("label", { htmlFor: id }, words), control);
}
