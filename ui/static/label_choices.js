// A few choices of which one holds, as a row of buttons.

import { element } from "./elements.js";

// choices({label, options: [[value, text], ...], value, change}) -> {node, set(value), value()}
export function choices({ label, options, value, change }) {
  let chosen = value;
  const buttons = new Map(options.map(([name, text]) => [name, element("button", {
    type: "button", class: "cs-classify-choice", "aria-pressed": String(name === chosen),
    onclick: () => { if (name !== chosen) { set(name); change(name); } },
  }, text)]));
  function set(name) {
    chosen = name;
    for (const [other, button] of buttons) button.setAttribute("aria-pressed", String(other === name));
  }
  return { node: element("div", { class: "cs-classify-choices", role: "group", "aria-label": label }, ...buttons.values()), set, value: () => chosen };
}
