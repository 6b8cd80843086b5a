// Heat maps, histograms and the scene of a drift. Without scripts the verdict, the faults and the table of layers are still there.
const data = JSON.parse(document.querySelector('#data').textContent);
const $ = selector => document.querySelector(selector);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
// A byte is eighths of an octave around 128; 0: nothing there, or no error.
const value = byte => byte ? 2 ** ((byte - 128) / 8) : 0;
const ceiling = value(255);
const short = x => x >= ceiling && x < ceiling * 1.01 ? 'over ' + ceiling.toExponential(0) : x === 0 ? '0' : x >= 1e4 || x < 1e-3 ? x.toExponential(1) : String(+x.toPrecision(3));
for (const step of data.steps) for (const kind of ['local', 'total']) step[kind] = bytes(step[kind] || '');
for (const r of data.records) for (const kind of ['local', 'total']) if (r[kind].dims) r[kind].dims = bytes(r[kind].dims);
const record = (s, l, p) => data.records.find(r => r.step === s && r.layer === l && r.point === p);

const dark = matchMedia('(prefers-color-scheme: dark)');
// From nothing to a thousand units and more; one unit of noise stands at a third.
const ramps = {light: [[255, 255, 255], [205, 224, 245], [120, 160, 215], [235, 150, 60], [200, 40, 40], [90, 0, 40]],
  dark: [[20, 23, 28], [35, 60, 95], [75, 125, 195], [240, 165, 70], [255, 105, 95], [255, 220, 230]]};
function color(v) {
  const ramp = ramps[dark.matches ? 'dark' : 'light'];
  const t = v > 0 ? Math.min(1, Math.max(0, (Math.log2(v) + 5) / 15)) * (ramp.length - 1) : 0;
  const i = Math.min(ramp.length - 2, Math.floor(t)), f = t - i;
  return ramp[i].map((c, k) => Math.round(c + (ramp[i + 1][k] - c) * f));
}
const css = v => `rgb(${color(v).join()})`;
const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// What is looked at.
const at = {kind: 'local', step: data.first ? data.first.step : 0, layer: data.first ? Math.max(0, data.first.layer) : 0, point: data.first && data.first.point < data.points.length ? data.first.point : -1, token: data.first ? Math.max(0, data.first.token) : 0};
if (!data.steps.some(s => s.local.length)) at.kind = 'total';
const classes = ['text before', 'points', 'text after', 'generated'];
const step = () => data.steps[at.step];

// Of a layer and a token: the error at the chosen point, or the largest of all.
function cell(kind, layer, token) {
  const s = step(), P = data.points.length, from = (layer * P) * s.tokens + token;
  if (at.point >= 0) return value(s[kind][from + at.point * s.tokens] || 0);
  let most = 0;
  for (let p = 0; p < P; p++) most = Math.max(most, s[kind][from + p * s.tokens] || 0);
  return value(most);
}
const shownPoint = () => {
  if (at.point >= 0) return at.point;
  const s = step();
  let most = -1, found = 0;
  for (let p = 0; p < data.points.length; p++) {
    const b = s[at.kind][(at.layer * data.points.length + p) * s.tokens + at.token] || 0;
    if (b > most) most = b, found = p;
  }
  return found;
};

function sized(canvas, ratio, most) {
  const width = canvas.clientWidth, height = Math.round(Math.min(most, width * ratio)), scale = devicePixelRatio || 1;
  canvas.style.height = `${height}px`;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const c = canvas.getContext('2d');
  c.setTransform(scale, 0, 0, scale, 0, 0);
  c.clearRect(0, 0, width, height);
  return [c, width, height];
}

// A picture of one pixel a cell, blown up without smoothing.
function paint(c, x, y, width, height, columns, rows, get) {
  const small = new OffscreenCanvas(columns, rows), image = new ImageData(columns, rows);
  for (let r = 0; r < rows; r++)
    for (let k = 0; k < columns; k++) {
      const [red, green, blue] = color(get(r, k));
      image.data.set([red, green, blue, 255], 4 * (r * columns + k));
    }
  small.getContext('2d').putImageData(image, 0, 0);
  c.imageSmoothingEnabled = false;
  c.drawImage(small, x, y, width, height);
}

function ring(c, x, y, width, height) {
  for (const [tint, line] of [[style('--page'), 4], [style('--text'), 2]]) {
    c.strokeStyle = tint;
    c.lineWidth = line;
    c.strokeRect(x - 1, y - 1, Math.max(3, width) + 2, Math.max(3, height) + 2);
  }
}

