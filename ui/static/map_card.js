// What a point of the map is, beside it: its thumbnail, its cluster and the name of its file.

import { element } from "./elements.js";
import { day } from "./formats.js";
import { tell, thumbnail } from "./server.js";

const AFTER = 120; // milliseconds that a point is looked at before its name is asked for

export class MapCard {
  constructor(scene) {
    this.scene = scene;
    this.row = -1;
    this.names = new Map(); // id -> hit
    this.image = element("img", { alt: "", decoding: "async", onerror: () => { this.image.hidden = true; } });
    this.cluster = element("p", { class: "cs-map-card-cluster", dir: "auto" });
    this.name = element("p", { class: "cs-map-card-name" });
    this.node = element("div", { class: "cs-map-card", hidden: true, role: "status" }, this.image, this.cluster, this.name);
  }

  show(row, camera, places) {
    this.node.hidden = row < 0;
    if (row < 0) { this.row = -1; clearTimeout(this.timer); return; }
    if (row !== this.row) {
      this.row = row;
      const { ids, groups, about } = this.scene, id = ids[row];
      this.image.hidden = false;
      this.image.src = thumbnail(id);
      this.cluster.textContent = groups[row] < 0 ? "" : about.clusters[groups[row]].name;
      this.describe(id);
      clearTimeout(this.timer);
      if (!this.names.has(id)) this.timer = setTimeout(() => this.fetch(id, row), AFTER);
    }
    this.place(camera, places);
  }

  describe(id) {
    const hit = this.names.get(id);
    this.name.textContent = hit ? [hit.name, hit.taken_at && day(hit.taken_at)].filter(Boolean).join(" · ") : "";
  }

  async fetch(id, row) {
    try {
      const { hits } = await tell("api/map/photos", { ids: [id] });
      if (this.names.size > 2000) this.names.clear();
      if (hits.length) this.names.set(id, hits[0]);
      if (this.row === row) this.describe(id);
    } catch { /* without its name, then */ }
  }

  // Beside the point, within the map.
  place(camera, places) {
    const x = camera.screenX(places.x(this.row)), y = camera.screenY(places.y(this.row));
    const w = this.node.offsetWidth, h = this.node.offsetHeight, { width, height } = camera;
    const left = x + 18 + w < width ? x + 18 : x - 18 - w;
    const clamp = (value, most) => Math.round(Math.min(Math.max(value, 8), Math.max(8, most)));
    this.node.style.transform = `translate(${clamp(left, width - w - 8)}px, ${clamp(y - h / 2, height - h - 8)}px)`;
  }
}
