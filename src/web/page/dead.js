// Dead letters: a list with filters, each letter with its history, replay and discard.

import { announce, ask, clock, closePanel, count, el, empty, link, openPanel, Problem, setText, shared, stopLink, toast, verdict } from './common.js';

const REFRESH = 5000;
const PAGE = 50;
const SPANS = [['', 'any time'], ['15m', 'the last 15 minutes'], ['1h', 'the last hour'], ['1d', 'the last day'], ['7d', 'the last 7 days']];
const OFF = 'Acting is off here: set web.token or web.token_file (METROBUS__WEB__TOKEN), and restart metrobus web.';

/** The token that acting needs, for this tab only. */
const token = {
  get: () => sessionStorage.getItem('token'),
  set: (value) => sessionStorage.setItem('token', value),
  forget: () => sessionStorage.removeItem('token'),
};

/** Takes the token out of the address (#token=…), where it would stay in the history. */
export function takeToken() {
  const found = /^#token=(.+)$/.exec(location.hash);
  if (!found) return;
  history.replaceState(null, '', location.pathname + link('map'));
  try {
    token.set(decodeURIComponent(found[1]));
  } catch {
    token.set(found[1]);
  }
}

/** Shows a dialog; gives what its form answers, null where it was left. `check(dialog)` may look at it first. */
function dialog(title, content, buttons, opened = () => {}) {
  return new Promise((resolve) => {
    const form = el('form', { method: 'dialog' }, el('h2', { id: 'dialog-title' }, title), content,
      el('div', { class: 'buttons' }, el('button', { type: 'button', onclick: () => box.close() }, 'Cancel'), buttons));
    const box = el('dialog', { 'aria-labelledby': 'dialog-title' }, form);
    let answer = null;
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      answer = new FormData(form);
      box.close();
    });
    box.addEventListener('close', () => {
      box.remove();
      resolve(answer);
    });
    document.body.append(box);
    box.showModal();
    opened(form);
  });
}

async function askForToken(why) {
  const input = el('input', { type: 'password', name: 'token', id: 'token', required: true, autocomplete: 'off' });
  const answer = await dialog('Token', [why && el('p', { class: 'note' }, why),
    el('label', { for: 'token' }, 'The value of web.token. It is kept in this tab until you close it.'), input], el('button', { type: 'submit', class: 'primary' }, 'Go on'), () => input.focus());
  if (!answer) return false;
  token.set(String(answer.get('token')).trim());
  return true;
}

/** Asks for something to be done, and for the token where it is missing or wrong. Null where that was left. */
async function act(what, body) {
  let why = null;
  for (;;) {
    if (!token.get() && !(await askForToken(why))) return null;
    try {
      return await ask(`api/dead/${what}`, { method: 'POST', headers: { authorization: `Bearer ${token.get()}`, 'content-type': 'application/json' }, body: JSON.stringify(body) });
    } catch (problem) {
      if (problem.status !== 401) throw problem;
      token.forget();
      why = problem.message;
    }
  }
}

const messages = (number) => `${count(number)} ${number === 1 ? 'dead letter' : 'dead letters'}`;

/** ` to AddEmail`, or how many to each of several topics. */
function where(topics) {
  const all = Object.entries(topics ?? {});
  const to = all.length === 1 ? all[0][0] : all.map(([topic, number]) => `${topic} ${count(number)}`).join(', ');
  return to && ` to ${to}`;
}

/** What an answer says was done, or would be. */
function told(answer) {
  const lines = [el('p', {}, el('b', {}, messages(answer.done)), where(answer.topics))];
  if (answer.before) lines.push(el('p', { class: 'muted' }, `${messages(answer.before)} ${answer.before === 1 ? 'was' : 'were'} dealt with before.`));
  if (answer.left.length) {
    lines.push(el('p', {}, `${messages(answer.left.length)} cannot be sent and ${answer.left.length === 1 ? 'stays' : 'stay'}:`),
      el('ul', {}, answer.left.slice(0, 8).map((one) => el('li', {}, el('span', { class: 'mono' }, one.place), ' ', one.reason))));
  }
  return lines;
}

