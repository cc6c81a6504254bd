// The panel of one stop: its numbers over the last hour, what became of its messages and why, the newest of them.

import { ask, clock, count, el, link, micros, millis, rate, setText, short, svg, verdict, VERDICTS } from './common.js';

const REFRESH = 3000;
const MINUTE = 60_000;
const CHART = { width: 420, height: 110, minutes: 60 };

/** Bars of a minute each by verdict, with the times below. */
function bars(minutes, now) {
  const first = Math.floor(now / MINUTE) * MINUTE - (CHART.minutes - 1) * MINUTE;
  const total = (minute) => VERDICTS.reduce((sum, name) => sum + (minute[name] ?? 0), 0);
  const top = Math.max(1, ...minutes.map(total));
  const step = CHART.width / CHART.minutes;
  const chart = svg('svg', { class: 'chart', viewBox: `0 0 ${CHART.width} ${CHART.height + 18}`, role: 'img',
    'aria-label': `Messages a minute over the last hour, at most ${count(top)}` });
  for (const part of [0, 0.5, 1]) chart.append(svg('line', { class: 'rule', x1: 0, x2: CHART.width, y1: CHART.height * part + 0.5, y2: CHART.height * part + 0.5 }));
  for (const minute of minutes) {
    const x = ((minute.time - first) / MINUTE) * step;
    if (x < -0.01) continue;
    let y = CHART.height;
    const words = [`${clock(minute.time, false)}: ${count(total(minute))} messages`];
    const bar = svg('g');
    for (const name of VERDICTS) {
      if (!minute[name]) continue;
      const high = Math.max(0.8, (minute[name] / top) * (CHART.height - 4));
      y -= high;
      bar.append(svg('rect', { 'data-verdict': name, x: (x + 0.6).toFixed(2), y: y.toFixed(2), width: (step - 1.2).toFixed(2), height: high.toFixed(2), rx: 1 }));
      words.push(`${name} ${count(minute[name])}`);
    }
    if (minute.took_us) words.push(`p50 ${micros(minute.took_us.p50)}, p99 ${micros(minute.took_us.p99)}`);
    bar.prepend(svg('title', {}, words.join('\n')));
    chart.append(bar);
  }
  for (let tick = 0; tick <= CHART.minutes; tick += 15) {
    const anchor = tick === 0 ? 'start' : tick === CHART.minutes ? 'end' : 'middle';
    chart.append(svg('text', { x: tick * step, y: CHART.height + 14, 'text-anchor': anchor }, tick === CHART.minutes ? 'now' : clock(first + tick * MINUTE, false)));
  }
  chart.append(svg('text', { x: 0, y: 11, class: 'top' }, `${short(top)} a minute`));
  return chart;
}

/** p50 and p99 of each minute, on a scale of tens. */
function lines(minutes, now) {
  const known = minutes.filter((minute) => minute.took_us);
  if (known.length === 0) return null;
  const first = Math.floor(now / MINUTE) * MINUTE - (CHART.minutes - 1) * MINUTE;
  const step = CHART.width / CHART.minutes;
  const high = 78;
  const log = (value) => Math.log10(Math.max(1, value));
  const least = Math.floor(Math.min(...known.map((minute) => log(minute.took_us.p50))));
  const most = Math.max(least + 1, Math.ceil(Math.max(...known.map((minute) => log(minute.took_us.p99)))));
  const y = (value) => 14 + (high - 18) * (1 - (log(value) - least) / (most - least));
  const chart = svg('svg', { class: 'chart', viewBox: `0 0 ${CHART.width} ${high + 4}`, role: 'img', 'aria-label': 'p50 and p99 of the time that a message took, by minute over the last hour' });
  for (let ten = least; ten <= most; ten++) {
    chart.append(svg('line', { class: 'rule', x1: 0, x2: CHART.width, y1: y(10 ** ten), y2: y(10 ** ten) }), svg('text', { x: 0, y: y(10 ** ten) - 3 }, micros(10 ** ten)));
  }
  for (const name of ['p50', 'p99']) {
    const points = known.map((minute) => [((minute.time - first) / MINUTE + 0.5) * step, y(minute.took_us[name])]).filter(([x]) => x > 0);
    chart.append(svg('path', { class: name, d: points.map(([x, at], index) => `${index ? 'L' : 'M'}${x.toFixed(1)} ${at.toFixed(1)}`).join('') }));
    for (const [x, at] of points) chart.append(svg('circle', { class: name, cx: x.toFixed(1), cy: at.toFixed(1), r: points.length > 20 ? 1 : 2 }));
  }
  return el('figure', {}, el('figcaption', {}, 'Time taken by minute: ', el('span', { class: 'key p50' }, 'p50'), ' ', el('span', { class: 'key p99' }, 'p99')), chart);
}

