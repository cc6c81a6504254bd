// A layered drawing of a directed graph, as Sugiyama's: layers by the longest path, long edges through dummies, crossings
// reduced by barycentres, positions that minimise the bends. Coordinates are (main, cross): main is the direction of travel.

const SWEEPS = 12;

/**
 * Places nodes and leads edges between them.
 * nodes: [{ id, main, cross, pad: [main, cross], aside, gap }]: sizes, how much of them at either end is room into which edges
 * lead, whether it stands beside the layers, and the room behind its layer.
 * edges: [{ key, from, to }]; loops are fine.
 * Gives { main, cross, nodes: Map id → { main, cross } (centres), edges: Map key → [[main, cross], …] (control points of cubics) }.
 */
export function layout(nodes, edges, space = { cross: 22, aside: 64 }) {
  const inner = nodes.filter((node) => !node.aside);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const flows = acyclic(inner, edges.filter(({ from, to }) => !byId.get(from).aside && !byId.get(to).aside && from !== to));
  const rank = ranks(inner, flows);
  const { layers, chains } = withDummies(inner, flows, rank);
  order(layers);
  position(layers, space.cross);

  const placed = new Map();
  let main = 0;
  for (const layer of layers) {
    const depth = Math.max(0, ...layer.map((cell) => cell.node?.main ?? 0));
    const gap = Math.max(30, ...layer.map((cell) => cell.node?.gap ?? 0));
    for (const cell of layer) cell.main = main + depth / 2;
    main += depth + gap;
  }
  const cells = layers.flat();
  const least = Math.min(0, ...cells.map((cell) => cell.at - cell.size / 2));
  for (const cell of cells) {
    cell.at -= least;
    if (cell.node) placed.set(cell.id, { main: cell.main, cross: cell.at });
  }
  const size = {
    main: Math.max(0, ...cells.map((cell) => (cell.node ? cell.main + cell.node.main / 2 : 0))),
    cross: Math.max(0, ...cells.map((cell) => cell.at + cell.size / 2)),
  };
  setAside(nodes.filter((node) => node.aside), edges, placed, size, space);
  return { ...size, nodes: placed, edges: lead(edges, byId, placed, chains) };
}

/** The edges without those that lead back to where their path came from. */
function acyclic(nodes, edges) {
  const out = group(edges, 'from');
  const into = group(edges, 'to');
  const state = new Map();
  const back = new Set();
  const visit = (id) => {
    state.set(id, 'open');
    for (const edge of out.get(id) ?? []) {
      if (state.get(edge.to) === 'open') back.add(edge);
      else if (!state.has(edge.to)) visit(edge.to);
    }
    state.set(id, 'done');
  };
  const sources = nodes.filter((node) => !into.has(node.id));
  for (const node of [...sources, ...nodes]) if (!state.has(node.id)) visit(node.id);
  return edges.filter((edge) => !back.has(edge));
}

/** The layer of each node: as far behind its sources as the longest path; a source right before what it leads to. */
function ranks(nodes, edges) {
  const out = group(edges, 'from');
  const into = group(edges, 'to');
  const rank = new Map();
  const depth = (id) => {
    if (!rank.has(id)) rank.set(id, Math.max(0, ...(into.get(id) ?? []).map((edge) => depth(edge.from) + 1)));
    return rank.get(id);
  };
  nodes.forEach((node) => depth(node.id));
  for (const { id } of nodes) {
    const next = (out.get(id) ?? []).map((edge) => rank.get(edge.to));
    if (!into.has(id) && next.length > 0) rank.set(id, Math.min(...next) - 1);
  }
  const first = Math.min(0, ...rank.values());
  for (const [id, value] of rank) rank.set(id, value - first);
  return rank;
}