/** The dialog of a replay: where to, what would happen, and the button for it. */
async function replay(places, done) {
  const stops = (shared.picture?.stops ?? []).map((stop) => stop.name);
  const preview = el('div', { class: 'preview', role: 'status' });
  const from = el('input', { name: 'from', list: 'stops-known', 'aria-label': 'The stop', autocomplete: 'off', spellcheck: 'false', placeholder: 'a stop of its route' });
  const go = el('button', { type: 'submit', class: 'primary', disabled: true }, 'Replay');
  const way = (value, text, more) => el('label', { class: 'choice' }, el('input', { type: 'radio', name: 'way', value, checked: value === 'same' }), el('span', {}, text, more));
  const body = (form) => {
    const data = new FormData(form);
    const other = data.get('way') === 'from' ? String(data.get('from')).trim() : null;
    return data.get('way') === 'from' && !other ? null : { places, from_stop: other, replan: data.get('way') === 'replan' };
  };
  let turn = 0;
  async function look(form) {
    const mine = ++turn;
    const wanted = body(form);
    go.disabled = true;
    if (!wanted) return preview.replaceChildren(el('p', { class: 'muted' }, 'Name the stop that is to see them first.'));
    preview.replaceChildren(el('p', { class: 'muted' }, 'Looking at what would happen …'));
    try {
      const answer = await act('replay', { ...wanted, dry_run: true });
      if (mine !== turn) return undefined;
      if (!answer) return preview.replaceChildren(el('p', { class: 'muted' }, 'It needs the token.'));
      preview.replaceChildren(el('p', { class: 'muted' }, 'This would send'), ...told(answer));
      go.disabled = answer.done === 0;
      setText(go, answer.done ? `Replay ${count(answer.done)}` : 'Replay');
    } catch (problem) {
      if (mine === turn) preview.replaceChildren(el('p', { class: 'note bad' }, problem.message));
    }
    return undefined;
  }
  let wanted = null;
  const answer = await dialog(`Replay ${messages(places.length)}`, [
    el('fieldset', {}, el('legend', {}, 'Where to?'),
      way('same', 'To the stop that rejected it', el('small', {}, 'with the rest of its route')),
      way('from', 'From another stop of its route', from),
      way('replan', 'Through the rules once more', el('small', {}, 'as the configuration has them now'))),
    el('datalist', { id: 'stops-known' }, stops.map((stop) => el('option', { value: stop }))), preview,
  ], go, (form) => {
    let timer = null;
    from.addEventListener('focus', () => { form.elements.way.value = 'from'; });
    form.addEventListener('input', () => {
      clearTimeout(timer);
      timer = setTimeout(() => look(form), 250);
    });
    form.addEventListener('submit', () => { wanted = body(form); });
    look(form);
  });
  if (!answer || !wanted) return;
  await finish('replay', { ...wanted, dry_run: false }, 'Replayed', done);
}

async function discard(places, done) {
  const answer = await dialog(`Discard ${messages(places.length)}?`, [
    el('p', {}, 'They are given up: marked as discarded, and no longer offered for replay. This cannot be taken back. Their records stay on the topic.'),
  ], el('button', { type: 'submit', class: 'danger' }, `Discard ${count(places.length)}`));
  if (answer) await finish('discard', { places, dry_run: false }, 'Discarded', done);
}

async function finish(what, body, word, done) {
  try {
    const answer = await act(what, body);
    if (!answer) return;
    const left = answer.left.length ? `; ${messages(answer.left.length)} stayed: ${answer.left[0].reason}` : '';
    toast(`${word} ${messages(answer.done)}${what === 'replay' ? where(answer.topics) : ''}${left}`, answer.left.length ? 'warn' : 'good');
  } catch (problem) {
    toast(problem.message, 'bad');
  }
  done();
}

