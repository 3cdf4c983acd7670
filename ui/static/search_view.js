// What the Search tab says around its photos: what was found, what to try, what to do where there
// is nothing.

import { copyText } from "./detail_facts.js";
import { element } from "./elements.js";
import { count, counted } from "./formats.js";
import { icon } from "./icons.js";
import { asksAnything, hasCut, isFirst } from "./search_question.js";
import { showTab } from "./tabs.js";

const EXAMPLES = ["a dog on a beach", "people around a table", "snow on mountains", "a city at night", "red flowers", "children playing"];

export function examples(choose) {
  return element("div", { class: "cs-examples" }, element("span", { class: "cs-soft" }, "Try"),
    EXAMPLES.map((text) => element("button", { type: "button", class: "cs-chip", onclick: () => choose(text) }, text)));
}

// The line above the photos.
export function summary(question, answer) {
  const { hits, total, searched } = answer;
  if (isFirst(question)) {
    const dated = hits.some((hit) => hit.taken_at);
    return `${dated ? "Recent photos" : "All photos"} · ${count(total ?? searched)}`;
  }
  if (!hits.length) return "";
  if (!asksAnything(question)) return counted(total ?? hits.length, "photo");
  if (!hasCut(question)) return `Closest of ${counted(searched, "photo")}`;
  return total == null ? `Matches in ${counted(searched, "photo")}` : `${counted(total, "match", "matches")} in ${counted(searched, "photo")}`;
}

// Where the photos would be, when there are none; `act` has clearFilters() and showAll().
export function nothing(question, answer, act) {
  const closest = answer.below?.length ?? 0;
  const button = (text, onclick) => element("button", { type: "button", class: "cs-button", onclick }, text);
  if (closest) {
    return note(`Nothing above the cut-off; the closest ${closest === 1 ? "one is" : `${count(closest)} are`} shown.`,
      "The cut-off is where photos stop standing out from the rest of the collection.", button("Show all, best first", act.showAll));
  }
  if (question.filters.length) return note("No photo fits these filters.", "", button("Clear the filters", act.clearFilters));
  if (!asksAnything(question)) return note("The index is empty.", "Add a folder in the Index tab, or with clipsearch index FOLDER.");
  return note("Nothing was found.", "");
}

const note = (first, second, ...more) => element("div", { class: "cs-nothing" }, element("p", {}, element("strong", {}, first), second && ` ${second}`), more);

// No index yet. command: what makes one; then: what shows it.
export function welcome({ command, then }) {
  return element("section", { class: "cs-welcome" },
    icon("photos"), element("h2", {}, "No photos yet"),
    element("p", {}, "clipsearch looks at your photos once and keeps what it saw in an index; the photos stay as and where they are. Put the name of your folder for FOLDER:"),
    line(command), line(then),
    element("p", { class: "cs-soft" }, "Folders that were allowed when the page was started can also be added here, in the Index tab."),
    element("button", { type: "button", class: "cs-button", onclick: () => showTab("index") }, "Go to the Index tab"));
}

function line(command) {
  const copy = element("button", { type: "button", class: "cs-icon-button", "aria-label": `Copy ${command}`, title: "Copy", onclick: async () => {
    if (await copyText(command)) copy.replaceChildren(icon("check"));
  } }, icon("copy"));
  return element("div", { class: "cs-path" }, element("code", {}, command), copy);
}
