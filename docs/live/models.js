// The two models, as graphs that onnxruntime runs in the browser, and the two loops that draw with them.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";
import { draw, guide, nucleus, softmax } from "./sampler.js";
import { OneMap, Pyramid } from "./tokenizer.js";

const here = name => new URL(name, import.meta.url);

// A file that lies packed on the server, unpacked; `heard(bytes)` is told of what has come.
async function unpacked(name, heard) {
  const answer = await fetch(here(`${name}.gz`));
  if (!answer.ok) throw new Error(`${name}.gz could not be read (${answer.status})`);
  const counted = new TransformStream({
    transform(chunk, out) { heard(chunk.length); out.enqueue(chunk); },
  });
  const bytes = await new Response(answer.body.pipeThrough(counted)).arrayBuffer();
  const [first, second] = new Uint8Array(bytes, 0, 2);
  if (first !== 0x1f || second !== 0x8b) return bytes; // a server that said what it is, and a browser that unpacked it
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

// Everything that drawing needs. `progress(done, all)` counts bytes.
export async function load(progress = () => {}) {
  const sizes = await (await fetch(here("files.json"))).json();
  const all = Object.values(sizes).reduce((a, b) => a + b, 0);
  let done = 0;
  const heard = bytes => progress(done += bytes, all);
  const names = ["ort/ort-wasm-simd-threaded.wasm", "models/scales.onnx", "models/scales-decoder.onnx",
    "models/raster.onnx", "models/raster-decoder.onnx", "models/tokenizer.json"];
  const [wasm, scales, scalesDecoder, raster, rasterDecoder, text] =
    await Promise.all(names.map(name => unpacked(name, heard)));
  ort.env.wasm.wasmBinary = wasm;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.proxy = false;
  const session = bytes => ort.InferenceSession.create(new Uint8Array(bytes), { executionProviders: ["wasm"] });
  const shapes = JSON.parse(new TextDecoder().decode(text));
  return {
    scales: new Scales(shapes.scales, await session(scales), await session(scalesDecoder)),
    raster: new Raster(shapes.raster, await session(raster), await session(rasterDecoder)),
  };
}

const floats = (numbers, ...shape) => new ort.Tensor("float32", numbers, shape);
const integers = numbers => new ort.Tensor("int64", BigInt64Array.from(numbers, BigInt), [numbers.length]);

// What the two have in common: a step with its cache, and a decoder.
class Model {
  constructor(shape, step, decoder) { Object.assign(this, { shape, step, decoder }); }

  // The class, and where guidance asks for it the null class beside it: a strength of 1 is no guidance.
  labels(label, guided) { return guided ? [label, this.shape.classes] : [label]; }

  emptyPast(batch) {
    const { depth, heads, head_width } = this.shape;
    const nothing = () => floats(new Float32Array(0), depth, batch, heads, 0, head_width);
    return { keys: nothing(), values: nothing() };
  }

  // One run of the graph: the logits, and what later steps may look at.
  async run(inputs, past) {
    const { logits, new_keys, new_values } = await this.step.run({ ...inputs, ...past });
    return [logits.data, { keys: new_keys, values: new_values }];
  }

  // The logits of place i, of `places` in each half of the batch, guided, filtered, as probabilities.
  probabilities(logits, i, places, strength, guided, topP) {
    const codes = this.shape.codes, row = n => logits.subarray(n * codes, (n + 1) * codes);
    return softmax(nucleus(guided ? guide(row(i), row(places + i), strength) : row(i), topP));
  }

  // Features (C, h, w), several of them, to images of 28 x 28 numbers in [0, 1].
  async decode(several) {
    const { channels, rows, columns } = this.map, all = new Float32Array(several.length * several[0].length);
    several.forEach((features, i) => all.set(features, i * features.length));
    const { images } = await this.decoder.run({ features: floats(all, several.length, channels, rows, columns) });
    const size = images.data.length / several.length;
    return several.map((_, i) => images.data.slice(i * size, (i + 1) * size));
  }
}

// VAR, next scale by next scale.
export class Scales extends Model {
  constructor(...parts) {
    super(...parts);
    this.map = new Pyramid(this.shape);
    this.counts = this.shape.grids.map(([rows, columns]) => rows * columns);
  }

  get length() { return this.counts.reduce((a, b) => a + b, 0); }

  // Yields every scale as it is drawn: its tokens, their probabilities, f_hat, and the milliseconds it took.
  // `numbers`: one in [0, 1) for each token, by which it is drawn. `given[k][i]`: tokens that are not drawn but set.
  async *drawing({ label, guidance, topP, numbers, given = [] }) {
    const guided = guidance > 1, labels = this.labels(label, guided), batch = labels.length;
    const scales = this.counts.length, { channels } = this.map;
    let past = this.emptyPast(batch), fHat = this.map.empty(), begin = 0;
    for (let k = 0; k < scales; k++) {
      const started = performance.now(), count = this.counts[k];
      const read = k ? this.map.atScale(fHat, k) : new Float32Array(channels); // the first scale reads the class
      const inputs = new Float32Array(batch * read.length);
      for (let half = 0; half < batch; half++) inputs.set(read, half * read.length);
      const positions = Array.from({ length: count }, (_, i) => begin + i);
      let logits;
      [logits, past] = await this.run(
        { labels: integers(labels), inputs: floats(inputs, batch, count, channels), positions: integers(positions) },
        past,
      );
      // guidance grows from none at the first scale to its full strength at the last
      const strength = 1 + (guidance - 1) * k / (scales - 1);
      const probabilities = positions.map((_, i) => this.probabilities(logits, i, count, strength, guided, topP));
      const tokens = probabilities.map((p, i) => given[k]?.[i] ?? draw(p, numbers[begin + i]));
      const more = this.map.contribution(tokens, k);
      fHat = fHat.map((number, i) => number + more[i]);
      begin += count;
      yield { k, tokens, probabilities, features: fHat, milliseconds: performance.now() - started };
    }
  }

  // What the picture is made of when the maps of tokens are these.
  features(maps) { return this.map.accumulate(maps).at(-1); }
}

// LlamaGen's style, token by token from left to right and from top to bottom.
export class Raster extends Model {
  constructor(...parts) {
    super(...parts);
    this.map = new OneMap(this.shape);
  }

  get length() { return this.map.cells; }

  // As `Scales.drawing`, but each step is one token, and `given[n]` is one.
  async *drawing({ label, guidance, topP, numbers, given = [] }) {
    const guided = guidance > 1, labels = this.labels(label, guided);
    let past = this.emptyPast(labels.length), last = 0; // position 0 reads the class, and no token
    for (let n = 0; n < this.length; n++) {
      const started = performance.now();
      let logits;
      [logits, past] = await this.run(
        { labels: integers(labels), tokens: integers(labels.map(() => last)), positions: integers(labels.map(() => n)) },
        past,
      );
      const probabilities = this.probabilities(logits, 0, 1, guidance, guided, topP);
      last = given[n] ?? draw(probabilities, numbers[n]);
      yield { n, token: last, probabilities, milliseconds: performance.now() - started };
    }
  }

  features(tokens) { return this.map.features(tokens); }
}