/** The content of the panel of one letter. */
function letterPanel(place, acting, again) {
  const element = el('div', { class: 'content' }, el('p', { class: 'muted' }, 'Reading …'));
  const row = (name, ...value) => el('div', {}, el('dt', {}, name), el('dd', {}, value));
  const text = (name, value) => (value === null || value === undefined ? null : [el('h3', {}, name), el('pre', { class: 'payload', tabindex: '0', 'aria-label': name }, typeof value === 'string' ? value : JSON.stringify(value, null, 2))]);
  const headers = (found) => {
    if (!found) return null;
    const pairs = Array.isArray(found) ? found.map((one) => (Array.isArray(one) ? one : [one.name, one.value])) : Object.entries(found);
    return [el('h3', {}, 'Record headers'), el('dl', { class: 'facts' }, pairs.map(([name, value]) => row(name, String(value ?? ''))))];
  };
  async function refresh() {
    try {
      const letter = await ask(`api/dead/${place}`);
      const open = letter.done === null;
      element.replaceChildren(
        el('p', { class: 'reason' }, letter.reason),
        el('div', { class: 'buttons' },
          el('button', { type: 'button', class: 'primary', disabled: !acting || !open, title: acting ? null : OFF, onclick: () => replay([place], () => { again(); refresh(); }) }, 'Replay …'),
          el('button', { type: 'button', disabled: !acting || !open, title: acting ? null : OFF, onclick: () => discard([place], () => { again(); refresh(); }) }, 'Discard …')),
        acting ? '' : el('p', { class: 'note' }, OFF),
        el('dl', { class: 'facts' },
          row('Rejected', `${clock(letter.time)} by `, el('a', { href: stopLink(letter.stop ?? '') }, letter.stop ?? 'a stop')),
          row('Message', letter.id ? el('a', { class: 'mono', href: link('journeys', { id: letter.id }) }, letter.id) : 'without an id'),
          row('Record', el('span', { class: 'mono' }, letter.record ?? '–')),
          letter.rule ? row('Rule', letter.rule) : null,
          row('Attempts', count(letter.attempts ?? 1)),
          letter.replays ? row('Replays', count(letter.replays)) : null,
          letter.done ? row('Done', verdict(letter.done.what), ` ${letter.done.to ? `to ${letter.done.to}, ` : ''}${clock(letter.done.time)}`) : null),
        ...(letter.history?.length ? [el('h3', {}, 'History'), el('ol', { class: 'history' }, letter.history.map((one) => el('li', {},
          el('span', { class: 'muted' }, `${clock(Date.parse(one.time))} · ${one.stop} · attempt ${one.attempt}`), el('span', {}, one.reason))))] : []),
        ...(letter.hidden ? [el('p', { class: 'note' }, 'Key, value and record headers are hidden: set web.show_payloads = true to see them here. metrobus dead show prints them.')] : []),
        ...[text('Key', letter.key), text('Value', letter.value), headers(letter.headers)].flat().filter(Boolean));
    } catch (problem) {
      element.replaceChildren(el('p', { class: 'note bad' }, problem.message));
    }
  }
  refresh();
  return element;
}

