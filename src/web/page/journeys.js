// Journeys: a search by id, key or field, and what became of the messages found, hop by hop.

import { announce, ask, clock, el, empty, link, micros, shared, stopLink, verdict } from './common.js';

const UUID = /^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$/i;
const PLACE = /^[A-Za-z0-9._-]+\/\d+\/\d+$/;
const REFRESH = 2000;
const LAST = 10;

const KINDS = [['any', 'Anything'], ['id', 'Id'], ['key', 'Key'], ['field', 'Field']];

/** What a text may mean, the likeliest first: pairs of a parameter of the API and its value. */
function meanings(text, kind) {
  if (kind !== 'any') return [[kind, text]];
  if (UUID.test(text) || PLACE.test(text)) return [['id', text], ['key', text]];
  const fields = shared.settings?.journal.fields ?? [];
  const known = fields.includes(text.split('=')[0]) && text.includes('=');
  return known ? [['field', text], ['key', text]] : [['key', text], ['id', text]];
}

/** Microseconds since the epoch of a time with six digits behind the second. */
function micro(text) {
  const [, whole, part] = /^(.*?)(?:\.(\d+))?Z$/.exec(text) ?? [null, text, ''];
  return Date.parse(`${whole}Z`) * 1000 + Number((part ?? '').padEnd(6, '0').slice(0, 6));
}

function timeline(journey) {
  const hops = journey.hops.map((hop) => ({ ...hop, at: micro(hop.time) }));
  if (hops.length === 0) return null;
  const first = Math.min(...hops.map((hop) => hop.at));
  const last = Math.max(...hops.map((hop) => hop.at + hop.took_us), first + 1);
  const part = (value) => `${Math.max(0, Math.min(100, (value / (last - first)) * 100)).toFixed(3)}%`;
  const row = (hop) => {
    const waited = el('i', { class: 'waited' });
    const took = el('i', { class: 'took', 'data-verdict': hop.verdict });
    waited.style.left = part(hop.at - first - (hop.waited_us ?? 0));
    waited.style.width = part(hop.waited_us ?? 0);
    took.style.left = part(hop.at - first);
    took.style.width = part(hop.took_us);
    const after = hop.at === first ? clock(first / 1000) : `+${micros(hop.at - first)}`;
    const fields = Object.entries(hop.fields ?? {});
    return el('tr', { 'data-verdict': hop.verdict },
      el('td', { title: hop.time }, after),
      el('td', {}, el('a', { href: stopLink(hop.stop) }, hop.stop)),
      el('td', { class: 'what' }, hop.what, hop.rule ? el('span', { class: 'muted' }, ` by rule ${hop.rule}`) : null,
        hop.key !== null && hop.key !== undefined ? el('span', { class: 'muted' }, ` key ${hop.key}`) : null,
        fields.map(([name, value]) => el('span', { class: 'muted' }, ` ${name}=${value}`))),
      el('td', { class: 'gantt' }, el('span', { 'aria-hidden': 'true' }, waited, took)),
      el('td', { class: 'number' }, micros(hop.waited_us)),
      el('td', { class: 'number' }, micros(hop.took_us)),
      el('td', { class: 'number' }, hop.attempts),
      el('td', { class: 'mono' }, `${hop.topic}/${hop.partition}/${hop.offset}`));
  };
  const head = (name, kind) => el('th', { scope: 'col', class: kind }, name);
  return el('div', { class: 'scroll' }, el('table', { class: 'hops' }, el('caption', { class: 'unseen' }, `Hops of ${journey.id}`),
    el('thead', {}, el('tr', {}, head('Time'), head('Stop'), head('What'), head(`0 to ${micros(last - first)}`, 'gantt'), head('Waited', 'number'), head('Took', 'number'), head('Attempts', 'number'), head('Record'))),
    el('tbody', {}, hops.map(row))));
}

function card(journey) {
  const others = [
    journey.parent ? ['copied from ', [journey.parent]] : null,
    journey.copies?.length ? [journey.copies.length === 1 ? 'copy ' : 'copies ', journey.copies] : null,
  ].filter(Boolean);
  const state = journey.ended === false ? 'on-its-way' : journey.verdict;
  return el('article', { class: 'card journey' },
    el('header', {}, el('h2', { class: 'state', 'data-verdict': state }, journey.state),
      el('a', { class: 'mono id', href: link('journeys', { id: journey.id }) }, journey.id),
      journey.verdict === 'rejected' ? el('a', { class: 'button small', href: link('dead', { id: journey.id }) }, 'Its dead letter') : null),
    others.map(([word, ids]) => el('p', { class: 'others' }, word, ids.map((id) => [el('a', { class: 'mono', href: link('journeys', { id }) }, id), ' ']))),
    timeline(journey));
}

