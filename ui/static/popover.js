// A small sheet below a button, for the choices of a filter; from below on a phone.

import { element } from "./elements.js";

let number = 0;

// `fill(sheet, close)` puts its content in, every time it opens.
export function popoverOf(button, label, fill) {
  number += 1;
  const sheet = element("div", { class: "cs-popover", id: `cs-popover-${number}`, popover: "auto", role: "dialog", "aria-label": label });
  const close = () => sheet.hidePopover();
  button.setAttribute("aria-haspopup", "dialog");
  button.setAttribute("aria-expanded", "false");
  button.popoverTargetElement = sheet;
  sheet.addEventListener("beforetoggle", (event) => {
    if (event.newState === "open") fill(sheet, close);
  });
  sheet.addEventListener("toggle", (event) => {
    const open = event.newState === "open";
    button.setAttribute("aria-expanded", String(open));
    if (!open) return;
    place(sheet, button);
    // A field to find something in comes later: a keyboard that springs up hides the choices.
    (sheet.querySelector(".cs-choice, .cs-field:not(.cs-choices-field)") ?? sheet.querySelector("input, button"))?.focus();
  });
  return sheet;
}

// Below the button, within the window; the sheet of a phone has its place from the style.
function place(sheet, button) {
  if (window.innerWidth < 600) { sheet.style.left = sheet.style.top = ""; return; }
  const at = button.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, window.innerWidth - sheet.offsetWidth - 8));
  const below = at.bottom + 6;
  const above = at.top - sheet.offsetHeight - 6;
  sheet.style.left = `${left}px`;
  sheet.style.top = `${below + sheet.offsetHeight > window.innerHeight - 8 && above > 8 ? above : below}px`;
}
