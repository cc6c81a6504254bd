// The view of the map: what flows in all, the map, its stops as a table, and why messages do not arrive.

import { closePanel, clock, command, count, el, empty, link, micros, millis, openPanel, rate, setAttributes, setText, short, stopLink, svg, verdict } from './common.js';
import { createMap, spark } from './map.js';
import { stopPanel } from './stop.js';

const COLUMNS = [
  { name: 'Stop', of: (row) => row.name, text: true },
  { name: 'Messages', of: (row) => row.count },
  { name: 'Rate', of: (row) => row.rate },
  { name: 'Trend', of: null },
  { name: 'p50', of: (row) => row.took_us?.p50 ?? -1 },
  { name: 'p99', of: (row) => row.took_us?.p99 ?? -1 },
  { name: 'Age p99', of: (row) => row.age_ms?.p99 ?? -1 },
  { name: 'Waiting', of: (row) => row.waiting },
  { name: 'Dropped', of: (row) => row.verdicts.dropped?.count ?? 0 },
  { name: 'Rejected', of: (row) => row.verdicts.rejected?.count ?? 0 },
];

const REASONS = 10;

/** Sums over all stops: what comes in, what comes to its end, what waits. */
function totals(picture) {
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const of = (name) => ({ rate: sum(picture.stops.map((stop) => stop.verdicts[name]?.rate ?? 0)), count: sum(picture.stops.map((stop) => stop.verdicts[name]?.count ?? 0)) });
  const fed = new Set(picture.edges.filter((edge) => edge.verdict && edge.verdict !== 'replayed').map((edge) => edge.to));
  const coming = picture.edges.filter((edge) => !edge.verdict && !fed.has(edge.from));
  const ends = picture.stops.filter((stop) => stop.verdicts.finished?.count > 0 && stop.age_ms);
  return {
    coming: { rate: sum(coming.map((edge) => edge.rate)), count: sum(coming.map((edge) => edge.count)) },
    finished: of('finished'), dropped: of('dropped'), rejected: of('rejected'),
    waiting: sum(picture.topics.map((topic) => topic.lag ?? 0)),
    age: ends.length ? Math.max(...ends.map((stop) => stop.age_ms.p99)) : null,
    typical: ends.length ? Math.max(...ends.map((stop) => stop.age_ms.p50)) : null,
  };
}

function tiles() {
  const tile = (label, kind) => {
    const [value, more] = [el('b', {}), el('span', { class: 'more' })];
    return { value, more, element: el('div', { class: 'tile', 'data-kind': kind }, el('span', { class: 'label' }, label), value, more) };
  };
  const all = { coming: tile('Coming in'), finished: tile('Finished', 'finished'), dropped: tile('Dropped', 'dropped'), rejected: tile('Rejected', 'rejected'), waiting: tile('Waiting'), age: tile('Whole journey') };
  const element = el('section', { class: 'tiles', 'aria-label': 'In all' }, Object.values(all).map((one) => one.element));
  const update = (picture) => {
    const now = totals(picture);
    for (const name of ['coming', 'finished', 'dropped', 'rejected']) {
      setText(all[name].value, rate(now[name].rate));
      setText(all[name].more, `${count(now[name].count)} in all`);
      all[name].element.classList.toggle('quiet', now[name].count === 0);
    }
    setText(all.waiting.value, short(now.waiting));
    setText(all.waiting.more, now.waiting === 1 ? 'message on a topic' : 'messages on topics');
    setText(all.age.value, millis(now.typical));
    setText(all.age.more, now.age === null ? 'no message has finished' : `p50; p99 ${millis(now.age)}`);
  };
  return { element, update };
}

/** The stops as a table, sorted by travel or by a column. */
function stopTable(map) {
  const rows = new Map();
  let sorting = { column: null, down: true };
  let arranged = 0;
  const body = el('tbody');
  const heads = COLUMNS.map((column, index) => el('th', { scope: 'col', class: column.text ? null : 'number' }, column.of
    ? el('button', { type: 'button', onclick: () => sort(index) }, column.name) : column.name));
  const table = el('table', {}, el('caption', { class: 'unseen' }, 'Stops'), el('thead', {}, el('tr', {}, heads)), body);
  const element = el('section', { class: 'card', 'aria-labelledby': 'stops-title' }, el('h2', { id: 'stops-title' }, 'Stops'), el('div', { class: 'scroll' }, table));

  function sort(index) {
    const down = sorting.column === index ? !sorting.down : !COLUMNS[index].text;
    sorting = sorting.column === index && down === !COLUMNS[index].text ? { column: null } : { column: index, down };
    heads.forEach((head, at) => setAttributes(head, { 'aria-sort': at !== sorting.column ? null : sorting.down ? 'descending' : 'ascending' }));
    arranged = 0;
  }

  function makeRow(name) {
    const cells = COLUMNS.map((column) => el('td', { class: column.text ? null : 'number' }));
    const line = svg('path');
    cells[0].append(el('a', { href: stopLink(name) }, name));
    cells[3].append(svg('svg', { viewBox: '0 0 90 20', width: 90, height: 20, class: 'sparkline', 'aria-hidden': 'true' }, line));
    return { element: el('tr', {}, cells), cells, line };
  }

  function update(picture) {
    const lags = new Map(picture.topics.map((topic) => [topic.name, topic.lag ?? 0]));
    const stops = picture.stops.map((stop) => ({ ...stop, waiting: stop.topics.reduce((sum, topic) => sum + (lags.get(topic) ?? 0), 0) }));
    for (const stop of stops) {
      if (!rows.has(stop.name)) rows.set(stop.name, makeRow(stop.name));
      const { cells, line } = rows.get(stop.name);
      const bad = (found) => (found?.count ? `${short(found.count)}${found.rate > 0 ? ` (${rate(found.rate)})` : ''}` : '–');
      const texts = [null, count(stop.count), rate(stop.rate), null, micros(stop.took_us?.p50), micros(stop.took_us?.p99), millis(stop.age_ms?.p99),
        count(stop.waiting), bad(stop.verdicts.dropped), bad(stop.verdicts.rejected)];
      texts.forEach((text, index) => { if (text !== null) setText(cells[index], text); });
      cells[8].classList.toggle('dropped', stop.verdicts.dropped?.count > 0);
      cells[9].classList.toggle('rejected', stop.verdicts.rejected?.count > 0);
      setAttributes(line, { d: spark(map.history.get(stop.name) ?? [], 88, 17) });
    }
    // Rows that move under the pointer are hard to hit: seldom
    if (Date.now() - arranged < 2000 && stops.length === body.children.length) return;
    arranged = Date.now();
    const travel = map.stops();
    const column = COLUMNS[sorting.column];
    const compare = (a, b) => {
      const [x, y] = [column.of(a), column.of(b)];
      return (x < y ? -1 : x > y ? 1 : 0) * (sorting.down ? -1 : 1) || a.name.localeCompare(b.name);
    };
    stops.sort(column ? compare : (a, b) => travel.indexOf(a.name) - travel.indexOf(b.name));
    const wanted = stops.map((stop) => rows.get(stop.name).element);
    if (wanted.some((row, index) => body.children[index] !== row) || body.children.length !== wanted.length) body.replaceChildren(...wanted);
  }
  return { element, update };
}