/** Cells by layer, neighbours linked; an edge over several layers passes through a dummy in each. */
function withDummies(nodes, edges, rank) {
  const layers = [];
  const cell = (layer, id, node, size) => {
    const made = { id, node, size, before: [], after: [], at: 0 };
    (layers[layer] ??= []).push(made);
    return made;
  };
  const cells = new Map(nodes.map((node) => [node.id, cell(rank.get(node.id), node.id, node, node.cross)]));
  for (let layer = 0; layer < layers.length; layer++) layers[layer] ??= [];
  const chains = new Map();
  for (const edge of edges) {
    const chain = [];
    let last = cells.get(edge.from);
    const join = (next) => {
      last.after.push(next);
      next.before.push(last);
      last = next;
    };
    for (let layer = rank.get(edge.from) + 1; layer < rank.get(edge.to); layer++) {
      join(cell(layer, `${edge.key} ${layer}`, null, 14));
      chain.push(last);
    }
    join(cells.get(edge.to));
    chains.set(edge.key, chain);
  }
  return { layers, chains };
}

/** Orders each layer by where its neighbours stand, back and forth, and keeps the order with the fewest crossings. */
function order(layers) {
  const number = () => layers.forEach((layer) => layer.forEach((cell, index) => { cell.index = index; }));
  number();
  let best = { crossings: crossings(layers), orders: layers.map((layer) => [...layer]) };
  for (let sweep = 0; sweep < SWEEPS && best.crossings > 0; sweep++) {
    const forth = sweep % 2 === 0;
    for (const layer of forth ? layers : [...layers].reverse()) {
      for (const cell of layer) {
        const beside = forth ? cell.before : cell.after;
        cell.weight = beside.length ? mean(beside.map((other) => other.index)) : cell.index;
      }
      layer.sort((a, b) => a.weight - b.weight || a.index - b.index);
      layer.forEach((cell, index) => { cell.index = index; });
    }
    const now = crossings(layers);
    if (now < best.crossings) best = { crossings: now, orders: layers.map((layer) => [...layer]) };
  }
  best.orders.forEach((cells, index) => layers[index].splice(0, cells.length, ...cells));
  number();
}

function crossings(layers) {
  let sum = 0;
  for (const layer of layers) {
    const ends = layer.flatMap((cell) => cell.after.map((next) => next.index).sort((a, b) => a - b));
    for (let i = 0; i < ends.length; i++) for (let j = i + 1; j < ends.length; j++) if (ends[i] > ends[j]) sum++;
  }
  return sum;
}

/** Moves cells towards their neighbours, keeping order and distance. */
function position(layers, gap) {
  for (const layer of layers) spread(layer, layer.map(() => 0), gap);
  for (let round = 0; round < SWEEPS; round++) {
    const sides = round === SWEEPS - 1 ? ['before', 'after'] : [round % 2 === 0 ? 'before' : 'after'];
    for (const layer of round % 2 === 0 ? layers : [...layers].reverse()) {
      const wanted = layer.map((cell) => {
        const beside = sides.flatMap((side) => cell[side]);
        return beside.length ? mean(beside.map((other) => other.at)) : cell.at;
      });
      spread(layer, wanted, gap);
    }
  }
}

/** The positions nearest to those wanted, by least squares, that keep the distances: a regression by pooled neighbours. */
function spread(layer, wanted, gap) {
  let shift = 0;
  const shifts = layer.map((cell, index) => {
    if (index > 0) shift += (layer[index - 1].size + cell.size) / 2 + gap;
    return shift;
  });
  const blocks = [];
  wanted.forEach((value, index) => {
    blocks.push({ sum: value - shifts[index], count: 1 });
    while (blocks.length > 1 && blocks.at(-2).sum / blocks.at(-2).count > blocks.at(-1).sum / blocks.at(-1).count) {
      const last = blocks.pop();
      blocks.at(-1).sum += last.sum;
      blocks.at(-1).count += last.count;
    }
  });
  let index = 0;
  for (const block of blocks) {
    for (let i = 0; i < block.count; i++, index++) layer[index].at = block.sum / block.count + shifts[index];
  }
}

