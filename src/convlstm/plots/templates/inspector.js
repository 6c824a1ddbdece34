"use strict";
const page = JSON.parse(document.getElementById("page").textContent);
const $ = (id) => document.getElementById(id);
const {frames, layers, colours} = page;
const [height, width] = frames.size;
const view = {step: page.past - 1, picture: 0, layer: 0, value: 0, channel: 0, point: null};
const NOT_FINITE = 255, NOT_MEASURED = 65535;

// Numbers of the page: base64, inflated, each the difference from what its neighbours predict.
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function decode(text, count, h, w, size) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(stream).arrayBuffer());
  const n = count * h * w;
  let codes = raw;
  if (size === 2) {
    codes = new Uint16Array(n);
    for (let k = 0; k < n; k++) codes[k] = raw[k] << 8 | raw[n + k];
  }
  let k = 0;
  for (let c = 0; c < count; c++) {
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++, k++) {
        const left = x ? codes[k - 1] : 0, above = y ? codes[k - w] : 0;
        if (!y) codes[k] += left;
        else if (!x) codes[k] += above;
        else {
          const sum = left + above - codes[k - w - 1];
          const low = Math.min(left, above), high = Math.max(left, above);
          codes[k] += sum < low ? low : sum > high ? high : sum;
        }
      }
    }
  }
  return codes;
}

const MOST = 64e6;  // bytes of decoded maps that are kept
const kept = new Map();
let held = 0;
function load(key, text, count, h, w, size) {
  let entry = kept.get(key);
  if (entry) kept.delete(key);
  else {
    entry = {codes: decode(text, count, h, w, size), bytes: count * h * w * size};
    held += entry.bytes;
  }
  kept.set(key, entry);
  for (const [old, {bytes: size}] of kept) {
    if (held <= MOST || old === key) break;
    kept.delete(old);
    held -= size;
  }
  return entry.codes;
}

// Colours: a value's position on a scale, and the colour of that position.
const tables = {grey: bytes(colours.grey), diverging: bytes(colours.diverging)};
const position = (value, scale) => {
  const place = Math.min(1, Math.max(0, (value - scale.low) / (scale.high - scale.low)));
  return scale.root ? Math.sqrt(place) : place;
};
const packed = (r, g, b) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
const missing = packed(...colours.missing);
function colour(value, scale) {
  if (Number.isNaN(value)) return missing;
  const table = tables[scale.table], k = 3 * Math.round(255 * position(value, scale));
  return packed(table[k], table[k + 1], table[k + 2]);
}
function classColour(value) {
  if (Number.isNaN(value)) return missing;
  let k = 0;
  while (k < colours.bounds.length && value >= colours.bounds[k]) k++;
  return packed(...colours.classes[k]);
}
function show(canvas, h, w, pixels) {
  if (canvas.width !== w) canvas.width = w;
  if (canvas.height !== h) canvas.height = h;
  canvas.classList.toggle("fine", w > (canvas.id ? 420 : 96));  // drawn smaller than it is
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), w, h), 0, 0);
}
function format(value) {
  if (!Number.isFinite(value)) return "not measured";
  const size = Math.abs(value);
  const text = size && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(+value.toPrecision(4));
  return text.replace(/-/g, "−");
}
function write(node, ...parts) {  // a part [text] is emphasised
  node.replaceChildren(...parts.map((part) => {
    if (typeof part === "string") return document.createTextNode(part);
    const strong = document.createElement("b");
    strong.textContent = part[0];
    return strong;
  }));
}

