// What is known of a photo, as lists for the detail panel.

import { element } from "./elements.js";
import { bytes, count, dayAndTime, score } from "./formats.js";
import { icon } from "./icons.js";
import { showSearch } from "./tabs.js";

// image: a document of api/images. hit: that of the search it comes from, if any. copied(what) is told what went to the clipboard; download: the
// address of the original, or null.
export function factsOf(image, { hit, copied, download }) {
  const link = (text, parameters, label) => element("button", { type: "button", class: "cs-link", "aria-label": label,
    onclick: () => showSearch(parameters) }, text);
  const rows = [];
  const row = (name, ...values) => { if (values.some(Boolean)) rows.push(element("dt", {}, name), element("dd", {}, ...values)); };

  row("Score", hit?.score != null && [score(hit.score), hit.strength && `${hit.strength} match`].filter(Boolean).join(", "));
  row("Taken", image.taken_at && dayAndTime(image.taken_at));
  row("Camera", image.camera && link(image.camera, { camera: image.camera }, `Photos taken with ${image.camera}`));
  row("Lens", image.lens);
  row("Exposure", exposure(image.exif ?? {}));
  row("Size", image.width && `${count(image.width)} × ${count(image.height)}${megapixels(image)}`);
  row("File", [image.format?.toUpperCase(), image.bytes != null && bytes(image.bytes)].filter(Boolean).join(", "));
  row("Place", image.place && link(degrees(image.place), { near: `${image.place.lat},${image.place.lon},5` }, "Photos within 5 km of here"));
  row("Rating", image.rating > 0 && `${"★".repeat(image.rating)} (${image.rating} of 5)`);
  row("About", image.description);
  row("By", image.exif?.Artist ?? image.exif?.Copyright);
  row("Keywords", image.keywords?.join(", "));
  row("Folder", image.folder && link(image.folder, { in: image.folder }, `Photos in ${image.folder}`));

  const parts = [];
  if (image.packed) parts.push(element("p", { class: "cs-soft cs-detail-missing" }, "This photo lies in a tar or Parquet file: only its thumbnail is here."));
  else if (image.missing || !image.original) parts.push(element("p", { class: "cs-detail-missing" }, "The file is not where it was when it was indexed: only its thumbnail is here."));
  if (image.labels?.length) {
    parts.push(element("ul", { class: "cs-detail-labels", "aria-label": "Labels" }, image.labels.map(({ set, label, probability }) =>
      element("li", {}, element("button", { type: "button", class: "cs-chip", title: `Label set ${set}`, onclick: () => showSearch({ label: `${set}:${label}` }) },
        label, probability != null && element("span", { class: "cs-chip-count" }, ` ${Math.round(100 * probability)}%`))))));
  }
  parts.push(element("dl", { class: "cs-facts" }, rows));
  const paths = [image.path, ...(image.copies ?? [])].filter(Boolean);
  parts.push(element("div", { class: "cs-detail-paths" },
    element("h3", {}, paths.length > 1 ? `${count(paths.length)} copies` : "Path"),
    paths.map((path) => element("div", { class: "cs-path" }, element("code", {}, path), copyButton(path, copied)))));
  if (download) parts.push(element("a", { class: "cs-button cs-download", href: download, download: image.name }, icon("download"), "Download original"));
  return parts;
}

function copyButton(path, copied) {
  const button = element("button", { type: "button", class: "cs-icon-button", "aria-label": "Copy path", title: "Copy path" }, icon("copy"));
  button.addEventListener("click", async () => {
    if (!(await copyText(path))) return;
    copied("Path");
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  });
  return button;
}

// Browsers give the clipboard to secure pages alone; elsewhere a field that is copied from stands in.
export async function copyText(text) {
  try { await navigator.clipboard.writeText(text); return true; } catch { /* below */ }
  const field = element("textarea", { value: text, readOnly: true, class: "cs-hidden" });
  (document.querySelector(".cs-detail") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  return done;
}

const megapixels = ({ width, height }) => (width * height >= 1e6 ? ` (${((width * height) / 1e6).toFixed(1)} MP)` : "");
const degrees = ({ lat, lon }) => `${Math.abs(lat).toFixed(4)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(4)}° ${lon < 0 ? "W" : "E"}`;

// "1/125 s · f/2.8 · 50 mm · ISO 200", of the EXIF tags as they stand in the file.
function exposure(exif) {
  const number = (name) => {
    const [above, below = "1"] = (exif[name] ?? "").split("/");
    const value = Number(above) / Number(below);
    return value > 0 && Number.isFinite(value) ? value : null;
  };
  const time = number("ExposureTime");
  const [aperture, length] = [number("FNumber"), number("FocalLength")];
  const speed = exif.ISOSpeedRatings ?? exif.PhotographicSensitivity;
  return [
    time && (time >= 0.4 ? `${Number(time.toFixed(1))} s` : `1/${Math.round(1 / time)} s`),
    aperture && `f/${Number(aperture.toFixed(1))}`,
    length && `${Math.round(length)} mm`,
    Number(speed) > 0 && `ISO ${Number(speed)}`,
  ].filter(Boolean).join(" · ");
}
