// What all views share: building elements, showing numbers, asking the server.
// Text of the server goes into text nodes and attributes only, never through a parser of HTML.

const SVG = 'http://www.w3.org/2000/svg';

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An element of HTML. `on…` attributes are listeners; null and false leave an attribute or a child out. */
export const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

/** Sets text and attributes only where they differ: what is the same costs the browser nothing. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setAttributes(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null) node.removeAttribute(name);
    else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  }
}

const whole = new Intl.NumberFormat('en');
const digits = (value) => (value < 9.95 ? value.toFixed(1).replace(/\.0$/, '') : Math.round(value).toString());

/** 1,234,567 */
export const count = (value) => whole.format(value);

/** 1.2k, 45M */
export function short(value) {
  if (value < 999.5) return digits(value);
  if (value < 999_500) return `${digits(value / 1e3)}k`;
  if (value < 999_500_000) return `${digits(value / 1e6)}M`;
  return `${digits(value / 1e9)}G`;
}

export const rate = (value) => `${short(value)}/s`;

/** Microseconds in the unit that suits them; a dash for none. */
export function micros(value) {
  if (value === null || value === undefined) return '–';
  if (value < 999.5) return `${Math.round(value)} µs`;
  if (value < 999_500) return `${digits(value / 1e3)} ms`;
  if (value < 119_500_000) return `${digits(value / 1e6)} s`;
  if (value < 7_170_000_000) return `${Math.round(value / 6e7)} min`;
  if (value < 172_000_000_000) return `${Math.round(value / 3.6e9)} h`;
  return `${Math.round(value / 8.64e10)} d`;
}

export const millis = (value) => micros(value === null || value === undefined ? null : value * 1000);

const two = (value) => String(value).padStart(2, '0');

/** A time of day in the zone of whoever looks, with the day where that is another one. */
export function clock(ms, withSeconds = true) {
  const time = new Date(ms);
  const day = time.toDateString() === new Date().toDateString() ? '' : `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} `;
  return `${day}${two(time.getHours())}:${two(time.getMinutes())}${withSeconds ? `:${two(time.getSeconds())}` : ''}`;
}

export const VERDICTS = ['forwarded', 'finished', 'dropped', 'rejected', 'replayed', 'discarded'];

export const verdict = (name) => el('span', { class: 'verdict', 'data-verdict': name }, name);

/** What the server answers where it does not do what it was asked: its sentence, status and when to ask again. */
export class Problem extends Error {
  constructor(status, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Asks the server; gives the JSON of its answer or throws a Problem. */
export async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', credentials: 'omit', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, 'metrobus web does not answer; it may have ended');
  }
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  const retryAfter = Number(response.headers.get('retry-after')) || null;
  throw new Problem(response.status, body?.detail ?? body?.title ?? `the server answered ${response.status}`, retryAfter);
}

/** What holds for the whole page: the server's settings and the newest picture. */
export const shared = { settings: null, picture: null };

/** The path of a route: `link('dead', { stop: 'whitelist' })`. */
export function link(view, parameters) {
  const query = new URLSearchParams(Object.entries(parameters ?? {}).filter(([, value]) => value)).toString();
  return `#/${view}${query && '?'}${query}`;
}

export const stopLink = (name) => `#/stops/${encodeURIComponent(name)}`;

let said = '';
/** Tells people who listen to the page; the same sentence is said once. */
export function announce(text) {
  if (text === said) return;
  said = text;
  document.getElementById('announce').textContent = text;
}

export function toast(text, kind = 'good') {
  const note = el('div', { class: 'toast', 'data-kind': kind }, text);
  document.getElementById('toasts').append(note);
  announce(text);
  setTimeout(() => note.remove(), 8000);
}

/** A view or a table that has nothing to show says why and what to do. */
export const empty = (title, ...lines) => el('div', { class: 'empty' }, el('h2', {}, title), lines);

export const command = (text) => el('pre', { class: 'command' }, el('code', {}, text));

let close = null;

/**
 * Opens the panel at the side with this title and content. Escape and its button close it: `left` is called then;
 * `closed` is called once however it goes.
 */
export function openPanel(title, content, { closed = () => {}, left = () => {} }) {
  closePanel();
  const opener = document.activeElement;
  const leave = () => {
    closePanel();
    left();
  };
  const heading = el('h2', { id: 'panel-title', tabindex: '-1' }, title);
  const button = el('button', { type: 'button', class: 'icon', 'aria-label': 'Close', onclick: leave }, '✕');
  const panel = el('aside', { class: 'panel', role: 'dialog', 'aria-labelledby': 'panel-title' }, el('header', {}, heading, button), content);
  const onkey = (event) => {
    if (event.key === 'Escape' && !document.querySelector('dialog[open]')) leave();
  };
  document.addEventListener('keydown', onkey);
  document.body.append(panel);
  heading.focus({ preventScroll: true });
  close = () => {
    close = null;
    document.removeEventListener('keydown', onkey);
    panel.remove();
    closed();
    if (opener?.isConnected) opener.focus({ preventScroll: true });
  };
}

export function closePanel() {
  close?.();
}
