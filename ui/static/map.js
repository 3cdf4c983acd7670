// The Map tab: all photos as points. What there is of a map, having it laid out, and its parts.

import { element } from "./elements.js";
import { count, counted } from "./formats.js";
import { mapClusters } from "./map_clusters.js";
import { fetchScene } from "./map_scene.js";
import { mapSelection } from "./map_selection.js";
import { MapStage } from "./map_stage.js";
import { ask, tell } from "./server.js";
import { styleSheet } from "./style_sheet.js";
import { showTab } from "./tabs.js";

const LOOK_AGAIN = 1000; // milliseconds, while a map is being laid out
const NO_CLUSTERS = "-";

styleSheet("map.css");

export function mount(place) {
  const progress = element("div", { class: "cs-map-progress", role: "status" });
  const notice = element("div", { class: "cs-map-notice" });
  const view = element("div", { class: "cs-map-view", hidden: true });
  place.replaceChildren(progress, notice, view);
  let about = null, scene = null, stage = null, wanted = "", looking = false;

  // -- what there is ---------------------------------------------------------------------

  async function look() {
    if (looking) return;
    looking = true;
    try {
      do {
        about = await ask("api/map");
        tellMaking();
        if (about.making) await new Promise((go) => setTimeout(go, LOOK_AGAIN));
      } while (about.making);
      if (about.placed) await show();
      else offer();
    } catch (error) {
      progress.replaceChildren();
      say(error.message, button("Try again", look));
    } finally {
      looking = false;
    }
  }

  async function show() {
    const fresh = await fetchScene(wanted, scene);
    if (fresh !== scene) draw(fresh);
    tellState();
  }

  function draw(fresh) {
    scene = fresh;
    stage?.remove();
    const shell = element("div", { class: "cs-map-shell" });
    const chosen = mapSelection();
    stage = new MapStage(scene, { selected: (rows) => { chosen.show(rows.map((row) => scene.ids[row]), stage.chosenName()); list.mark(stage.chosen); } });
    const list = mapClusters(scene, stage);
    chosen.cleared = () => stage.clear();
    shell.append(stage.node, list.node);
    view.replaceChildren(head(), shell, chosen.node);
    view.hidden = false;
    stage.start();
  }

  function head() {
    const line = [counted(scene.about.total, "photo")];
    if (scene.about.clusters.length) {
      line.push(counted(scene.about.clusters.length, "group"));
      if (scene.about.outside) line.push(`${count(scene.about.outside)} in none`);
    }
    if (scene.about.count < scene.about.total) line.push(`an even sample of ${count(scene.about.count)} is drawn`);
    const parts = [element("p", { class: "cs-soft cs-map-facts" }, line.join(" · "))];
    if (about.clusters.length) {
      const choice = element("select", { class: "cs-field", id: "cs-map-clusters", onchange: () => { wanted = choice.value; look(); } },
        about.clusters.map((name) => element("option", { value: name, selected: name === scene.about.clusters_of }, name)),
        element("option", { value: NO_CLUSTERS, selected: scene.about.clusters_of === null }, "no groups"));
      parts.push(element("label", { class: "cs-map-choice", htmlFor: "cs-map-clusters" }, "Colours show", choice));
    } else {
      parts.push(element("p", { class: "cs-soft" }, "Names and colours come with the groups that ",
        element("button", { type: "button", class: "cs-link", onclick: () => showTab("discover") }, "Discover"), " finds."));
    }
    return element("div", { class: "cs-map-head" }, parts);
  }

  // -- having it laid out ----------------------------------------------------------------

  function tellMaking() {
    if (!about.making) { progress.replaceChildren(); return; }
    const { done, total } = about.making, text = done ? `${count(done)} of ${counted(total, "photo")} have their place` : "Getting ready";
    if (!progress.firstChild) {
      notice.replaceChildren();
      progress.replaceChildren(
        element("p", {}, element("b", {}, "Laying out the map. "), element("span", {}), " You can go on using the page."),
        element("progress", { "aria-label": "The map" }),
        element("button", { type: "button", class: "cs-button", onclick: () => tell("api/map/stop", {}).catch(() => null) }, "Stop"));
    }
    progress.querySelector("span").textContent = `${text}.`;
    const bar = progress.querySelector("progress");
    bar.max = Math.max(1, total);
    if (done) bar.value = done;
  }

  async function make(anew) {
    notice.replaceChildren();
    try {
      about = await tell("api/map/make", { anew });
    } catch (error) {
      say(error.message, button("Try again", look));
      return;
    }
    look();
  }

  // No map yet.
  function offer() {
    view.hidden = true;
    if (!about.images) { say("There are no photos in the index yet: the Index tab adds some."); return; }
    const words = [element("h2", {}, "There is no map yet"),
      element("p", {}, `On a map, photos that look alike lie side by side. Laying out ${counted(about.images, "photo")} takes ${about.images > 5000 ? "some minutes" : "less than a minute"}, and the page works on meanwhile.`)];
    if (about.problem) words.unshift(element("p", { class: "cs-map-problem", role: "alert" }, about.problem));
    if (about.install) words.push(element("p", {}, "It needs one more package. On the computer that runs clipsearch: ", element("code", {}, about.install)), button("Look again", look));
    else words.push(button("Make the map", () => make(false), "cs-button cs-primary"));
    notice.replaceChildren(element("div", { class: "cs-map-offer" }, words));
  }

  // There is one, which may not be of all photos.
  function tellState() {
    const missing = about.images - about.placed;
    if (about.problem) say(about.problem, button("Try again", () => make(false)));
    else if (missing > 0 && !about.install) say(`${counted(missing, "photo")} ${missing === 1 ? "is" : "are"} not on the map yet.`, button("Add to the map", () => make(false)));
    else if (missing > 0) say(`${counted(missing, "photo")} ${missing === 1 ? "is" : "are"} not on the map yet. To add them: ${about.install}`);
    else notice.replaceChildren();
  }

  const button = (text, onclick, kind = "cs-button") => element("button", { type: "button", class: kind, onclick }, text);
  function say(text, ...more) {
    notice.replaceChildren(element("div", { class: "cs-map-said", role: "status" }, element("p", {}, text), more));
  }

  // Nothing is asked before the tab is looked at; then whenever it is looked at again.
  new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) look();
  }).observe(place);
  if (!place.childNodes[1].firstChild) say("Looking for the map ...");
}
