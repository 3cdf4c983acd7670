// Questions in a box of their own: askFor({...}) -> a promise of what was filled in, null for no.

import { element } from "./elements.js";

// title   one line. note   a sentence below it.
// fields  [{name, label, value, kind: "text" | "number" | "check", most, least, hint}]
// action  what the button says. send(values)  does it; what it throws is shown, and the box stays.
// danger  true where something is taken away.
// returnTo()  what gets the focus where that which had it is gone.
export function askFor({ title, note, fields = [], action, send, danger = false, returnTo }) {
  const before = document.activeElement;
  const inputs = fields.map(input);
  const problem = element("p", { class: "cs-dialog-problem", role: "alert" });
  const yes = element("button", { class: danger ? "cs-button cs-danger" : "cs-button cs-primary" }, action);
  const no = element("button", { type: "button", class: "cs-button", onclick: () => box.close() }, "Cancel");
  const form = element("form", { method: "dialog", onsubmit: submitted },
    element("h2", { id: "cs-dialog-title" }, title), note ? element("p", { class: "cs-note" }, note) : null,
    inputs.map((one) => one.node), problem, element("div", { class: "cs-dialog-end" }, no, yes));
  const box = element("dialog", { class: "cs-dialog", "aria-labelledby": "cs-dialog-title" }, form);
  const layer = element("div", { class: "cs-panel" }, box);
  let answer = null;

  async function submitted(event) {
    event.preventDefault();
    const values = Object.fromEntries(inputs.map((one) => [one.name, one.value()]));
    yes.disabled = true;
    problem.textContent = "";
    try {
      answer = send ? ((await send(values)) ?? values) : values;
      box.close();
    } catch (error) {
      problem.textContent = error.message;
    } finally { yes.disabled = false; }
  }

  document.body.append(layer);
  return new Promise((resolve) => {
    box.addEventListener("keydown", (event) => event.stopPropagation()); // no key of the page below
    box.addEventListener("close", () => {
      layer.remove();
      (before?.isConnected ? before : returnTo?.())?.focus();
      resolve(answer);
    });
    box.showModal();
    (inputs[0]?.field ?? yes).focus();
    inputs[0]?.field.select?.();
  });
}

function input({ name, label, value = "", kind = "text", most = 200, least, hint, optional = false }) {
  if (kind === "check") {
    const field = element("input", { type: "checkbox", checked: Boolean(value) });
    return { name, field, value: () => field.checked, node: element("label", { class: "cs-dialog-check" }, field, element("span", {}, label)) };
  }
  const limits = kind === "number" ? { min: least, max: most, step: 1 } : { maxLength: most };
  const field = element("input", { class: "cs-field", type: kind, value, required: !optional, autocomplete: "off", ...limits });
  const node = element("label", { class: "cs-dialog-field" }, element("span", {}, label), field, hint ? element("span", { class: "cs-soft" }, hint) : null);
  return { name, field, node, value: () => (kind === "number" ? (field.value === "" ? null : Number(field.value)) : field.value.trim()) };
}
