// The map: topics and stops as messages really travel between them, drawn in SVG, what moves on a canvas above it.

import { count, el, micros, millis, rate, setAttributes, setText, short, svg, VERDICTS } from './common.js';
import { layout } from './layout.js';
import { Flow } from './flow.js';

const STOP = { height: 88, least: 176, most: 290 };
const TOPIC = { height: 32, lag: 20 };
const SPARK = { width: 56, height: 15 };
const HISTORY = 60;

const narrow = matchMedia('(max-width: 640px)');

/** The part of a picture that the map draws: nodes by id, and edges between them. */
function graph(picture) {
  const nodes = new Map();
  const stops = new Map(picture.stops.map((stop) => [stop.name, stop]));
  const topics = new Map(picture.topics.map((topic) => [topic.name, topic]));
  const add = (id) => {
    const [kind, name] = [id.slice(0, id.indexOf(':')), id.slice(id.indexOf(':') + 1)];
    const known = kind === 'stop' ? stops.get(name) : topics.get(name);
    if (!nodes.has(id)) nodes.set(id, { id, kind, name, data: known ?? null, dead: kind === 'topic' && known?.kind === 'dead' });
  };
  for (const topic of picture.topics) {
    if ((topic.kind === 'stop' && (topic.records > 0 || topic.lag > 0)) || (topic.kind === 'dead' && topic.records > 0)) add(`topic:${topic.name}`);
  }
  for (const stop of picture.stops) add(`stop:${stop.name}`);
  const edges = new Map();
  for (const edge of picture.edges) {
    add(edge.from);
    add(edge.to);
    edges.set(`${edge.from}\n${edge.to}\n${edge.verdict ?? ''}`, edge);
  }
  return { nodes, edges };
}

/** How wide a node is to be for its name. */
function width(node) {
  if (node.kind === 'stop') return Math.max(STOP.least, Math.min(STOP.most, node.name.length * 8.2 + 104));
  return Math.max(72, Math.min(220, node.name.length * 7.4 + 34));
}

const shorten = (name, most) => (name.length > most ? `${name.slice(0, most - 1)}…` : name);