// Frames: a function (row, column) -> values of the channels of the chosen picture, or null.
const [rows, columns] = frames.shown;
async function frameOf(kind, index) {
  const text = index < 0 ? undefined : frames[kind][index];
  if (text === undefined) return null;
  const codes = await load(kind + index, text, frames.low.length, rows, columns, 2);
  const {channels} = frames.pictures[view.picture];
  return (k) => channels.map((c) => {
    const code = codes[c * rows * columns + k];
    const width = frames.high[c] - frames.low[c];
    return code === NOT_MEASURED ? NaN : frames.low[c] + code / (NOT_MEASURED - 1) * width;
  });
}
const digits = frames.low.map((low, c) => {  // that the stored numbers have after the point
  const step = (frames.high[c] - low) / (NOT_MEASURED - 1);
  return step ? Math.min(20, Math.max(0, Math.floor(-Math.log10(step)))) : 6;
});
const leadName = (index) => page.leads[index];
const frameName = (index) => leadName(index) + (page.times.length ? ` (${page.times[index]})` : "");
async function framesNow() {
  const index = view.step, next = index + 1 - page.past, isPast = index < page.past;
  const input = await (isPast ? frameOf("past", index) : frameOf("forecast", index - page.past));
  const forecast = await frameOf("forecast", next), truth = await frameOf("truth", next);
  const difference = forecast && truth && ((k) => {
    const made = forecast(k), seen = truth(k);
    return [made.reduce((sum, value, c) => sum + value - seen[c], 0) / made.length];
  });
  const reading = "no forecast while the past is read";
  return {
    input: {get: input, note: frameName(index) + (isPast ? "" : ", forecast")},
    forecast: {get: forecast, note: next < 0 ? "" : frameName(index + 1), none: reading},
    truth: {
      get: truth, note: next < 0 ? "" : frameName(index + 1),
      none: next < 0 ? reading : "not known for this time",
    },
    error: {get: difference, note: "forecast minus truth", none: next < 0 ? reading : "needs the truth"},
  };
}
function drawFrame(key, {get, note, none}) {
  const picture = frames.pictures[view.picture], canvas = $(key), isError = key === "error";
  $(key + "-note").textContent = note;
  const empty = $(key + "-none");
  empty.hidden = Boolean(get);
  empty.textContent = none || "";
  const pixels = new Uint32Array(rows * columns);
  let low = Infinity, high = -Infinity;
  for (let k = 0; get && k < pixels.length; k++) {
    const values = get(k);
    if (isError) pixels[k] = colour(values[0], picture.error);
    else if (colours.classes) pixels[k] = classColour(values[0]);
    else if (values.length === 1) pixels[k] = colour(values[0], picture.scale);
    else {
      const light = values.map((value) => Math.round(255 * position(value, picture.scale)));
      pixels[k] = values.some(Number.isNaN) ? missing : packed(...light);
    }
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
  }
  show(canvas, rows, columns, pixels);
  const number = (value) => format(Number.isFinite(value) ? +value.toFixed(digits[picture.channels[0]]) : value);
  const unit = picture.unit ? " " + picture.unit : "";
  const name = canvas.closest("figure").querySelector("b").textContent;
  const range = low > high ? "not measured" : `${number(low)} to ${number(high)}${unit}`;
  canvas.setAttribute("aria-label", `${name} ${note || ""}, ${picture.name}: ${get ? range : none}`);
  const output = $(key + "-value");
  if (!get) write(output, "\u00a0");
  else if (!view.point) write(output, range);
  else {
    const [y, x] = view.point.map(Math.floor), r = frames.reduction;
    const values = get(Math.floor(y / r) * columns + Math.floor(x / r)).map(number).join(", ");
    write(output, [values + (values.includes("not") ? "" : unit)], ` at row ${y}, column ${x}`);
  }
}

// Layers.
const layerNow = () => layers[view.layer];
const valueNow = () => layerNow().values[view.value];
async function mapsNow() {
  const layer = layerNow(), value = valueNow(), k = view.step - layer.first;
  if (k < 0 || k >= value.steps.length) return null;
  const [h, w] = value.size, key = [view.layer, view.value, k].join();
  return load(key, value.steps[k], value.channels.length, h, w, 1);
}
const valueOf = (value, c, code) => code === NOT_FINITE ? NaN
  : value.low[c] + code / (page.levels - 1) * (value.high[c] - value.low[c]);
