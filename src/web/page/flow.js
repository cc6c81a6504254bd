// Dots that travel along the edges of the map while messages do. On a canvas: a hundred edges are one thing to paint.

const SPEED = 46; // pixels a second
const FRAME = 1000 / 31;
const STEPS = 16; // samples of each cubic

const still = matchMedia('(prefers-reduced-motion: reduce)');

/** A curve by the length of its way. */
class Track {
  constructor(points) {
    this.xs = [points[0][0]];
    this.ys = [points[0][1]];
    this.lengths = [0];
    for (let i = 0; i + 3 < points.length; i += 3) {
      for (let step = 1; step <= STEPS; step++) this.add(points.slice(i, i + 4), step / STEPS);
    }
    this.length = this.lengths.at(-1);
  }

  add([a, b, c, d], t) {
    const u = 1 - t;
    const at = (axis) => u * u * u * a[axis] + 3 * u * u * t * b[axis] + 3 * u * t * t * c[axis] + t * t * t * d[axis];
    const [x, y] = [at(0), at(1)];
    this.lengths.push(this.lengths.at(-1) + Math.hypot(x - this.xs.at(-1), y - this.ys.at(-1)));
    this.xs.push(x);
    this.ys.push(y);
  }

  /** The point at a part of the whole, 0 to 1. */
  at(part) {
    const way = part * this.length;
    let low = 1;
    let high = this.lengths.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.lengths[middle] < way) low = middle + 1;
      else high = middle;
    }
    const from = this.lengths[low - 1];
    const t = (way - from) / (this.lengths[low] - from || 1);
    return [this.xs[low - 1] + (this.xs[low] - this.xs[low - 1]) * t, this.ys[low - 1] + (this.ys[low] - this.ys[low - 1]) * t];
  }
}

export class Flow {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.edges = [];
    this.view = { x: 0, y: 0, scale: 1 };
    this.running = false;
    this.last = 0;
    this.moved = 0;
    this.draw = this.draw.bind(this);
  }

  lay(edge) {
    edge.track = new Track(edge.points);
  }

  look(view) {
    this.view = view;
    this.wake();
  }

  resize(width, height) {
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.ratio = ratio;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${width}px`;
    this.canvas.style.height = `${height}px`;
  }

  /** Goes on drawing, where something flows. */
  wake() {
    if (this.running) return;
    this.running = true;
    this.last = performance.now();
    requestAnimationFrame(this.draw);
  }

  draw(now) {
    const moving = this.edges.filter((edge) => edge.rate > 0);
    if (moving.length === 0 || still.matches || !this.canvas.isConnected || !this.ratio) {
      this.running = false;
      this.context.setTransform(1, 0, 0, 1, 0, 0);
      this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
      return;
    }
    requestAnimationFrame(this.draw);
    if (now - this.last < FRAME) return;
    this.moved += (Math.min(now - this.last, 100) / 1000) * SPEED;
    this.last = now;
    this.paint(moving);
  }

  /** Of the stylesheet: the `color` of the edge, which follows the theme. Asked for once a second. */
  colour(edge) {
    if (!edge.colour || this.last - edge.asked > 1000) {
      edge.colour = getComputedStyle(edge.path).getPropertyValue('color');
      edge.asked = this.last;
    }
    return edge.colour;
  }

  paint(moving) {
    const { context, view, ratio } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio * view.scale, 0, 0, ratio * view.scale, ratio * view.x, ratio * view.y);
    for (const edge of moving) {
      // Closer where more flows, and never a solid line where the map is small
      const spacing = Math.min(150, 300 / Math.log2(2 + edge.rate)) / Math.min(1, view.scale * 1.2);
      const radius = 1.3 + edge.width * 0.32;
      context.fillStyle = this.colour(edge);
      context.beginPath();
      for (let way = this.moved % spacing; way < edge.track.length; way += spacing) {
        const [x, y] = edge.track.at(way / edge.track.length);
        context.moveTo(x + radius, y);
        context.arc(x, y, radius, 0, 7);
      }
      context.fill();
    }
  }
}
