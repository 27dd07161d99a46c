// What the first page shows: controls, two pictures with their clocks, and tokens that can be changed.

import { load } from "./models.js";
import { likeliest, seeded } from "./sampler.js";

const $ = id => document.getElementById(id);
const make = (parent, tag, name, text = "") => {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return parent.appendChild(element);
};
const CELL = 4; // pixels of a raster token's side
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

let models, label = 7, turn = 0;

// A model, and what the page knows of its drawing: the finished steps, and the tokens that the reader has set.
class Panel {
  constructor(id, model, byScale) {
    Object.assign(this, { model, byScale, set: [], steps: [], root: $(id) });
    for (const name of ["time", "step", "picture", "tokens"]) this[name] = this.root.querySelector(`.live-${name}`);
    this.maps = byScale ? model.shape.grids : [model.shape.grid];
    this.cells = this.maps.map((grid, k) => this.addGrid(grid, k));
  }

  // A map of tokens as a grid of buttons.
  addGrid([rows, columns], k) {
    const box = make(this.tokens, "div", "live-map");
    const grid = make(box, "div", "live-grid");
    grid.style.setProperty("--columns", columns);
    make(box, "span", "live-caption", this.byScale ? `scale ${k + 1}` : `${rows} × ${columns} tokens, row by row`);
    return Array.from({ length: rows * columns }, (_, i) => {
      const cell = make(grid, "button", "live-cell");
      cell.type = "button";
      cell.disabled = true;
      cell.addEventListener("click", () => choose(this, k, i));
      return cell;
    });
  }

  where(k, i) {
    const columns = this.maps[k][1], place = `row ${Math.floor(i / columns) + 1}, column ${(i % columns) + 1}`;
    return this.byScale ? `Scale ${k + 1}, ${place}` : `Token ${i + 1}: ${place}`;
  }

  // All steps of a drawing, finished before anything is shown, so that the clock counts the model and not the page.
  async compute(settings) {
    const random = seeded(settings.seed);
    const numbers = Array.from({ length: this.model.length }, random), steps = [];
    for await (const step of this.model.drawing({ ...settings, numbers, given: this.set })) steps.push(step);
    return steps;
  }

  // The tokens as maps: of VAR one a scale, of the raster model the one there is.
  tokenMaps(steps = this.steps) {
    return this.byScale ? steps.map(step => step.tokens) : [steps.map(step => step.token)];
  }

  probabilities(k, i) { return this.byScale ? this.steps[k].probabilities[i] : this.steps[i].probabilities; }

  features(maps) { return this.model.features(this.byScale ? maps : maps[0]); }

  // One picture a step; the raster model's places that have no token yet stay grey.
  async pictures(steps) {
    const features = this.byScale ? steps.map(step => step.features)
      : steps.map((_, n) => this.features([steps.slice(0, n + 1).map(step => step.token)]));
    return this.model.decode(features);
  }

  // Show the drawing as it was after step n.
  show(n, picture) {
    const grid = this.maps[0][1], hidden = this.byScale ? null
      : (x, y) => Math.floor(y / CELL) * grid + Math.floor(x / CELL) > n;
    paint(this.picture, picture, hidden);
    const done = this.steps.slice(0, n + 1);
    this.time.textContent = `${done.reduce((sum, step) => sum + step.milliseconds, 0).toFixed(1)} ms`;
    this.step.textContent = `${this.byScale ? "scale" : "token"} ${n + 1} of ${this.steps.length}`;
    this.cells.forEach((cells, k) => cells.forEach((cell, i) => this.label(cell, k, i, this.byScale ? k <= n : i <= n)));
  }

