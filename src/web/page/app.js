// The frame of the page: routes, the stream of pictures, the state of bus and connection.

import { announce, ask, closePanel, el, setText, shared } from './common.js';
import { createDead, takeToken } from './dead.js';
import { createJourneys } from './journeys.js';
import { createOverview } from './overview.js';

const SILENCE = 25_000; // a picture comes each 10 s at least
const AGAIN = 2000;

const views = { map: createOverview, stops: createOverview, journeys: createJourneys, dead: createDead };
const made = new Map();
const main = document.getElementById('main');
let current = null;
let waiting = false;

// Routes: #/map, #/stops/NAME, #/journeys?key=7, #/dead?reason=…

function parse(hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [view, name] = path.split('/');
  const known = Object.hasOwn(views, view) ? view : 'map';
  let decoded = null;
  try {
    decoded = known === 'stops' && name ? decodeURIComponent(name) : null;
  } catch { /* not of our making: the map alone */ }
  return { view: known, name: decoded, parameters: new URLSearchParams(query), hash };
}

function go() {
  const route = parse(location.hash);
  const create = views[route.view];
  if (!made.has(create)) made.set(create, create());
  const next = made.get(create);
  if (next !== current) {
    current?.leave();
    current = next;
    main.replaceChildren(next.element);
    document.title = `${next.title} · metrobus`;
    for (const link of document.querySelectorAll('nav a')) {
      const here = views[link.dataset.view] === create;
      if (here) link.setAttribute('aria-current', 'page');
      else link.removeAttribute('aria-current');
    }
    scrollTo(0, 0);
  } else {
    closePanel();
  }
  next.enter(route);
  if (shared.picture) next.update(shared.picture);
}

// The picture: drawn once a frame at most, and only the newest

function take(event) {
  heard();
  shared.picture = JSON.parse(event.data);
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    draw(shared.picture);
  });
}

function draw(picture) {
  current?.update(picture);
  banners(picture);
}

function banners(picture) {
  const found = [];
  // Neither well nor with an error is one that has not been looked at yet
  const away = picture.bus.error ?? (picture.bus.ok ? null : picture.journal.error);
  if (away) found.push(['bad', 'The bus is away', `${away}. This page goes on by itself once it is back.`]);
  else if (picture.journal.error) found.push(['bad', 'The journal cannot be read', `${picture.journal.error}.`]);
  if (picture.journal.level === 'off' && current?.title !== 'Dead letters') found.push(['warn', 'The journal is off', 'Set journal.level = "all" and restart the stops: the map and journeys are made of it.']);
  if (picture.journal.level === 'ends') found.push(['warn', 'The journal has only the ends of journeys', 'Set journal.level = "all" to see how messages travel.']);
  const place = document.getElementById('banners');
  const now = JSON.stringify(found);
  if (place.dataset.shown === now) return;
  place.dataset.shown = now;
  place.replaceChildren(...found.map(([kind, title, text]) => el('div', { class: 'banner', 'data-kind': kind }, el('b', {}, title), ' ', el('span', {}, text))));
  if (found.length) announce(`${found[0][1]}: ${found[0][2]}`);
  else announce('All is well');
}

// The stream

const live = document.getElementById('live');
let source = null;
let silence = null;
let lost = false;

function state(name, text) {
  if (live.dataset.state === name) return;
  const before = live.dataset.state;
  live.dataset.state = name;
  setText(live.lastElementChild, text);
  document.body.classList.toggle('stale', name === 'lost');
  if (name === 'lost') lost = true;
  if (name === 'lost') announce('The connection is lost; reconnecting');
  if (name === 'live' && before === 'lost') announce('Connected again');
}

function heard() {
  state('live', 'live');
  clearTimeout(silence);
  silence = setTimeout(connect, SILENCE);
}

function connect() {
  source?.close();
  clearTimeout(silence);
  if (live.dataset.state === 'live') state('lost', 'reconnecting');
  source = new EventSource('api/events');
  source.addEventListener('map', take);
  source.addEventListener('open', () => { if (lost) settings(); });
  source.addEventListener('error', () => {
    state('lost', 'reconnecting');
    clearTimeout(silence);
    // A stream that was refused does not come back by itself
    silence = setTimeout(connect, source.readyState === EventSource.CLOSED ? AGAIN : SILENCE);
  });
}

async function settings() {
  try {
    const found = await ask('api/settings');
    shared.settings = found;
    setText(document.getElementById('version'), `metrobus ${found.version}`);
    setText(document.getElementById('engine'), found.bus === 'kafka' ? 'Kafka' : 'SQLite');
  } catch { /* the stream says that it is lost */ }
}

// The theme: as the system, light, dark

const THEMES = ['system', 'light', 'dark'];
const button = document.getElementById('theme');

function theme(wanted) {
  if (wanted === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  const label = wanted === 'system' ? 'Theme: as the system' : `Theme: ${wanted}`;
  button.setAttribute('aria-label', label);
  button.title = label;
}

button.addEventListener('click', () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? 'system') + 1) % THEMES.length];
  theme(next);
  try {
    localStorage.setItem('theme', next);
  } catch { /* storage is off: for this page only */ }
});
theme(document.documentElement.dataset.theme ?? 'system');

document.querySelector('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});

takeToken();
addEventListener('hashchange', () => {
  takeToken();
  go();
});
// What the views say depends on the settings: nothing moves when they come
settings().finally(() => {
  go();
  connect();
});
