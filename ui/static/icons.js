// The few pictures of the page's buttons: 24 x 24 outlines in the colour of the text.

const PATHS = {
  search: ["M11 18a7 7 0 1 0 0-14 7 7 0 0 0 0 14z", "M20 20l-4-4"],
  image: ["M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1z", "M4 16l5-5 5 5 3-3 3 3", "M15.5 8.5v.01"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  left: ["M15 5l-7 7 7 7"],
  right: ["M9 5l7 7-7 7"],
  down: ["M6 9l6 6 6-6"],
  copy: ["M9 9h10v10H9z", "M15 9V5H5v10h4"],
  check: ["M5 12l5 5 9-10"],
  download: ["M12 4v11", "M7 11l5 5 5-5", "M5 20h14"],
  plus: ["M12 5v14", "M5 12h14"],
  minus: ["M5 12h14"],
  keyboard: ["M3 7h18v11H3z", "M7 11h.01", "M11 11h.01", "M15 11h.01", "M8 15h8"],
  leave: ["M14 5H6v14h8", "M10 12h11", "M18 9l3 3-3 3"],
  moon: ["M20 14A8 8 0 0 1 10 4a8 8 0 1 0 10 10z"],
  photos: ["M4 8h12v12H4z", "M8 8V4h12v12h-4"],
};

export function icon(name) {
  const drawing = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 24 24", class: "cs-icon", fill: "none", stroke: "currentColor", "stroke-width": "1.8", "stroke-linecap": "round", "stroke-linejoin": "round", "aria-hidden": "true" })) drawing.setAttribute(key, value);
  for (const path of PATHS[name]) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", path);
    drawing.append(line);
  }
  return drawing;
}
