// Taking photos away: as a table, as a list of paths, or as the files themselves.

import { element } from "./elements.js";
import { Refused, address } from "./server.js";

const KINDS = [
  ["csv", "Table (CSV)", "Path, score, date and place of each"],
  ["json", "Table (JSON lines)", "The same, for programs"],
  ["paths", "List of paths", "One path a line"],
  ["zip", "The photos (ZIP)", "Copies of the original files"],
];

// ids(): the photos. search(): the parameters of a search instead, all hits of which are meant.
export function exportChoices({ ids, search, close }) {
  const trouble = element("p", { class: "cs-trouble", role: "alert" });
  async function take(kind) {
    trouble.textContent = "";
    if (kind === "zip") { save(zipForm(kind, ids, search)); close(); return; }
    try {
      const answer = await fetch(ids ? address("api/export") : address(`api/export?${withFormat(search(), kind)}`),
        ids ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ format: kind, ids: ids() }) } : {});
      if (!answer.ok) throw new Refused((await answer.json().catch(() => null))?.error ?? `The server said ${answer.status}.`, answer.status);
      const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? `photos.${kind}`;
      const link = element("a", { href: URL.createObjectURL(await answer.blob()), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
      close();
    } catch (error) { trouble.textContent = error instanceof Refused ? error.message : "clipsearch does not answer. Is it still running?"; }
  }
  return [element("ul", { class: "cs-choices" }, KINDS.map(([kind, name, about]) => element("li", {},
    element("button", { type: "button", class: "cs-choice cs-export", onclick: () => take(kind) }, element("span", {}, name), element("span", { class: "cs-soft" }, about))))), trouble];
}

function withFormat(parameters, kind) {
  const asked = new URLSearchParams(parameters);
  asked.set("format", kind);
  return asked;
}

// An archive may be larger than what fits into memory: the browser itself saves it while it comes.
// What cannot be made is told in a window of its own, and the page stays.
function zipForm(kind, ids, search) {
  const fields = ids ? [["format", kind], ["ids", ids().join(",")]] : [...withFormat(search(), kind)];
  return element("form", { method: ids ? "post" : "get", action: address("api/export"), target: "_blank", hidden: true },
    fields.map(([name, value]) => element("input", { type: "hidden", name, value })));
}

function save(form) {
  document.body.append(form);
  form.submit();
  form.remove();
}