/** The map as an element with `update(picture)`; `choose(name)` is called for a stop that is picked, `letters()` for dead letters. */
export function createMap(choose, letters) {
  const nodes = new Map();
  const edges = new Map();
  const history = new Map();
  let shape = '';
  let drawing = null;
  let view = { x: 0, y: 0, scale: 1 };
  let touched = false;
  let spoken = 0;

  // Edges, what moves on them, nodes: one above the other
  const under = svg('g', {});
  const over = svg('g', {});
  const lines = svg('svg', { class: 'graph', 'aria-hidden': 'true' }, under);
  const picture = svg('svg', { class: 'graph', role: 'group', 'aria-label': 'Map of topics and stops. Arrow keys go from one to the next, Enter opens a stop.' }, over);
  const canvas = el('canvas', { 'aria-hidden': 'true' });
  const flow = new Flow(canvas);
  const tool = (label, sign, act) => el('button', { type: 'button', class: 'icon', 'aria-label': label, title: label, onclick: act }, sign);
  const tools = el('div', { class: 'tools' },
    tool('Zoom in', '+', () => zoom(1.25)), tool('Zoom out', '−', () => zoom(0.8)), tool('Fit the whole map', '⤢', () => { touched = false; fit(); }));
  const stage = el('div', { class: 'stage' }, lines, canvas, picture);
  const element = el('section', { class: 'map', 'aria-label': 'Map' }, stage);

  function show() {
    for (const layer of [under, over]) setAttributes(layer, { transform: `translate(${view.x.toFixed(2)} ${view.y.toFixed(2)}) scale(${view.scale.toFixed(4)})` });
    picture.classList.toggle('far', view.scale < 0.6);
    flow.look(view);
  }

  /** Shows the whole map: as large as its place allows, on a phone as wide as the screen and scrolled. */
  function fit() {
    if (!drawing || !element.isConnected) return;
    const wide = element.clientWidth;
    if (wide === 0) return;
    const margin = narrow.matches ? 12 : 28;
    const high = narrow.matches ? Infinity : Math.max(300, innerHeight * 0.62);
    const whole = Math.min((wide - 2 * margin) / drawing.width, (high - 2 * margin) / drawing.height);
    const scale = Math.max(narrow.matches ? 0.72 : 0.2, Math.min(1.2, whole));
    const [w, h] = [Math.max(wide, drawing.width * scale + 2 * margin), drawing.height * scale + 2 * margin];
    stage.style.height = `${Math.round(Math.max(h, narrow.matches ? 0 : 220))}px`;
    stage.style.width = narrow.matches ? `${Math.round(w)}px` : '';
    const box = { width: narrow.matches ? w : wide, height: Math.max(h, narrow.matches ? 0 : 220) };
    view = { scale, x: (box.width - drawing.width * scale) / 2, y: (box.height - drawing.height * scale) / 2 };
    flow.resize(box.width, box.height);
    show();
  }

  function zoom(factor, at) {
    touched = true;
    const box = stage.getBoundingClientRect();
    const [x, y] = at ?? [box.width / 2, box.height / 2];
    const scale = Math.max(0.15, Math.min(3, view.scale * factor));
    view = { scale, x: x - (x - view.x) * (scale / view.scale), y: y - (y - view.y) * (scale / view.scale) };
    show();
  }

  stage.addEventListener('wheel', (event) => {
    // A wheel alone scrolls the page; with Ctrl, as a pinch arrives too, it zooms.
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY * 0.004), [event.clientX - box.left, event.clientY - box.top]);
  }, { passive: false });

  stage.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || event.pointerType === 'touch' || event.target.closest('[data-node]')) return;
    const from = { x: event.clientX - view.x, y: event.clientY - view.y };
    const move = (moved) => {
      touched = true;
      view = { ...view, x: moved.clientX - from.x, y: moved.clientY - from.y };
      show();
    };
    stage.setPointerCapture(event.pointerId);
    stage.classList.add('held');
    stage.addEventListener('pointermove', move);
    stage.addEventListener('lostpointercapture', () => {
      stage.removeEventListener('pointermove', move);
      stage.classList.remove('held');
    }, { once: true });
  });

  let wasWide = 0;
  new ResizeObserver(() => {
    if (element.clientWidth === wasWide) return;
    wasWide = element.clientWidth;
    if (!touched) fit();
  }).observe(element);
  narrow.addEventListener('change', () => {
    shape = '';
    touched = false;
  });

  const open = (node) => (node.kind === 'stop' ? choose(node.name) : letters());

  /** One node takes part in the order of the tabulator; arrows lead to the others. */
  function rove(to) {
    for (const node of nodes.values()) if (node.reachable) setAttributes(node.group, { tabindex: node === to ? '0' : '-1' });
  }

  function onkey(node, event) {
    const ways = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] };
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      return open(node);
    }
    const way = ways[event.key];
    if (!way) return undefined;
    event.preventDefault();
    let [best, least] = [null, Infinity];
    for (const other of nodes.values()) {
      if (!other.reachable || other === node) continue;
      const [dx, dy] = [other.x - node.x, other.y - node.y];
      const ahead = dx * way[0] + dy * way[1];
      const distance = ahead + 2.5 * Math.abs(dx * way[1] + dy * way[0]);
      if (ahead > 1 && distance < least) [best, least] = [other, distance];
    }
    if (best) {
      rove(best);
      best.group.focus();
    }
    return undefined;
  }

  function makeNode(found) {
    const node = { ...found, w: width(found), h: found.kind === 'stop' ? STOP.height : TOPIC.height, reachable: found.kind === 'stop' || found.dead };
    node.group = svg('g', { class: `node ${node.kind}${node.dead ? ' dead' : ''}`, 'data-node': node.id });
    if (node.reachable) {
      setAttributes(node.group, { role: 'button', tabindex: '-1' });
      node.group.addEventListener('click', () => { rove(node); open(node); });
      node.group.addEventListener('keydown', (event) => onkey(node, event));
      node.group.addEventListener('focus', () => rove(node));
    } else {
      setAttributes(node.group, { role: 'img' });
    }
    if (node.kind === 'stop') makeStop(node);
    else makeTopic(node);
    return node;
  }

  function makeStop(node) {
    const [x, y] = [-node.w / 2, -node.h / 2];
    const text = (kind, dx, dy, anchor = 'start') => svg('text', { class: kind, x: x + dx, y: y + dy, 'text-anchor': anchor });
    node.title = svg('title', {}, node.name);
    node.label = text('name', 26, 23);
    node.rate = text('rate', 13, 49);
    node.took = text('took', 13, 71);
    node.bad = text('bad', node.w - 13, 48, 'end');
    node.bad.append(node.dropped = svg('tspan', { class: 'dropped' }), node.rejected = svg('tspan', { class: 'rejected', dx: '6' }));
    node.spark = svg('path', { class: 'spark', transform: `translate(${x + node.w - 13 - SPARK.width} ${y + 10})` });
    node.light = svg('circle', { class: 'light', cx: x + 16.5, cy: y + 18.5, r: 3.5 });
    setText(node.label, shorten(node.name, Math.floor((node.w - 38 - SPARK.width) / 7.8)));
    node.group.append(node.title, svg('rect', { class: 'box', x, y, width: node.w, height: node.h, rx: 11 }),
      node.light, node.label, node.rate, node.spark, node.took, node.bad);
  }

  function makeTopic(node) {
    const [x, y] = [-node.w / 2, -node.h / 2];
    node.title = svg('title', {}, node.name);
    node.label = svg('text', { class: 'name', 'text-anchor': 'middle', y: 4.5 });
    node.badge = svg('g', { class: 'lag', transform: `translate(0 ${(node.dead ? 1 : -1) * (TOPIC.height / 2 + 13)})` });
    node.badgeBox = svg('rect', { y: -9, height: 18, rx: 9 });
    node.badgeText = svg('text', { 'text-anchor': 'middle', y: 3.8 });
    node.badge.append(node.badgeBox, node.badgeText);
    setText(node.label, shorten(node.name, 25));
    node.group.append(node.title, svg('rect', { class: 'box', x, y, width: node.w, height: node.h, rx: node.h / 2 }), node.label, node.badge);
  }

  function makeEdge(key, edge) {
    const dead = nodes.get(edge.to).dead;
    const kind = edge.verdict ?? 'read';
    const path = svg('path', { class: `edge${dead ? ' to-dead' : ''}`, 'data-verdict': kind });
    const label = kind === 'read' ? null : svg('text', { class: 'edge-label', 'data-verdict': kind, 'text-anchor': 'middle' });
    return { key, from: edge.from, to: edge.to, kind, path, label };
  }

  /** Lays everything out anew: where a node or an edge has come or gone. */
  function arrange(found) {
    for (const [id, node] of found.nodes) if (!nodes.has(id) || nodes.get(id).dead !== node.dead) nodes.set(id, makeNode(node));
    for (const id of [...nodes.keys()]) if (!found.nodes.has(id)) nodes.delete(id);
    for (const [key, edge] of found.edges) if (!edges.has(key)) edges.set(key, makeEdge(key, edge));
    for (const key of [...edges.keys()]) if (!found.edges.has(key)) edges.delete(key);

    const down = narrow.matches;
    // The badge below a topic needs room of its own
    const tall = (node) => (node.kind === 'stop' ? node.h : node.h + 2 * TOPIC.lag);
    const cells = [...nodes.values()].map((node) => ({
      id: node.id, aside: node.dead,
      main: down ? tall(node) : node.w, cross: down ? node.w : tall(node), pad: node.kind === 'stop' ? [0, 0] : down ? [TOPIC.lag, 0] : [0, TOPIC.lag],
      gap: node.kind === 'stop' ? (down ? 40 : 62) : (down ? 26 : 34),
    }));
    const placed = layout(cells, [...edges.values()], down ? { cross: 18, aside: 30 } : { cross: 20, aside: 46 });
    const point = ([main, cross]) => (down ? [cross, main] : [main, cross]);
    drawing = { width: down ? placed.cross : placed.main, height: down ? placed.main : placed.cross };
    for (const node of nodes.values()) {
      const at = placed.nodes.get(node.id);
      [node.x, node.y] = point([at.main, at.cross]);
      setAttributes(node.group, { transform: `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})` });
    }
    for (const edge of edges.values()) {
      edge.points = placed.edges.get(edge.key).map(point);
      const [first, ...rest] = edge.points.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`);
      setAttributes(edge.path, { d: `M${first}C${rest.join(' ')}` });
      flow.lay(edge);
      if (edge.label) {
        const [x, y] = edge.track.at(edge.points.length > 4 ? 0.5 : 0.47);
        setAttributes(edge.label, { x: x.toFixed(1), y: (y + (down ? 4 : -8)).toFixed(1) });
      }
    }
    const inOrder = [...nodes.values()].sort((a, b) => (down ? a.y - b.y || a.x - b.x : a.x - b.x || a.y - b.y));
    under.replaceChildren(...[...edges.values()].map((edge) => edge.path));
    // A label that lies where a node is goes below it
    over.replaceChildren(...[...edges.values()].map((edge) => edge.label).filter(Boolean), ...inOrder.map((node) => node.group));
    flow.edges = [...edges.values()];
    const roving = [...nodes.values()].some((node) => node.group.getAttribute('tabindex') === '0');
    const first = inOrder.find((node) => node.kind === 'stop') ?? inOrder.find((node) => node.reachable);
    if (!roving && first) rove(first);
    if (!touched) fit();
  }

  function updateStop(node, stop, speak) {
    const flowing = stop.rate > 0;
    const dropped = stop.verdicts.dropped;
    const rejected = stop.verdicts.rejected;
    setText(node.rate, flowing ? rate(stop.rate) : count(stop.count));
    setText(node.took, stop.took_us ? `p50 ${micros(stop.took_us.p50)}  ·  p99 ${micros(stop.took_us.p99)}` : 'no messages yet');
    const told = (verdict, sign) => (verdict?.rate > 0 ? `${sign} ${rate(verdict.rate)}` : !flowing && verdict?.count > 0 ? `${sign} ${short(verdict.count)}` : '');
    setText(node.dropped, told(dropped, '↓'));
    setText(node.rejected, told(rejected, '✕'));
    node.group.classList.toggle('flowing', flowing);
    const past = history.get(node.name) ?? [];
    past.push(stop.rate);
    if (past.length > HISTORY) past.shift();
    history.set(node.name, past);
    setAttributes(node.spark, { d: spark(past, SPARK.width, SPARK.height) });
    if (!speak) return;
    const took = stop.took_us ? `, half take less than ${micros(stop.took_us.p50)}, 99 of 100 less than ${micros(stop.took_us.p99)}` : '';
    const bad = [[dropped, 'dropped'], [rejected, 'rejected']].filter(([verdict]) => verdict?.count > 0).map(([verdict, word]) => `, ${count(verdict.count)} ${word}`).join('');
    setAttributes(node.group, { 'aria-label': `stop ${node.name}, ${flowing ? `${short(stop.rate)} messages a second` : `idle, ${count(stop.count)} messages`}${took}${bad}` });
    const means = [`${node.name}: ${count(stop.count)} messages, ${rate(stop.rate)}`, `takes ${micros(stop.took_us?.p50)} (p50), ${micros(stop.took_us?.p99)} (p99)`,
      `messages are ${millis(stop.age_ms?.p50)} (p50), ${millis(stop.age_ms?.p99)} (p99) old here`];
    for (const name of VERDICTS) if (stop.verdicts[name]?.count > 0) means.push(`${name} ${count(stop.verdicts[name].count)}`);
    setText(node.title, means.join('\n'));
  }

  function updateTopic(node, topic, speak) {
    const lag = topic?.lag ?? 0;
    // Warm where more waits than a moment ago, and not just a batch in flight
    node.lags = [...(node.lags ?? []), lag].slice(-10);
    const growing = node.lags.length > 4 && lag > 100 && lag > node.lags[0] * 1.15;
    const letters = node.dead && topic?.records > 0;
    const text = letters ? `${short(topic.records)} ${topic.records === 1 ? 'record' : 'records'}` : lag > 0 ? `${short(lag)} waiting` : '';
    setText(node.badgeText, text);
    node.badge.classList.toggle('none', text === '');
    node.badge.classList.toggle('growing', growing);
    const wide = text.length * 6.2 + 16;
    setAttributes(node.badgeBox, { x: -wide / 2, width: wide });
    if (!speak) return;
    const records = topic?.records === null || topic?.records === undefined ? '' : `, ${count(topic.records)} records`;
    setAttributes(node.group, { 'aria-label': `${node.dead ? 'dead letters on topic' : 'topic'} ${node.name}${records}${lag > 0 ? `, ${count(lag)} waiting` : ''}${growing ? ' and growing' : ''}` });
    setText(node.title, `${node.name}${records}${lag > 0 ? `, ${count(lag)} waiting` : ''}`);
  }

  function updateEdge(edge, now) {
    edge.rate = now.rate;
    edge.width = now.rate > 0 ? 1.5 + 0.85 * Math.log10(1 + now.rate) : 1.25;
    setAttributes(edge.path, { 'stroke-width': edge.width.toFixed(2) });
    edge.path.classList.toggle('flowing', now.rate > 0);
    if (!edge.label) return;
    setText(edge.label, now.rate > 0 ? rate(now.rate) : short(now.count));
    edge.label.classList.toggle('flowing', now.rate > 0);
  }

  function update(now) {
    const found = graph(now);
    const seen = `${narrow.matches}${[...found.nodes.values()].map((node) => node.id + node.dead).join()}|${[...found.edges.keys()].join()}`;
    if (seen !== shape) {
      shape = seen;
      spoken = 0;
      arrange(found);
    }
    // Labels for those who listen change seldom: a reader would begin them anew each time
    const speak = Date.now() - spoken > 4000;
    if (speak) spoken = Date.now();
    for (const [id, { data }] of found.nodes) {
      const node = nodes.get(id);
      if (node.kind === 'topic') updateTopic(node, data, speak);
      else if (data) updateStop(node, data, speak);
    }
    for (const [key, edge] of found.edges) updateEdge(edges.get(key), edge);
    flow.wake();
  }

  /** The stops in the order of travel. */
  const stops = () => [...nodes.values()].filter((node) => node.kind === 'stop').sort((a, b) => (narrow.matches ? a.y - b.y : a.x - b.x || a.y - b.y)).map((node) => node.name);

  return { element, tools, update, fit: () => { if (!touched) fit(); }, stops, history, isEmpty: (now) => graph(now).nodes.size === 0, focus: (name) => nodes.get(`stop:${name}`)?.group.focus() };
}

/** A small line of the last values, from the right. */
export function spark(values, wide, high) {
  const top = Math.max(...values);
  if (!(top > 0) || values.length < 2) return '';
  const step = wide / (HISTORY - 1);
  const from = wide - (values.length - 1) * step;
  return values.map((value, index) => `${index === 0 ? 'M' : 'L'}${(from + index * step).toFixed(1)} ${(high - (value / top) * high).toFixed(1)}`).join('');
}