/** Why messages were dropped or rejected, the most frequent reason first. */
function reasonList() {
  const list = el('ol', { class: 'reasons' });
  const element = el('section', { class: 'card', 'aria-labelledby': 'reasons-title' }, el('h2', { id: 'reasons-title' }, 'Why messages do not arrive'), list);
  const lines = new Map();
  const make = ({ stop, verdict: name, reason }) => {
    const [number, flow] = [el('b'), el('span', { class: 'more' })];
    const what = name === 'rejected' ? el('a', { href: link('dead', { reason, stop }) }, reason || 'no reason') : el('span', {}, reason || 'no reason');
    return { number, flow, element: el('li', {}, el('span', { class: 'what' }, verdict(name), what, el('a', { class: 'at', href: stopLink(stop) }, stop)), el('span', { class: 'how-many' }, number, flow)) };
  };
  const none = el('p', { class: 'muted' }, 'All messages arrive: none was dropped or rejected.');
  const update = (picture) => {
    const all = picture.stops.flatMap((stop) => stop.reasons.map((reason) => ({ ...reason, stop: stop.name })));
    all.sort((a, b) => b.count - a.count);
    const wanted = all.slice(0, REASONS).map((one) => {
      const key = `${one.stop}\n${one.verdict}\n${one.reason}`;
      if (!lines.has(key)) lines.set(key, make(one));
      const line = lines.get(key);
      setText(line.number, count(one.count));
      setText(line.flow, one.rate > 0 ? rate(one.rate) : '');
      return line.element;
    });
    if (wanted.length === 0) wanted.push(none);
    if (wanted.some((line, index) => list.children[index] !== line) || list.children.length !== wanted.length) list.replaceChildren(...wanted);
  };
  return { element, update };
}

const noMessages = () => empty('No message has come yet',
  el('p', {}, 'The map draws itself from what stops write to the journal. Let the stops run, and push some messages:'),
  command('metrobus run'), command('metrobus pusher --count 1000 --rate 100'),
  el('p', { class: 'muted' }, 'This page shows them as they come; nothing is to be reloaded.'));

const journalOff = () => empty('The journal is off',
  el('p', {}, 'The map, journeys and recent messages are read from the journal, and the configuration turns it off. Turn it on and restart the stops:'),
  command('[journal]\nlevel = "all"'));

export function createOverview() {
  const map = createMap((name) => { location.hash = stopLink(name); }, () => { location.hash = link('dead'); });
  const parts = [tiles(), map, stopTable(map), reasonList()];
  const since = el('p', { class: 'since' });
  const content = el('div', { class: 'overview' }, parts[0].element, map.element, el('div', { class: 'below' }, since, map.tools), el('div', { class: 'columns' }, parts[2].element, parts[3].element));
  const loading = el('p', { class: 'muted loading' }, 'Reading the journal …');
  const element = el('div', {}, el('h1', { class: 'unseen' }, 'Map'), loading);
  loading.kind = 'loading';
  let shown = loading;
  let panel = null;

  function swap(kind, make) {
    if (shown.kind === kind) return;
    const next = make();
    next.kind = kind;
    shown.replaceWith(next);
    shown = next;
  }

  return {
    title: 'Map',
    element,
    enter(route) {
      map.fit();
      panel = null;
      if (route.name === null) return;
      const stop = stopPanel(route.name);
      panel = stop;
      openPanel(route.name, stop.element, {
        closed: () => {
          stop.end();
          panel = null;
        },
        left: () => { location.hash = link('map'); },
      });
    },
    leave() {
      closePanel();
    },
    update(picture) {
      if (map.isEmpty(picture)) {
        const off = picture.journal.level === 'off';
        const unknown = !off && !picture.journal.ok && !picture.bus.error && !picture.journal.error;
        if (unknown) return swap('loading', () => loading);
        return swap(off ? 'off' : 'none', off ? journalOff : noMessages);
      }
      const first = shown !== content;
      swap('map', () => content);
      for (const part of parts) part.update(picture);
      if (first) map.fit();
      setText(since, `Counts since ${clock(picture.since)}; rates of the last 5 s, p50 and p99 of the last minute with messages.`);
      panel?.update(picture);
      return undefined;
    },
  };
}