function recentTable(recent) {
  if (recent.length === 0) return el('p', { class: 'muted' }, 'None yet.');
  const row = (message) => el('tr', {},
    el('td', {}, clock(message.time_us / 1000)),
    el('td', {}, el('a', { class: 'mono', href: link('journeys', { id: message.id ?? message.place }), title: message.id ?? message.place }, message.id ? `…${message.id.slice(-12)}` : message.place)),
    el('td', {}, verdict(message.verdict), ' ', el('span', { class: 'muted' }, message.reason ?? (message.next ? `to ${message.next}` : ''))),
    el('td', { class: 'number' }, micros(message.took_us)));
  return el('table', {}, el('caption', { class: 'unseen' }, 'Recent messages'),
    el('thead', {}, el('tr', {}, ['Time', 'Message', 'What'].map((name) => el('th', { scope: 'col' }, name)), el('th', { scope: 'col', class: 'number' }, 'Took'))),
    el('tbody', {}, recent.map(row)));
}

/** The content of the panel, which asks for news until `end()`. */
export function stopPanel(name) {
  const numbers = el('dl', { class: 'numbers' });
  const hour = el('div');
  const reasons = el('div');
  const recent = el('div', { class: 'scroll' });
  const element = el('div', { class: 'content' }, numbers, hour, reasons, el('h3', {}, 'Recent messages'), recent);
  let timer = null;
  let ended = false;

  const values = new Map();
  const number = (label, value) => {
    if (!values.has(label)) {
      values.set(label, el('dd'));
      numbers.append(el('div', {}, el('dt', {}, label), values.get(label)));
    }
    setText(values.get(label), value);
  };

  async function refresh() {
    let found;
    try {
      found = await ask(`api/stops/${encodeURIComponent(name)}`);
    } catch (problem) {
      if (ended) return;
      if (problem.status === 404) hour.replaceChildren(el('p', { class: 'note' }, problem.message));
      timer = setTimeout(refresh, REFRESH);
      return;
    }
    if (ended) return;
    const now = Date.now();
    hour.replaceChildren(el('h3', {}, 'The last hour'),
      el('figure', {}, el('figcaption', {}, 'Messages a minute: ', VERDICTS.filter((one) => found.minutes.some((minute) => minute[one])).map((one) => [el('span', { class: 'key', 'data-verdict': one }, one), ' '])), bars(found.minutes, now)),
      lines(found.minutes, now) ?? '');
    // What is being read, or reached by the keyboard, is not exchanged below the reader
    if (!recent.contains(document.activeElement) && !recent.matches(':hover')) recent.replaceChildren(recentTable(found.recent));
    timer = setTimeout(refresh, REFRESH);
  }
  refresh();

  let told = '';
  return {
    element,
    update(picture) {
      const stop = picture.stops.find((one) => one.name === name);
      if (!stop) return;
      number('Rate', rate(stop.rate));
      number('Messages', count(stop.count));
      number('Took p50', micros(stop.took_us?.p50));
      number('Took p99', micros(stop.took_us?.p99));
      number('Age p50', millis(stop.age_ms?.p50));
      number('Age p99', millis(stop.age_ms?.p99));
      const seen = JSON.stringify(stop.reasons.map(({ verdict: what, reason, count: many }) => [what, reason, many]));
      if (seen === told || reasons.contains(document.activeElement)) return;
      told = seen;
      reasons.replaceChildren();
      if (stop.reasons.length === 0) return;
      const line = (reason) => el('tr', {}, el('td', {}, verdict(reason.verdict)),
        el('td', {}, reason.verdict === 'rejected' ? el('a', { href: link('dead', { reason: reason.reason, stop: name }) }, reason.reason) : reason.reason),
        el('td', { class: 'number' }, count(reason.count)));
      reasons.append(el('h3', {}, 'Why'), el('table', {}, el('caption', { class: 'unseen' }, 'Reasons'),
        el('thead', { class: 'unseen' }, el('tr', {}, ['Verdict', 'Reason', 'Messages'].map((head) => el('th', { scope: 'col' }, head)))), el('tbody', {}, stop.reasons.map(line))));
    },
    end() {
      ended = true;
      clearTimeout(timer);
    },
  };
}
