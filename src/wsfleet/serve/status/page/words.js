// Formats numbers and times, and creates elements. Text from peers is always inserted as text, never as markup.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const NONE = "–";

/** Create an element. String children become text, never markup. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** Change a text only if it differs, which keeps the selection and does not interrupt screen readers. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export const count = (n) => (Math.abs(n) < 1e7 ? whole.format(n) : short.format(n));
export const compact = (n) => (rounded(n) < 1000 ? three.format(n) : short.format(Math.max(n, rounded(n))));
/** Round to three digits before choosing a unit: 999.6 becomes 1 of the next unit. */
const rounded = (n) => Number(n.toPrecision(3));

/** "1 endpoint", "3,000 endpoints". */
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

export function bytes(n) {
  let unit = 0;
  while (n >= 1024 && unit < 5) {
    n /= 1024;
    unit += 1;
  }
  return `${unit ? three.format(n) : n} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
}

/** Format a short time with three digits: latencies, lags. */
export function seconds(s) {
  if (s === null || s === undefined) return NONE;
  if (s === 0) return "0 s";
  const about = rounded(s);
  if (about < 1e-3) return `${three.format(s * 1e6)} µs`;
  if (about < 1) return `${three.format(s * 1e3)} ms`;
  return about < 60 ? `${three.format(s)} s` : duration(Math.max(about, s));
}

/** Format a long time in its two largest units. */
export function duration(s) {
  s = Math.max(0, Math.floor(s));
  const parts = [[Math.floor(s / 86400), "d"], [Math.floor(s / 3600) % 24, "h"], [Math.floor(s / 60) % 60, "min"], [s % 60, "s"]];
  const first = parts.findIndex(([n]) => n > 0);
  if (first < 0) return "0 s";
  return parts.slice(first, first + 2).filter(([n]) => n > 0).map(([n, unit]) => `${n} ${unit}`).join(" ");
}

/** "in 12 s": when an endpoint is connected again. */
export const nextAttempt = (next, now) => (next - now < 1 ? "now" : `in ${duration(next - now)}`);

const two = (n) => String(n).padStart(2, "0");

/** Format wall clock seconds as local time, with the date if it is more than twelve hours away. */
export function clock(at, { withSeconds = true } = {}) {
  const date = new Date(at * 1000);
  const time = `${two(date.getHours())}:${two(date.getMinutes())}${withSeconds ? `:${two(date.getSeconds())}` : ""}`;
  const far = Math.abs(Date.now() / 1000 - at) > 43200;
  return far ? `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${time}` : time;
}