function scaleOf(value, c) {
  if (!$("own").checked) return value.scale;
  const low = value.low[c], high = value.high[c];
  const end = Math.max(Math.abs(low), Math.abs(high)) || 1;
  if (value.scale.table === "diverging") return {table: "diverging", low: -end, high: end};
  return {table: "grey", low, high: high > low ? high : low + 1};
}
function paintMap(canvas, value, codes, c) {
  const [h, w] = value.size, scale = scaleOf(value, c), pixels = new Uint32Array(h * w);
  const table = Uint32Array.from({length: 256}, (_, code) => colour(valueOf(value, c, code), scale));
  for (let k = 0; k < pixels.length; k++) pixels[k] = table[codes[c * h * w + k]];
  show(canvas, h, w, pixels);
}
const BINS = 40;
function drawHistogram(value, codes, c) {
  const [h, w] = value.size, scale = scaleOf(value, c), n = h * w, counts = value.channels.map(() => 0);
  const own = new Float64Array(BINS), all = new Float64Array(BINS);
  let sum = 0, squares = 0, seen = 0, low = Infinity, high = -Infinity;
  value.channels.forEach((_, channel) => {
    const byCode = new Uint32Array(256);
    for (let k = channel * n; k < (channel + 1) * n; k++) byCode[codes[k]]++;
    byCode.forEach((count, code) => {
      const number = valueOf(value, channel, code);
      if (!count || Number.isNaN(number)) return;
      const place = (number - scale.low) / (scale.high - scale.low);
      const bin = Math.min(BINS - 1, Math.max(0, Math.floor(BINS * place)));
      all[bin] += count;
      if (channel !== c) return;
      own[bin] += count;
      sum += count * number; squares += count * number * number; seen += count;
      low = Math.min(low, number); high = Math.max(high, number);
    });
  });
  const total = all.reduce((a, b) => a + b, 0) || 1;
  const most = Math.max(...own.map((count) => count / (seen || 1)), ...all.map((count) => count / total)) || 1;
  const up = (share) => 96 * share / most;
  $("bins").replaceChildren(...Array.from(own, (count, k) => {
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect"), tall = up(count / (seen || 1));
    const place = {x: 8 * k + 0.5, y: 100 - tall, width: 7, height: tall};
    for (const [name, number] of Object.entries(place)) bar.setAttribute(name, number);
    return bar;
  }));
  const points = Array.from(all, (count, k) => `${8 * k} ${100 - up(count / total)}H${8 * k + 8}`);
  $("outline").setAttribute("d", "M" + points.join("L"));
  const stops = Array.from({length: 33}, (_, k) => {
    const number = colour(scale.low + k / 32 * (scale.high - scale.low), scale);
    return `rgb(${number & 255}, ${number >> 8 & 255}, ${number >> 16 & 255})`;
  });
  $("ramp").style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  $("low").textContent = format(scale.low);
  $("middle").textContent = format((scale.low + scale.high) / 2);
  $("high").textContent = format(scale.high);
  const mean = sum / seen, spread = Math.sqrt(Math.max(0, squares / seen - mean * mean));
  const text = `mean ${format(mean)}, standard deviation ${format(spread)}, ${format(low)} to ${format(high)}`;
  write($("numbers"), seen ? text : "no finite value");
  $("bars").setAttribute("aria-label", `Histogram of channel ${value.channels[c]}: ${$("numbers").textContent}`);
}
function drawMaps(codes) {
  const layer = layerNow(), value = valueNow(), c = view.channel, empty = $("map-none"), canvas = $("map");
  const title = `${layer.name}, ${value.name}, channel ${value.channels[c]}`;
  $("map-note").textContent = `${value.channels[c]} of ${value.name}`;
  $("grid").classList.toggle("empty", !codes);
  empty.hidden = Boolean(codes);
  empty.textContent = "this layer begins with a later step";
  if (canvas.width !== value.size[1] || canvas.height !== value.size[0]) {
    [canvas.height, canvas.width] = value.size;
  }
  canvas.setAttribute("aria-label", `${title}, step ${view.step + 1}${codes ? "" : ": " + empty.textContent}`);
  write($("map-value"), codes ? `${value.size.join(" x ")} pixels` : "\u00a0");
  if (!codes) return;
  paintMap(canvas, value, codes, c);
  [...$("grid").children].forEach((button, k) => paintMap(button.firstChild, value, codes, k));
  drawHistogram(value, codes, c);
  if (view.point) {
    const [h, w] = value.size, fraction = view.point.map((place, axis) => place / value.extent[axis]);
    const y = Math.min(h - 1, Math.floor(fraction[0] * h)), x = Math.min(w - 1, Math.floor(fraction[1] * w));
    const number = valueOf(value, c, codes[(c * h + y) * w + x]);
    write($("map-value"), [Number.isNaN(number) ? "not finite" : format(number)], ` at row ${y}, column ${x} of ${h} x ${w}`);
  }
}

// One drawing at a time; what is asked for meanwhile is drawn after it.
let busy = false, again = false;
async function draw() {
  if (busy) { again = true; return; }
  busy = true;
  try {
    do {
      again = false;
      const [now, codes] = [await framesNow(), await mapsNow()];
      for (const [key, frame] of Object.entries(now)) drawFrame(key, frame);
      drawMaps(codes);
      mark();
      const makes = view.step + 1 - page.past;
      const text = `step ${view.step + 1} of ${page.steps}: reads ${leadName(view.step)}`
        + (makes < 0 ? "" : `, forecasts ${leadName(view.step + 1)}`);
      $("step").value = view.step + 1;
      $("step").setAttribute("aria-valuetext", text);
      $("now").textContent = text;
    } while (again);
  } catch (error) {
    $("trouble").hidden = false;
    $("trouble").textContent = typeof DecompressionStream === "undefined"
      ? "This page needs a browser of 2023 or later." : `The page is damaged: ${error.message}.`;
  } finally {
    busy = false;
    document.body.dataset.drawn = [view.step, view.picture, view.layer, view.value, view.channel].join();
  }
}
const drawnFrame = [rows * frames.reduction, columns * frames.reduction];
const extentOf = (canvas) => canvas.id === "map" ? valueNow().extent : drawnFrame;
function mark() {
  for (const picture of document.querySelectorAll(".picture")) {
    const canvas = picture.firstElementChild, dot = picture.children[1], extent = extentOf(canvas);
    dot.hidden = !view.point || !picture.querySelector(".none").hidden;
    if (!view.point) continue;
    dot.style.top = 100 * view.point[0] / extent[0] + "%";
    dot.style.left = 100 * view.point[1] / extent[1] + "%";
  }
}

