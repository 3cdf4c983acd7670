// What the Search tab asks: kept as data, read from an address and written to one. The names are
// those of api/search.
//
// A question is {text, weight, terms, filters, sort, fold, cut}:
//   terms    [{kind: "plus" | "not" | "like" | "unlike", value, weight}]
//   filters  [[name, value]], in the order they were set
//   sort     "relevance" | "date"; cut: "auto" | "none"; fold: whether near-duplicates are folded

const TERMS = ["plus", "not", "like", "unlike"];
export const FILTERS = ["since", "until", "in", "camera", "near", "box", "minsize", "label", "where"];
const ONCE = ["since", "until", "near", "box", "minsize"];
const OTHERS = ["q", "sort", "fold", "cut"];
export const NAMES = [...OTHERS, ...TERMS, ...FILTERS];

export const emptyQuestion = () => ({ text: "", weight: 1, terms: [], filters: [], sort: "relevance", fold: false, cut: "auto" });

const BOOST = /^(.*\S)\s*\^\s*(\d+(?:\.\d+)?)\s*$/s;
const boosted = (value, weight) => (weight === 1 ? value : `${value}^${Number(weight.toPrecision(3))}`);

function unboosted(value) {
  const [, plain, boost] = BOOST.exec(value) ?? [null, value, "1"];
  return { value: plain.trim(), weight: Number(boost) > 0 ? Number(boost) : 1 };
}

export function readQuestion(parameters) {
  const question = { ...emptyQuestion(), text: (parameters.get("q") ?? "").trim() };
  for (const [name, value] of parameters) {
    if (!value.trim()) continue;
    if (TERMS.includes(name)) question.terms.push({ kind: name, ...unboosted(value) });
    else if (FILTERS.includes(name)) question.filters = withFilter(question.filters, name, value);
  }
  // Words with a weight are written as plus: the first of them are those of the field.
  const first = question.terms.findIndex((term) => term.kind === "plus");
  if (!question.text && first >= 0) {
    const [{ value, weight }] = question.terms.splice(first, 1);
    Object.assign(question, { text: value, weight });
  }
  if (parameters.get("sort") === "date") question.sort = "date";
  if (parameters.get("cut") === "none") question.cut = "none";
  question.fold = parameters.get("fold") === "1";
  return question;
}

export function writeQuestion(question) {
  const parameters = new URLSearchParams();
  const text = question.text.trim();
  if (text) parameters.append(question.weight === 1 ? "q" : "plus", boosted(text, question.weight));
  for (const { kind, value, weight } of question.terms) parameters.append(kind, boosted(value, weight));
  for (const [name, value] of question.filters) parameters.append(name, value);
  if (question.sort === "date" && asksAnything(question)) parameters.set("sort", "date");
  if (question.cut === "none" && asksAnything(question)) parameters.set("cut", "none");
  if (question.fold) parameters.set("fold", "1");
  return parameters;
}

// The parameters for the server. Photos that are like a photo have no sharp end: they are cut off
// only where words are asked for as well.
export function requestOf(question) {
  const parameters = writeQuestion(question);
  if (asksAnything(question)) parameters.set("cut", hasCut(question) ? "auto" : "none");
  return parameters;
}

export const asksAnything = ({ text, terms }) => Boolean(text.trim() || terms.length);
export const hasCut = (question) => question.cut === "auto" && Boolean(question.text.trim() || question.terms.some(({ kind }) => kind === "plus"));
export const isFirst = (question) => !asksAnything(question) && !question.filters.length;

export function withFilter(filters, name, value) {
  const kept = filters.filter(([other, set]) => (ONCE.includes(name) ? other !== name : other !== name || set !== value));
  return [...kept, [name, value]];
}

export const withoutFilter = (filters, name, value) => filters.filter(([other, set]) => other !== name || (value !== undefined && set !== value));