/** Nodes that take something from everywhere stand beside the layers, amid those that give to them. */
function setAside(nodes, edges, placed, size, space) {
  let free = -Infinity;
  const cross = size.cross;
  for (const node of nodes) {
    const givers = edges.filter((edge) => edge.to === node.id && placed.has(edge.from)).map((edge) => placed.get(edge.from).main);
    const middle = givers.length ? (Math.min(...givers) + Math.max(...givers)) / 2 : size.main / 2;
    const main = Math.max(middle, free + node.main / 2, node.main / 2);
    placed.set(node.id, { main, cross: cross + space.aside + node.cross / 2 });
    free = main + node.main / 2 + space.cross;
    size.cross = Math.max(size.cross, cross + space.aside + node.cross);
    size.main = Math.max(size.main, main + node.main / 2);
  }
}

/** Control points of each edge. Edges that share a side of a node start a little beside one another. */
function lead(edges, byId, placed, chains) {
  const port = (end, other) => {
    const groups = group(edges, end);
    const found = new Map();
    for (const list of groups.values()) {
      const room = byId.get(list[0][end]).cross * 0.6;
      const straight = list.filter((edge) => !byId.get(edge.from).aside && !byId.get(edge.to).aside);
      straight.sort((a, b) => placed.get(a[other]).cross - placed.get(b[other]).cross);
      straight.forEach((edge, index) => found.set(edge.key, (index - (straight.length - 1) / 2) * Math.min(12, room / straight.length)));
    }
    return found;
  };
  const leaving = port('from', 'to');
  const arriving = port('to', 'from');
  return new Map(edges.map((edge) => {
    const [from, to] = [byId.get(edge.from), byId.get(edge.to)];
    const [a, b] = [placed.get(edge.from), placed.get(edge.to)];
    if (from.aside || to.aside) return [edge.key, sideways(from, to, a, b)];
    const start = [a.main + from.main / 2 - from.pad[0], a.cross + leaving.get(edge.key)];
    const end = [b.main - to.main / 2 + to.pad[0], b.cross + arriving.get(edge.key)];
    const chain = chains.get(edge.key);
    if (!chain) return [edge.key, around(start, end, Math.max(a.cross + from.cross / 2, b.cross + to.cross / 2))];
    return [edge.key, through([start, ...chain.map((cell) => [cell.main, cell.at]), end])];
  }));
}

function through(points) {
  const path = [points[0]];
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]];
    const middle = (a[0] + b[0]) / 2;
    path.push([middle, a[1]], [middle, b[1]], b);
  }
  return path;
}

/** An edge against the direction of travel: out, below both nodes, and in. */
function around(start, end, below) {
  const low = below + 26;
  const middle = [(start[0] + end[0]) / 2, low];
  return [start, [start[0] + 44, start[1]], [start[0] + 44, low], middle, [end[0] - 44, low], [end[0] - 44, end[1]], end];
}

/** To or from a node beside the layers: across, between the sides that face one another. */
function sideways(from, to, a, b) {
  const down = to.aside;
  const shift = (node, place, other) => {
    const most = node.main / 2 - node.pad[0] - 10;
    return Math.max(-most, Math.min(most, (other.main - place.main) * 0.12));
  };
  const start = [a.main + (down ? from.main * 0.22 : shift(from, a, b)), a.cross + (down ? 1 : -1) * (from.cross / 2 - from.pad[1])];
  const end = [b.main + (down ? shift(to, b, a) : to.main * 0.1), b.cross + (down ? -1 : 1) * (to.cross / 2 - to.pad[1])];
  const middle = (start[1] + end[1]) / 2;
  return [start, [start[0], middle], [end[0], middle], end];
}

function group(edges, end) {
  const groups = new Map();
  for (const edge of edges) {
    if (!groups.has(edge[end])) groups.set(edge[end], []);
    groups.get(edge[end]).push(edge);
  }
  return groups;
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
