// The top of the page: the library, how many photos, how fresh, which model.

import { element } from "./elements.js";
import { ago, counted } from "./formats.js";
import { icon } from "./icons.js";
import { helpDialog } from "./keys.js";
import { libraryStatus } from "./library_status.js";
import { address, ask } from "./server.js";

const AGAIN_SECONDS = 60;

export async function mount(place) {
  const about = element("p", { class: "cs-about" });
  const buttons = element("div", { class: "cs-top-buttons" });
  const help = helpDialog();
  buttons.append(element("button", { type: "button", class: "cs-icon-button cs-for-keys", "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)", onclick: () => help.showModal() }, icon("keyboard")));
  place.replaceChildren(element("header", { class: "cs-top" }, element("h1", {}, "clipsearch"), about, buttons), help);

  async function tell(anew) {
    let status;
    try { status = await libraryStatus({ anew }); } catch (error) { about.textContent = error.message; return; }
    draw(status);
  }

  function draw(status) {
    if (status.command) { about.textContent = "no index yet"; return; }
    const updated = status.updated_at && ago(status.updated_at);
    const parts = [element("b", {}, status.name), counted(status.images, "photo"),
      updated && element("span", { title: `Last changed ${status.updated_at}` }, `updated ${updated}`),
      element("span", { title: "The model that looks at the photos" }, status.model)].filter(Boolean);
    // A line is broken between them, never inside one.
    about.replaceChildren(...parts.flatMap((part, at) => [element("span", {}, part, at < parts.length - 1 && " ·"), " "]));
  }
  document.addEventListener("cs:library", ({ detail }) => draw(detail));
  document.addEventListener("cs:index", () => tell(true)); // the Index tab has seen a change
  await tell(false);
  try {
    const { login, name } = await ask("api/session");
    if (login) {
      const title = `Log out ${name ?? ""}`.trim();
      buttons.append(element("form", { method: "post", action: address("logout") },
        element("button", { class: "cs-icon-button", "aria-label": title, title }, icon("leave"))));
    }
  } catch { /* without it nobody can be logged out, and all else works */ }
  setInterval(() => { if (!document.hidden) tell(true); }, AGAIN_SECONDS * 1000);
}