  label(cell, k, i, drawn) {
    cell.disabled = !drawn;
    cell.textContent = "";
    cell.title = "";
    if (!drawn) return;
    const token = this.tokenMaps()[k][i], probability = this.probabilities(k, i)[token];
    cell.textContent = token;
    cell.style.setProperty("--likely", probability.toFixed(3));
    cell.classList.toggle("live-set", this.given(k, i) !== undefined);
    cell.title = `${this.where(k, i)}: code ${token}, probability ${probability.toFixed(3)}`;
    cell.setAttribute("aria-label", `${cell.title}. Change it.`);
  }

  given(k, i) { return this.byScale ? this.set[k]?.[i] : this.set[i]; }

  // Set a token, and keep the others as they are, or only those before it. Of a scale all tokens are drawn at once.
  change(k, i, code, anew) {
    const maps = this.tokenMaps();
    if (this.byScale) {
      const last = anew ? k : maps.length - 1;
      this.set = maps.slice(0, last + 1).map(tokens => [...tokens]);
      this.set[k][i] = code;
    } else {
      this.set = anew ? maps[0].slice(0, i) : [...maps[0]];
      this.set[i] = code;
    }
  }
}

// A picture of 28 x 28 numbers in [0, 1], as grey pixels.
function paint(canvas, picture, hidden) {
  const context = canvas.getContext("2d"), image = context.createImageData(28, 28);
  picture.forEach((number, at) => {
    const grey = hidden?.(at % 28, Math.floor(at / 28)) ? 128 : Math.round(255 * number);
    image.data.set([grey, grey, grey, 255], 4 * at);
  });
  context.putImageData(image, 0, 0);
}

const settings = () => ({
  label, seed: Number($("live-seed").value) || 0,
  guidance: Number($("live-guidance").value), topP: Number($("live-topp").value),
});

// Draw with both models. `played`: step by step, both clocks running, slowed down alike; else the end at once.
async function drawAll(played) {
  const mine = ++turn;
  for (const panel of panels) {
    const steps = await panel.compute(settings());
    if (mine !== turn) return;
    panel.next = steps;
    panel.frames = played ? await panel.pictures(steps)
      : await panel.model.decode([panel.features(panel.tokenMaps(steps))]);
    if (mine !== turn) return;
  }
  for (const panel of panels) panel.steps = panel.next;
  document.body.dataset.live = "drawing";
  await Promise.all(panels.map(panel => (played ? play(panel, mine) : panel.show(panel.steps.length - 1, panel.frames[0]))));
  if (mine === turn) {
    document.body.dataset.live = "ready";
    say("");
    if (chosen) showCandidates();
  }
}

async function play(panel, mine) {
  const slower = Number($("live-pace").value), began = performance.now();
  let due = 0;
  for (let n = 0; n < panel.steps.length; n++) {
    due += panel.steps[n].milliseconds * slower;
    while (performance.now() - began < due) {
      const step = panel.steps[n], into = (performance.now() - began - due) / slower + step.milliseconds;
      const before = panel.steps.slice(0, n).reduce((sum, { milliseconds }) => sum + milliseconds, 0);
      panel.time.textContent = `${(before + Math.max(0, into)).toFixed(1)} ms`;
      await new Promise(resolve => setTimeout(resolve, 15));
      if (mine !== turn) return;
    }
    panel.show(n, panel.frames[n]);
  }
}

// Tokens that are changed ------------------------------------------------------------------------------------------

let chosen = null;

function choose(panel, k, i) {
  chosen = { panel, k, i };
  $("live-token").hidden = false;
  showCandidates();
  $("live-token").scrollIntoView({ block: "nearest", behavior: calm ? "auto" : "smooth" });
}

