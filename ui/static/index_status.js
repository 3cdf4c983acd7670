// What the index holds: images, files, size, model, how fresh, of which folders.
import { element } from "./elements.js";
import { ago, bytes, count, counted, dayAndTime } from "./formats.js";

// How long ago, and to whoever points at it the moment itself.
const whenElement = (iso) => element("time", { dateTime: iso, title: `${dayAndTime(iso)} UTC` }, ago(iso));

function rows(status) {
  const files = [counted(status.files, "file")];
  if (status.copies) files.push(`${counted(status.copies, "copy", "copies")} among them`);
  if (status.missing) files.push(`${counted(status.missing, "file")} not there now`);
  const told = [
    ["Images", count(status.images), files.join(", ")],
    ["Skipped", count(status.skipped), status.skipped ? "reasons are below" : "every image could be read"],
    ["Model", status.model ?? "none yet", status.dimensions ? `vectors of ${status.dimensions} numbers` : ""],
    ["Size", bytes(status.bytes + status.cache_bytes), `${bytes(status.cache_bytes)} of it can be made again`],
    ["Updated", whenElement(status.updated_at), ""],
  ];
  if (status.lacking) told.push(["Waiting", counted(status.lacking, "image"), "no vector of this model yet: update to make them"]);
  return told;
}

export function statusView(place, { status, can_update: canUpdate, run }, { update }) {
  const title = element("h2", { id: "cs-index-status" }, status ? "What the index holds" : "There is no index yet");
  if (!status) {
    place.replaceChildren(title, element("p", { class: "cs-note" },
      "An index is made once from a folder of photos; from then on they can be searched by words. ",
      "Your photos are only read, never changed."));
    return;
  }
  const running = run !== null && !["done", "failed", "cancelled"].includes(run.state);
  place.replaceChildren(...[
    title,
    element("dl", { class: "cs-index-facts" }, rows(status).map(([name, value, note]) => element("div", {},
      element("dt", {}, name), element("dd", {}, value, note ? element("span", { class: "cs-index-more" }, note) : null)))),
    status.missing ? element("p", { class: "cs-note" },
      `${counted(status.missing, "file")} that the index knows cannot be found now. They stay searchable; `,
      element("code", {}, "clipsearch prune"), " on a terminal forgets them.") : null,
    status.folders.length ? element("h3", {}, "Folders") : null,
    status.folders.length ? element("ul", { class: "cs-index-roots" }, status.folders.map((folder) => element("li", {},
      element("span", { class: "cs-index-path" }, folder.path), " ",
      element("span", { class: "cs-index-more" }, ...(folder.there
        ? (folder.scanned_at ? ["looked through ", whenElement(folder.scanned_at)] : ["not looked through yet"])
        : ["not there now: its photos stay searchable"]))))) : null,
    canUpdate ? element("button", { type: "button", class: "cs-button", disabled: running, onclick: update }, "Look for new and changed photos") : null,
  ].filter(Boolean));
}