const left = 34, top = 4, under = 18;
function drawMap() {
  const canvas = $('#map'), s = step();
  const [c, width, height] = sized(canvas, .5, 30 + 16 * data.layers), w = width - left - 4, h = height - top - under;
  paint(c, left, top, w, h, s.tokens, data.layers, (layer, token) => cell(at.kind, layer, token));
  c.fillStyle = style('--soft');
  c.font = '12px system-ui, sans-serif';
  for (let n = 0; n < data.layers; n += Math.max(1, Math.ceil(14 * data.layers / h))) c.fillText(n, 8, top + (n + .5) * h / data.layers + 4);
  c.fillText('0', left, height - 4);
  const end = String(s.cached + s.tokens / s.samples - 1);
  c.fillText(end, left + w - c.measureText(end).width, height - 4);
  if (width > 500) c.fillText('token', left + w / 2 - 15, height - 4);
  ring(c, left + at.token * w / s.tokens, top + at.layer * h / data.layers, w / s.tokens, h / data.layers);
}

function drawDims() {
  const canvas = $('#dims'), p = shownPoint(), r = record(at.step, at.layer, p), note = $('#dims-note');
  const dims = r && r[at.kind].dims;
  canvas.hidden = !dims;
  $('#dims-title').textContent = `Heads and dimensions: ${data.points[p]} of layer ${at.layer}`;
  if (!dims) return note.textContent = 'This point has no heads, or was not measured.';
  const [c, width, height] = sized(canvas, .6, 30 + 18 * r.heads), w = width - left - 4, h = height - top - under;
  paint(c, left, top, w, h, r.dims, r.heads, (head, d) => value(dims[head * r.dims + d]));
  c.fillStyle = style('--soft');
  c.font = '12px system-ui, sans-serif';
  for (let n = 0; n < r.heads; n += Math.max(1, Math.ceil(14 * r.heads / h))) c.fillText(n, 8, top + (n + .5) * h / r.heads + 4);
  c.fillText('0', left, height - 4);
  c.fillText(r.dims - 1, left + w - 14, height - 4);
  let most = 0;
  dims.forEach((b, i) => { if (b > dims[most]) most = i; });
  note.textContent = `Worst: head ${Math.floor(most / r.dims)}, dimension ${most % r.dims} (frequency bin ${most % r.dims % (r.dims / 2)} of text), ${short(value(dims[most]))} units.`;
}

function drawHistogram() {
  const p = shownPoint(), r = record(at.step, at.layer, p), svg = $('#histogram'), counts = r && r[at.kind].histogram;
  $('#histogram-title').textContent = `Errors in units of noise: ${data.points[p]} of layer ${at.layer}`;
  svg.replaceChildren();
  if (!counts) return $('#histogram-note').textContent = 'Not measured.';
  const make = (name, attributes, text) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, v] of Object.entries(attributes)) element.setAttribute(key, v);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
  };
  const largest = Math.max(...counts), all = counts.reduce((a, b) => a + b, 0), W = 520, H = 180, w = W / counts.length;
  counts.forEach((n, i) => {
    const height = n ? Math.max(1, 150 * Math.log1p(n) / Math.log1p(largest)) : 0, outside = Math.abs(i - 32) > 16;
    if (n) make('rect', {x: i * w, y: 160 - height, width: w * .9, height, class: outside ? 'bar out' : 'bar'});
  });
  make('line', {x1: 0, y1: 160.5, x2: W, y2: 160.5, class: 'axis'});
  for (const tick of [-8, -4, 0, 4, 8]) make('text', {x: (tick / .25 + 32.5) * w, y: H - 4, 'text-anchor': tick === -8 ? 'start' : tick === 8 ? 'end' : 'middle'}, tick === -8 ? '≤ −8' : tick === 8 ? '≥ 8' : String(tick).replace('-', '−'));
  const beyond = counts.reduce((a, n, i) => a + (Math.abs(i - 32) > 16 ? n : 0), 0);
  $('#histogram-note').textContent = `${all} elements, ${beyond} beyond 4 units; root mean square ${short(r[at.kind].rms)}, largest ${short(r[at.kind].worst)}. Heights are logarithmic.`;
}

// The scene: tokens at their coordinates, turned about the upright axis.
let turn = .6;
function drawScene() {
  const canvas = $('#scene'), s = step();
  if (!canvas) return;
  const points = [];
  for (let t = 0; t < s.tokens; t++) if (s.coords[3 * t] !== null) points.push([t, ...s.coords.slice(3 * t, 3 * t + 3)]);
  if (!points.length) return;
  const [c, width, height] = sized(canvas, .75, 420), middle = [1, 2, 3].map(a => (Math.max(...points.map(p => p[a])) + Math.min(...points.map(p => p[a]))) / 2);
  const reach = Math.max(1, ...points.map(p => Math.hypot(p[1] - middle[0], p[2] - middle[1], p[3] - middle[2]))), scale = .46 * Math.min(width, height) / reach;
  const seen = points.map(([t, x, y, z]) => {
    const a = x - middle[0], b = y - middle[1], u = a * Math.cos(turn) - b * Math.sin(turn), v = a * Math.sin(turn) + b * Math.cos(turn), up = z - middle[2];
    return [t, width / 2 + scale * u, height / 2 - scale * (.85 * up + .45 * v), v];
  }).sort((a, b) => b[3] - a[3]);
  for (const [t, x, y] of seen) {
    c.beginPath();
    c.arc(x, y, Math.max(4, scale * .7), 0, 7);
    c.fillStyle = css(cell(at.kind, at.layer, t));
    c.fill();
    c.lineWidth = 1;
    c.strokeStyle = style('--soft');
    c.stroke();
  }
  const mark = (token, tint, text) => {
    const found = seen.find(p => p[0] === token);
    if (!found) return;
    c.beginPath();
    c.arc(found[1], found[2], Math.max(7, scale * 1.4), 0, 7);
    c.lineWidth = 2.5;
    c.strokeStyle = tint;
    c.stroke();
    c.fillStyle = tint;
    c.font = '600 13px system-ui, sans-serif';
    c.fillText(text, Math.min(found[1] + 10, width - c.measureText(text).width - 4), Math.max(14, found[2] - 10));
  };
  const first = data.first && data.first.step === at.step ? data.first.token : -1;
  if (at.token !== first) mark(at.token, style('--text'), 'chosen');
  if (first >= 0) mark(data.first.token, style('--bad'), 'first');
}