// The likeliest codes of the chosen place, each with the picture that it would make if nothing else changed.
async function showCandidates() {
  const { panel, k, i } = chosen, probabilities = panel.probabilities(k, i), maps = panel.tokenMaps();
  const now = maps[k][i], others = likeliest(probabilities, 9).filter(code => probabilities[code] > 0 && code !== now);
  const codes = [now, ...others.slice(0, 7)];
  for (const { cells } of panels) cells.flat().forEach(cell => cell.classList.remove("live-chosen"));
  panel.cells[k][i].classList.add("live-chosen");
  $("live-token-title").textContent = panel.where(k, i);
  $("live-token-said").textContent = `Code ${now} stands here, which had a probability of `
    + `${probabilities[now].toFixed(3)}. The likeliest others, and what they would make of the picture alone:`;
  $("live-code").value = now;
  const changed = codes.map(code => maps.map((tokens, at) => tokens.map((t, j) => (at === k && j === i ? code : t))));
  const pictures = await panel.model.decode(changed.map(others => panel.features(others)));
  $("live-candidates").replaceChildren();
  codes.forEach((code, n) => {
    const button = make($("live-candidates"), "button", "live-candidate");
    button.type = "button";
    const canvas = make(button, "canvas", "");
    canvas.width = canvas.height = 28;
    paint(canvas, pictures[n]);
    make(button, "span", "", `${code}${n ? "" : ", now"}`);
    make(button, "span", "live-caption", probabilities[code].toFixed(3));
    button.setAttribute("aria-label", `Code ${code}, probability ${probabilities[code].toFixed(3)}`);
    button.addEventListener("click", () => change(code));
  });
}

function change(code) {
  const { panel, k, i } = chosen, most = panel.model.shape.codes - 1;
  if (!(Number.isInteger(code) && code >= 0 && code <= most)) return say(`A code is a number from 0 to ${most}.`);
  panel.change(k, i, code, $("live-anew").checked);
  return drawAll(false);
}

function forget() {
  for (const panel of panels) panel.set = [];
}

// Controls ---------------------------------------------------------------------------------------------------------

function say(text) { $("live-status").textContent = text; }

function sayNumbers() {
  const guidance = Number($("live-guidance").value), topP = Number($("live-topp").value);
  $("live-guidance-said").textContent = guidance === 1 ? "none" : guidance.toFixed(1);
  $("live-topp-said").textContent = topP === 1 ? "all codes" : topP.toFixed(2);
}

function setUp() {
  for (let digit = 0; digit < models.scales.shape.classes; digit++) {
    const button = make($("live-classes"), "button", "live-class", digit);
    button.type = "button";
    button.setAttribute("aria-pressed", digit === label);
    button.addEventListener("click", () => {
      label = digit;
      for (const other of $("live-classes").children) other.setAttribute("aria-pressed", other === button);
      forget();
      drawAll(!calm);
    });
  }
  for (const id of ["live-guidance", "live-topp"]) {
    $(id).addEventListener("input", () => { sayNumbers(); forget(); drawAll(false); });
  }
  $("live-seed").addEventListener("change", () => { forget(); drawAll(!calm); });
  $("live-ask").addEventListener("submit", event => {
    event.preventDefault();
    $("live-seed").value = settings().seed + 1;
    forget();
    drawAll(!calm);
  });
  $("live-change").addEventListener("submit", event => { event.preventDefault(); change(Number($("live-code").value)); });
  $("live-undo").addEventListener("click", () => { forget(); drawAll(false); });
}

let panels = [];

async function start() {
  const megabytes = bytes => (bytes / 1e6).toFixed(1);
  try {
    models = await load((done, all) => say(`The models are on their way: ${megabytes(done)} of ${megabytes(all)} MB.`));
    panels = [new Panel("live-scales", models.scales, true), new Panel("live-raster", models.raster, false)];
    sayNumbers();
    setUp();
    say("The first drawings are slower than all later ones: they are not shown.");
    for (let i = 0; i < 2; i++) for (const panel of panels) await panel.compute(settings());
    await drawAll(!calm);
  } catch (error) {
    document.body.dataset.live = "failed";
    say(`The models cannot run here (${error.message}).`);
    console.warn(error);
  }
}

if ($("live")) {
  window.minivar = { draw: (which, given) => models[which].drawing(given) }; // for the browser's console, and tests
  start();
}