const began = (journey) => journey.hops[0]?.time ?? '';

export function createJourneys() {
  const input = el('input', { type: 'search', id: 'search', name: 'search', autocomplete: 'off', spellcheck: 'false', 'aria-describedby': 'search-help' });
  const kind = el('select', { 'aria-label': 'Find by' }, KINDS.map(([value, name]) => el('option', { value }, name)));
  const help = el('p', { id: 'search-help', class: 'muted' });
  const form = el('form', { class: 'search', role: 'search', onsubmit: submit }, kind, input, el('button', { type: 'submit', class: 'primary' }, 'Find'));
  const result = el('div', { class: 'result' });
  const element = el('div', { class: 'page' }, el('h1', {}, 'Journeys'), el('label', { for: 'search', class: 'lead' }, 'Where did a message go? Find it by its id, the key of its record, a record’s place, or a field.'), form, help, result);
  let turn = 0;
  let timer = null;

  function submit(event) {
    event.preventDefault();
    const text = input.value.trim();
    if (!text) return;
    const parameters = kind.value === 'any' ? { any: text } : { [kind.value]: text };
    const wanted = link('journeys', parameters);
    if (location.hash === wanted) search(text, kind.value);
    else location.hash = wanted;
  }

  function hint() {
    const fields = shared.settings?.journal.fields ?? [];
    help.textContent = fields.length
      ? `Fields that the journal notes: ${fields.join(', ')}; as in ${fields[0]}=1000001.`
      : 'To find messages by a field of their payload, name it in journal.fields.';
  }

  async function search(text, by) {
    const mine = ++turn;
    clearTimeout(timer);
    const again = (after) => { timer = setTimeout(() => { if (mine === turn) search(text, by); }, after); };
    let failed = null;
    for (const [parameter, value] of meanings(text, by)) {
      try {
        const found = await ask(`api/journeys?${new URLSearchParams({ [parameter]: value, last: LAST })}`);
        if (mine !== turn) return;
        show(found);
        if (found.journeys.some((journey) => journey.ended === false)) again(REFRESH);
        return;
      } catch (problem) {
        if (mine !== turn) return;
        // What was meant first is what its sentence should tell of
        if (failed === null || problem.status !== 404) failed = problem;
        if (problem.status !== 404) break;
      }
    }
    if (failed.status === 503 || failed.status === 0) {
      result.replaceChildren(el('div', { class: 'note', role: 'status' }, el('i', { class: 'spinner', 'aria-hidden': 'true' }), failed.message, el('span', { class: 'muted' }, ' Asking again …')));
      again((failed.retryAfter ?? 1) * 1000);
      return;
    }
    const hidden = by === 'any' ? ' It was looked for as key and as id.' : '';
    result.replaceChildren(empty(failed.status === 404 ? 'Nothing found' : 'That cannot be looked for', el('p', {}, failed.message, failed.status === 404 ? hidden : '')));
    announce(failed.message);
    if (failed.status === 404) again(REFRESH);
  }

  let drawn = '';
  function show(found) {
    const seen = JSON.stringify(found);
    if (seen === drawn && result.querySelector('.journey')) return;
    drawn = seen;
    const journeys = [...found.journeys].sort((a, b) => (began(a) < began(b) ? 1 : -1));
    const cards = journeys.map(card);
    if (found.more > 0) cards.push(el('p', { class: 'muted' }, `${found.more} earlier ${found.more === 1 ? 'journey is' : 'journeys are'} not shown.`));
    result.replaceChildren(...cards);
    announce(journeys.length === 1 ? journeys[0].state : `${journeys.length} journeys of ${found.asked}`);
  }

  return {
    title: 'Journeys',
    element,
    enter(route) {
      hint();
      const by = KINDS.map(([name]) => name).find((name) => route.parameters.has(name));
      if (!by) {
        turn++;
        clearTimeout(timer);
        result.replaceChildren();
        return;
      }
      const text = route.parameters.get(by);
      input.value = text;
      kind.value = by;
      drawn = '';
      search(text, by);
    },
    focus: () => input.focus(),
    leave() {
      turn++;
      clearTimeout(timer);
    },
    update() {},
  };
}