function say() {
  const s = step(), q = s.tokens / s.samples, t = at.token, place = s.coords[3 * t] === null ? s.ids[t] >= 0 ? `id ${s.ids[t]}` : '' : `at (${s.coords.slice(3 * t, 3 * t + 3).map(short).join(', ')})`;
  const p = shownPoint(), r = record(at.step, at.layer, p);
  const parts = [`Step ${at.step}, layer ${at.layer}, ${at.point < 0 ? `largest at ${data.points[p]}` : data.points[p]}, token ${s.cached + t % q}${s.samples > 1 ? ` of sample ${Math.floor(t / q)}` : ''} (${classes[s.classes[t]]}${place ? ' ' + place : ''}):`];
  for (const kind of ['local', 'total']) if (s[kind].length) parts.push(`${kind} ${short(cell(kind, at.layer, t))} units${kind === 'local' ? ';' : '.'}`);
  if (r && !r.passed) parts.push(`This point is at fault, ${short(r.ratio)} times its bound.`);
  $('#here').textContent = parts.join(' ');
}

function drawKey() {
  const [c, width, height] = sized($('#ramp'), 1, 14);
  for (let x = 0; x < width; x++) {
    c.fillStyle = css(2 ** (x / width * 15 - 5));
    c.fillRect(x, 0, 1, height);
  }
}

const form = $('#look');
function draw() {
  const s = step();
  at.token = Math.min(at.token, s.tokens - 1);
  form.layer.max = data.layers - 1;
  form.token.max = s.tokens - 1;
  for (const key of ['kind', 'step', 'layer', 'point', 'token']) form[key].value = at[key];
  drawKey();
  drawMap();
  drawDims();
  drawHistogram();
  drawScene();
  say();
}

data.points.forEach((name, i) => form.point.append(new Option(name, i)));
data.steps.forEach((s, i) => form.step.append(new Option(`${i} (${s.op})`, i)));
if (!data.steps.some(s => s.total.length)) form.kind.querySelector('[value=total]').disabled = true;
if (!data.steps.some(s => s.local.length)) form.kind.querySelector('[value=local]').disabled = true;
$('#pictures').hidden = false;
form.addEventListener('input', () => {
  at.kind = form.kind.value;
  for (const key of ['step', 'layer', 'point', 'token']) at[key] = Number(form[key].value);
  draw();
});
form.addEventListener('submit', event => event.preventDefault());
const move = (layer, token) => {
  at.layer = Math.min(data.layers - 1, Math.max(0, at.layer + layer));
  at.token = Math.min(step().tokens - 1, Math.max(0, at.token + token));
  draw();
};
const keys = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], PageUp: [0, -16], PageDown: [0, 16]};
$('#map').addEventListener('keydown', event => {
  if (!keys[event.key]) return;
  event.preventDefault();
  move(...keys[event.key]);
});
$('#map').addEventListener('click', event => {
  const box = $('#map').getBoundingClientRect(), w = box.width - left - 4, h = box.height - top - under;
  at.token = Math.max(0, Math.min(step().tokens - 1, Math.floor((event.clientX - box.left - left) / w * step().tokens)));
  at.layer = Math.max(0, Math.min(data.layers - 1, Math.floor((event.clientY - box.top - top) / h * data.layers)));
  draw();
});
$('#scene')?.addEventListener('keydown', event => {
  if (event.key !== 'ArrowLeft' && event.key !== 'ArrowRight') return;
  event.preventDefault();
  turn += event.key === 'ArrowLeft' ? -.15 : .15;
  drawScene();
});
$('#scene')?.addEventListener('pointermove', event => {
  if (event.buttons !== 1) return;
  turn += event.movementX / 120;
  drawScene();
});
$('#to-fault')?.addEventListener('click', () => {
  Object.assign(at, {kind: 'local', step: data.first.step, layer: Math.max(0, data.first.layer), point: data.first.point < data.points.length ? data.first.point : -1, token: Math.max(0, data.first.token)});
  draw();
});
dark.addEventListener('change', draw);
addEventListener('resize', draw);
draw();
