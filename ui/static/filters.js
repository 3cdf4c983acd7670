// Filters as chips: those that are set, each with its cross, and a button for each kind that the
// collection has anything for.

import { element } from "./elements.js";
import { count, counted } from "./formats.js";
import { icon } from "./icons.js";
import { popoverOf } from "./popover.js";
import { withFilter, withoutFilter } from "./search_question.js";

const LONG = 10; // more choices than these get a field to find one

const lastPart = (path) => path.replace(/[\\/]+$/, "").split(/[\\/]/).pop() || path;

// What a filter that is set says.
function chipText([name, value]) {
  const parts = value.split(",");
  switch (name) {
    case "since": return `from ${value}`;
    case "until": return `until ${value}`;
    case "in": return lastPart(value);
    case "minsize": return /mp$/i.test(value) ? `${value.replace(/mp$/i, "")} MP or more` : `${value} px or more`;
    case "near": return parts.length === 3 ? `within ${parts[2]} km of ${degrees(parts[0])}, ${degrees(parts[1])}` : value;
    case "box": return "in a part of the map";
    case "label": return value.includes(":") ? value.slice(value.indexOf(":") + 1) : value;
    case "where": return /^id in \(/i.test(value) ? counted(parts.length, "chosen photo") : value;
    default: return value;
  }
}
const degrees = (text) => String(Number(Number(text).toFixed(2)));

// Since and until of the same year are one chip.
function oneYear(filters) {
  const [since, until] = ["since", "until"].map((name) => filters.find(([other]) => other === name)?.[1]);
  return since && since === until && /^\d{4}$/.test(since) ? since : null;
}

export function setChips(filters, changed) {
  const year = oneYear(filters);
  const chip = (text, title, without) => element("li", {}, element("button", { type: "button", class: "cs-chip cs-on", title, "aria-label": `Remove the filter ${text}`, onclick: () => changed(without) },
    element("span", { class: "cs-chip-text" }, text), icon("close")));
  const chips = filters.filter(([name]) => !(year && (name === "since" || name === "until")))
    .map(([name, value]) => chip(chipText([name, value]), `${name}: ${value}`, withoutFilter(filters, name, value)));
  if (year) chips.unshift(chip(year, `Taken in ${year}`, withoutFilter(withoutFilter(filters, "since"), "until")));
  return chips;
}

// The buttons, for what api/facets knows. question(): the one that is asked now; changed(filters)
// takes the new filters.
export function filterMenus(facets, question, changed) {
  const menus = [];
  const menu = (name, fill) => {
    const button = element("button", { type: "button", class: "cs-chip" }, name, icon("down"));
    menus.push(element("li", {}, button, popoverOf(button, name, fill)));
  };
  const choose = (name) => (value, on) => changed(on ? withFilter(question().filters, name, value) : withoutFilter(question().filters, name, value));
  const isSet = (name) => (value) => question().filters.some(([other, set]) => other === name && set === value);

  if (facets.dated) {
    menu("Date", (sheet) => sheet.replaceChildren(
      ...choices(facets.years, (value) => oneYear(question().filters) === value, (value, on) => {
        const bare = withoutFilter(withoutFilter(question().filters, "since"), "until");
        changed(on ? withFilter(withFilter(bare, "since", value), "until", value) : bare);
      }, { single: true, years: true }), dates(question, changed)));
  }
  for (const [title, name, key, single] of [["Camera", "camera", "cameras"], ["Folder", "in", "folders"], ["Size", "minsize", "sizes", true]]) {
    if (facets[key].length > (name === "camera" ? 0 : 1)) menu(title, (sheet) => sheet.replaceChildren(...choices(facets[key], isSet(name), choose(name), { single })));
  }
  const sets = facets.labels.filter(({ labels }) => labels.length);
  if (sets.length) {
    menu("Label", (sheet) => sheet.replaceChildren(...sets.flatMap(({ set, labels }) =>
      [element("h3", { class: "cs-popover-title" }, set), ...choices(labels, isSet("label"), choose("label"))])));
  }
  return menus;
}

// The choices of a menu: a list of buttons that are pressed or not, of which all may be set, or
// with `single` one.
function choices(facets, isSet, choose, { single = false, years = false } = {}) {
  const list = element("ul", { class: years ? "cs-choices cs-years" : "cs-choices" });
  const buttons = facets.map(({ value, name, count: number }) => {
    const button = element("button", { type: "button", class: "cs-choice", "aria-pressed": String(isSet(value)), title: name, onclick: () => {
      const on = button.getAttribute("aria-pressed") !== "true";
      if (single) for (const other of buttons) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(on));
      choose(value, on);
    } }, element("span", {}, name), element("span", { class: "cs-chip-count" }, count(number)));
    list.append(element("li", {}, button));
    return button;
  });
  if (facets.length <= LONG || years) return [list];
  const field = element("input", { class: "cs-field cs-choices-field", type: "search", placeholder: "Find", "aria-label": "Find in this list", oninput: () => {
    const wanted = field.value.trim().toLowerCase();
    buttons.forEach((button, at) => { button.parentElement.hidden = !facets[at].name.toLowerCase().includes(wanted); });
  } });
  return [field, list];
}

function dates(question, changed) {
  const field = (name, label) => {
    const set = question().filters.find(([other]) => other === name)?.[1];
    const input = element("input", { class: "cs-field", type: "date", value: /^\d{4}-\d\d-\d\d$/.test(set ?? "") ? set : "",
      onchange: () => changed(input.value ? withFilter(question().filters, name, input.value) : withoutFilter(question().filters, name)) });
    return element("label", { class: "cs-date" }, label, input);
  };
  return element("div", { class: "cs-dates" }, field("since", "From"), field("until", "Until"));
}