export function createDead() {
  const chosen = new Set();
  let filters = {};
  let letters = [];
  let last = PAGE;
  let turn = 0;
  let timer = null;
  let drawn = '';
  let seen = '';
  let acting = false;

  const field = (name, label, input) => {
    input.name = name;
    input.id = `filter-${name}`;
    return el('label', { for: input.id }, el('span', {}, label), input);
  };
  const text = () => el('input', { type: 'search', autocomplete: 'off', spellcheck: 'false', size: '12' });
  const form = el('form', { class: 'filters', role: 'search', 'aria-label': 'Filter dead letters', onsubmit: (event) => { event.preventDefault(); filter(); }, onchange: () => filter() },
    field('reason', 'Reason', text()), field('stop', 'Stop', text()), field('rule', 'Rule', text()), field('id', 'Id', text()),
    field('since', 'Since', el('select', {}, SPANS.map(([value, name]) => el('option', { value }, name)))),
    el('label', { class: 'check' }, el('input', { type: 'checkbox', name: 'all', value: 'true' }), 'also those done'));

  const all = el('input', { type: 'checkbox', 'aria-label': 'Select all that are shown', onchange: () => {
    chosen.clear();
    if (all.checked) for (const letter of open()) chosen.add(letter.place);
    mark();
  } });
  const body = el('tbody');
  const head = (name, kind) => el('th', { scope: 'col', class: kind }, name);
  const table = el('table', { class: 'letters' }, el('caption', { class: 'unseen' }, 'Dead letters, newest first'),
    el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, all), head('Time'), head('Reason'), head('Stop'), head('Rule'), head('Attempts', 'number'), head('Record'), head('Message'))), body);
  const bar = el('div', { class: 'actions' });
  const many = el('span', { role: 'status' });
  const replayButton = el('button', { type: 'button', class: 'primary', onclick: () => replay([...chosen], reload) }, 'Replay …');
  const discardButton = el('button', { type: 'button', onclick: () => discard([...chosen], reload) }, 'Discard …');
  bar.append(many, replayButton, discardButton);
  const result = el('div', { class: 'result' });
  const off = el('p', { class: 'note', id: 'acting-off', hidden: true }, OFF);
  const element = el('div', { class: 'page' }, el('h1', {}, 'Dead letters'),
    el('p', { class: 'lead' }, 'What stops rejected, byte for byte as it arrived. Mend the cause, then send it again.'), form, off, bar, result);

  const open = () => letters.filter((letter) => letter.done === null);

  function mark() {
    for (const row of body.children) {
      const box = row.querySelector('input');
      if (!box) continue;
      box.checked = chosen.has(box.value);
      row.classList.toggle('chosen', box.checked);
    }
    const ready = chosen.size > 0 && acting;
    all.checked = chosen.size > 0 && chosen.size === open().length;
    all.indeterminate = chosen.size > 0 && !all.checked;
    setText(many, chosen.size ? `${messages(chosen.size)} selected` : 'Select dead letters to replay or discard them.');
    for (const button of [replayButton, discardButton]) {
      button.disabled = !ready;
      if (acting) button.removeAttribute('aria-describedby');
      else button.setAttribute('aria-describedby', 'acting-off');
    }
  }

  function filter() {
    const data = new FormData(form);
    location.hash = link('dead', Object.fromEntries(data.entries()));
  }

  function row(letter) {
    const box = letter.done ? null : el('input', { type: 'checkbox', value: letter.place, 'aria-label': `Select the letter at ${letter.place}: ${letter.reason}`, onchange: (event) => {
      if (event.target.checked) chosen.add(letter.place);
      else chosen.delete(letter.place);
      mark();
    } });
    return el('tr', { 'data-place': letter.place, class: letter.done ? 'done' : null },
      el('td', {}, box),
      el('td', {}, clock(letter.time)),
      el('td', { class: 'what' }, el('a', { href: link('dead', { ...filters, letter: letter.place }) }, letter.reason || 'no reason'),
        letter.done ? [' ', verdict(letter.done.what)] : letter.replays ? el('span', { class: 'muted' }, ` replayed ${letter.replays === 1 ? 'once' : `${letter.replays} times`} before`) : null),
      el('td', {}, letter.stop ? el('a', { href: stopLink(letter.stop) }, letter.stop) : '–'),
      el('td', {}, letter.rule ?? '–'),
      el('td', { class: 'number' }, count(letter.attempts ?? 1)),
      el('td', {}, letter.record ? el('a', { class: 'mono', href: link('journeys', { id: letter.record }) }, letter.record) : '–'),
      el('td', {}, letter.id ? el('a', { class: 'mono', href: link('journeys', { id: letter.id }), title: letter.id }, `…${letter.id.slice(-12)}`) : '–'));
  }

  async function load() {
    const mine = ++turn;
    clearTimeout(timer);
    try {
      const found = await ask(`api/dead?${new URLSearchParams({ ...filters, last })}`);
      if (mine !== turn) return;
      show(found);
      timer = setTimeout(renew, REFRESH);
    } catch (problem) {
      if (mine !== turn) return;
      drawn = '';
      result.replaceChildren(el('p', { class: 'note bad' }, problem instanceof Problem ? problem.message : String(problem)));
      timer = setTimeout(load, (problem.retryAfter ?? 3) * 1000);
    }
  }

  /** Rows do not move while somebody picks some of them. */
  function renew() {
    clearTimeout(timer);
    if (chosen.size === 0) load();
    else timer = setTimeout(renew, REFRESH);
  }

  function reload() {
    chosen.clear();
    drawn = '';
    load();
  }

  function show(found) {
    const now = JSON.stringify(found);
    if (now === drawn) return;
    drawn = now;
    letters = found.letters;
    for (const place of chosen) if (!open().some((letter) => letter.place === place)) chosen.delete(place);
    const focused = document.activeElement?.closest?.('tr[data-place]')?.dataset.place;
    const within = focused && document.activeElement.tagName;
    body.replaceChildren(...letters.map(row));
    bar.hidden = letters.length === 0;
    if (letters.length === 0) {
      const some = Object.keys(filters).length > 0;
      result.replaceChildren(empty(some ? 'No dead letter matches' : 'No dead letters',
        el('p', {}, some ? 'Take out a filter to see others, or show those that are done as well.' : `What a stop rejects comes to the topic ${shared.settings?.error_topic ?? 'Error'} and stands here, with its reason. Nothing is there now.`)));
    } else {
      const shown = found.count > letters.length ? el('p', { class: 'muted' }, `The newest ${count(letters.length)} of ${count(found.count)}. `, el('button', { type: 'button', class: 'small', onclick: () => { last = Math.min(1000, last * 2); load(); } }, 'Show more')) : '';
      result.replaceChildren(el('div', { class: 'card' }, el('div', { class: 'scroll' }, table)), shown);
    }
    mark();
    if (focused) [...body.children].find((one) => one.dataset.place === focused)?.querySelector(within.toLowerCase())?.focus();
  }

  return {
    title: 'Dead letters',
    element,
    enter(route) {
      acting = shared.settings?.acting ?? false;
      off.hidden = acting || shared.settings === null;
      const { letter, ...rest } = Object.fromEntries(route.parameters);
      if (JSON.stringify(rest) !== JSON.stringify(filters)) {
        last = PAGE;
        chosen.clear();
        drawn = '';
      }
      filters = rest;
      for (const input of form.elements) {
        if (input.type === 'checkbox') input.checked = rest[input.name] === 'true';
        else if (input.name) input.value = rest[input.name] ?? '';
      }
      mark();
      load();
      if (!letter) return;
      openPanel(`Dead letter ${letter}`, letterPanel(letter, acting, reload), { left: () => { location.hash = link('dead', filters); } });
    },
    leave() {
      turn++;
      clearTimeout(timer);
      closePanel();
    },
    /** A change of what lies on the topic, or of what was done, shows at once. */
    update(picture) {
      const dead = picture.topics.filter((topic) => topic.kind === 'dead').map((topic) => topic.records);
      const done = picture.stops.map((stop) => (stop.verdicts.replayed?.count ?? 0) + (stop.verdicts.discarded?.count ?? 0));
      const now = `${dead}|${done}`;
      if (seen !== '' && now !== seen && element.isConnected) {
        clearTimeout(timer);
        timer = setTimeout(renew, 500);
      }
      seen = now;
    },
  };
}
