// How numbers, dates and sizes are written on the page.

export const count = (number) => number.toLocaleString("en");

// "1 photo", "2,000 photos".
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

// Dates of photos are the wall clock where they were taken, without a zone: they are read as UTC
// and written as UTC, so that no browser moves them.
function moment(iso) {
  const time = new Date(/(Z|[+-]\d\d:?\d\d)$/.test(iso) ? iso : `${iso}${iso.includes("T") ? "" : "T00:00:00"}Z`);
  return Number.isNaN(time.getTime()) ? null : time;
}

const DAY = { day: "numeric", month: "short", year: "numeric", timeZone: "UTC" };

export const day = (iso) => moment(iso)?.toLocaleDateString("en-GB", DAY) ?? "";
export const dayAndTime = (iso) => moment(iso)?.toLocaleString("en-GB", { ...DAY, weekday: "short", hour: "2-digit", minute: "2-digit" }) ?? "";

const AGES = [[60, 1, "second"], [3600, 60, "minute"], [86400, 3600, "hour"], [604800, 86400, "day"], [2629800, 604800, "week"], [31557600, 2629800, "month"], [Infinity, 31557600, "year"]];

// "2 hours ago", of an ISO time in UTC.
export function ago(iso) {
  const seconds = (Date.now() - (moment(iso)?.getTime() ?? NaN)) / 1000;
  if (!Number.isFinite(seconds)) return "";
  if (seconds < 60) return "just now";
  const [, unit, name] = AGES.find(([most]) => seconds < most);
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.floor(seconds / unit), name);
}

export function bytes(number) {
  if (number < 1000) return counted(number, "byte");
  const power = Math.min(4, Math.floor(Math.log10(number) / 3));
  const value = number / 1000 ** power;
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${["", "kB", "MB", "GB", "TB"][power]}`;
}

export const score = (number) => number.toFixed(3);
