// The parts of a question beside its words: photos that it is to be like or unlike, words to stay
// away from. Each with its weight.

import { element } from "./elements.js";
import { icon } from "./icons.js";
import { address, thumbnail } from "./server.js";

const NAMES = { plus: "Also", not: "Without", like: "Like", unlike: "Unlike" };
const OPPOSITE = { like: "unlike", unlike: "like", plus: "not", not: "plus" };

const isId = (value) => /^\d+$/.test(value);
const isPicture = (kind) => kind === "like" || kind === "unlike";

// question: see search_question.js. changed(question) takes the new one.
export function termRow(question, changed) {
  const row = element("ul", { class: "cs-terms", "aria-label": "What is asked for" });
  if (!question.terms.length) return row;
  const text = question.text.trim();
  if (text) {
    row.append(term({ name: "Words", words: text, weight: question.weight,
      weigh: (weight) => changed({ ...question, weight }), remove: () => changed({ ...question, text: "", weight: 1 }) }));
  }
  question.terms.forEach((given, at) => {
    const replaced = (...by) => changed({ ...question, terms: question.terms.toSpliced(at, 1, ...by) });
    row.append(term({
      name: NAMES[given.kind],
      repels: given.kind === "not" || given.kind === "unlike",
      picture: isPicture(given.kind) ? given.value : null,
      words: isPicture(given.kind) ? null : given.value,
      weight: given.weight,
      turn: () => replaced({ ...given, kind: OPPOSITE[given.kind] }),
      weigh: (weight) => replaced({ ...given, weight }),
      remove: () => replaced(),
    }));
  });
  return row;
}

function term({ name, repels = false, picture, words, weight, weigh, turn, remove }) {
  const about = words ? `“${words}”` : isId(picture ?? "") ? "this photo" : "your image";
  const times = element("output", { class: "cs-term-times" }, written(weight));
  const slider = element("input", { type: "range", min: "-2", max: "2", step: "0.5", value: String(Math.log2(weight)), "aria-label": `Weight of ${about}`, "aria-valuetext": written(weight),
    oninput: () => { times.textContent = written(2 ** Number(slider.value)); slider.setAttribute("aria-valuetext", times.textContent); },
    onchange: () => weigh(2 ** Number(slider.value)) });
  const side = turn
    ? element("button", { type: "button", class: "cs-term-side", title: repels ? "Make it attract" : "Make it repel", "aria-label": `${name} ${about}: ${repels ? "make it attract" : "make it repel"}`, onclick: turn }, icon(repels ? "minus" : "plus"), name)
    : element("span", { class: "cs-term-side" }, name);
  return element("li", { class: repels ? "cs-term cs-repels" : "cs-term" },
    picture ? thumbnailOf(picture, about) : null,
    side,
    words ? element("span", { class: "cs-term-words", title: words }, words) : null,
    slider, times,
    element("button", { type: "button", class: "cs-icon-button", "aria-label": `Remove ${about}`, title: "Remove", onclick: remove }, icon("close")));
}

function thumbnailOf(value, about) {
  const image = element("img", { class: "cs-term-picture", src: pictureOf(value), alt: about,
    onerror: () => image.replaceWith(element("span", { class: "cs-term-picture cs-term-gone", role: "img", "aria-label": `${about}, which is not there any more` }, icon("image"))) });
  return image;
}

const pictureOf = (value) => (isId(value) ? thumbnail(value) : address(`media/upload/${encodeURIComponent(value)}`));
const written = (weight) => `×${Number(weight.toPrecision(2))}`;