// What people do.
function options(select, names) {
  select.replaceChildren(...names.map((name) => new Option(name)));
}
function choose(changes) {
  const before = {layer: layerNow().name, value: valueNow().name, channel: valueNow().channels[view.channel]};
  Object.assign(view, changes);
  if ("layer" in changes) {
    view.value = Math.max(0, layerNow().values.findIndex(({name}) => name === before.value));
  }
  if ("layer" in changes || "value" in changes) {
    view.channel = Math.max(0, valueNow().channels.indexOf(before.channel));
  }
  pickers();
  draw();
}
let shownGrid = "";
function pickers() {
  const value = valueNow(), grid = `${view.layer},${view.value}`;
  if (grid !== shownGrid) {
    shownGrid = grid;
    options($("value"), layerNow().values.map(({name}) => name));
    options($("channel"), value.channels.map(String));
    $("grid").className = value.channels.length <= 24 ? "few" : "";
    $("grid").replaceChildren(...value.channels.map((name, k) => {
      const button = document.createElement("button"), canvas = document.createElement("canvas");
      [canvas.height, canvas.width] = value.size;
      button.type = "button";
      button.append(canvas, String(name));
      button.setAttribute("aria-label", `Channel ${name}`);
      button.addEventListener("click", () => choose({channel: k}));
      return button;
    }));
  }
  for (const name of ["picture", "layer", "value", "channel"]) $(name).selectedIndex = view[name];
  [...$("grid").children].forEach((button, k) => button.setAttribute("aria-pressed", k === view.channel));
  document.querySelectorAll("[data-picture]").forEach((legend, k) => { legend.hidden = k !== view.picture; });
}
const turned = (k, change, count) => (k + change + count) % count;
const go = (change) => choose({step: turned(view.step, change, page.steps)});
let timer = 0;
function play() {
  if (timer) clearInterval(timer);
  timer = timer ? 0 : setInterval(() => go(1), 300);
  $("play").classList.toggle("playing", timer !== 0);
  $("play").setAttribute("aria-label", timer ? "Pause" : "Play");
}
function pointAt(event) {
  const canvas = event.currentTarget, box = canvas.getBoundingClientRect(), extent = extentOf(canvas);
  const place = [(event.clientY - box.top) / box.height * extent[0], (event.clientX - box.left) / box.width * extent[1]];
  view.point = place.map((number, axis) => Math.min([height, width][axis] - 1e-6, Math.max(0, number)));
  draw();
}
function movePoint(down, right) {
  const [y, x] = view.point ? view.point.map(Math.floor) : [height >> 1, width >> 1];
  const inside = (number, size) => Math.min(size - 1, Math.max(0, number)) + 0.5;
  view.point = view.point ? [inside(y + down, height), inside(x + right, width)] : [y + 0.5, x + 0.5];
  draw();
}
const ARROWS = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
function key(event) {
  const {target} = event, kind = target.type || target.localName;
  if (event.ctrlKey || event.altKey || event.metaKey || target.localName === "select") return;
  const arrow = ARROWS[event.key], letter = event.key.toLowerCase(), change = event.shiftKey ? -1 : 1;
  if (arrow && event.shiftKey) movePoint(...arrow);
  else if (arrow && arrow[1] && kind !== "range") go(arrow[1]);
  else if (event.key === " " && !["button", "checkbox"].includes(kind)) play();
  else if (letter === "l") choose({layer: turned(view.layer, change, layers.length)});
  else if (letter === "v") choose({value: turned(view.value, change, layerNow().values.length)});
  else if (letter === "c") choose({channel: turned(view.channel, change, valueNow().channels.length)});
  else if (letter === "o") { $("own").checked = !$("own").checked; draw(); }
  else return;
  event.preventDefault();
}
options($("layer"), layers.map(({name}) => name));
for (const name of ["picture", "layer", "value", "channel"]) {
  $(name).addEventListener("change", (event) => choose({[name]: event.target.selectedIndex}));
}
$("step").addEventListener("input", (event) => choose({step: event.target.value - 1}));
$("own").addEventListener("change", draw);
$("play").addEventListener("click", play);
for (const canvas of document.querySelectorAll(".picture canvas")) {
  canvas.addEventListener("pointermove", pointAt);
  canvas.addEventListener("pointerdown", pointAt);
}
document.addEventListener("keydown", key);
pickers();
draw();
