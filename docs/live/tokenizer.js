// From tokens to features: the sum f_hat of chapter 04. Features are flat arrays (C, h, w), channel after channel.

// A pyramid of token maps. `shape` comes from tokenizer.json (docs/export_onnx.py): codebook (V, C), grids, and for
// every scale the convolution phi, the matrix that enlarges its codes to the full grid, and the one that averages down.
export class Pyramid {
  constructor(shape) {
    Object.assign(this, shape);
    this.channels = shape.codebook[0].length;
    [this.rows, this.columns] = shape.grids.at(-1);
    this.cells = this.rows * this.columns;
  }

  empty() { return new Float32Array(this.channels * this.cells); }

  // What the tokens of scale k (from 0) add to f_hat: look the codes up, enlarge them, let phi repair the blur.
  contribution(tokens, k) {
    const enlarged = this.empty(), matrix = this.enlarge[k];
    tokens.forEach((token, i) => this.codebook[token].forEach((number, c) => {
      for (let cell = 0; cell < this.cells; cell++) enlarged[c * this.cells + cell] += number * matrix[i][cell];
    }));
    return this.phi(enlarged, k);
  }

  // phi(h) = (1 - r) h + r conv(h), a 3 x 3 convolution with zeros around the grid.
  phi(h, k) {
    const { weight, bias } = this.phis[k], r = this.phi_ratio, { rows, columns, cells, channels } = this;
    const repaired = this.empty();
    for (let out = 0; out < channels; out++) for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
      let sum = bias[out];
      for (let c = 0; c < channels; c++) for (let dy = -1; dy <= 1; dy++) for (let dx = -1; dx <= 1; dx++) {
        const inside = y + dy >= 0 && y + dy < rows && x + dx >= 0 && x + dx < columns;
        if (inside) sum += weight[out][c][dy + 1][dx + 1] * h[c * cells + (y + dy) * columns + x + dx];
      }
      const place = out * cells + y * columns + x;
      repaired[place] = (1 - r) * h[place] + r * sum;
    }
    return repaired;
  }

  // f_hat after each of the scales in `maps`.
  accumulate(maps) {
    let sum = this.empty();
    return maps.map((tokens, k) => {
      const more = this.contribution(tokens, k);
      sum = sum.map((number, i) => number + more[i]);
      return sum;
    });
  }

  // What the transformer reads to predict scale k: f_hat averaged down to that grid, (h_k w_k, C) cell after cell.
  atScale(fHat, k) {
    const matrix = this.average[k], count = matrix[0].length, read = new Float32Array(count * this.channels);
    for (let i = 0; i < count; i++) for (let c = 0; c < this.channels; c++) {
      let sum = 0;
      for (let cell = 0; cell < this.cells; cell++) sum += fHat[c * this.cells + cell] * matrix[cell][i];
      read[i * this.channels + c] = sum;
    }
    return read;
  }
}

// One map of tokens: the features are the codes themselves. Places that have no token yet are zero.
export class OneMap {
  constructor(shape) {
    Object.assign(this, shape);
    this.channels = shape.codebook[0].length;
    [this.rows, this.columns] = shape.grid;
    this.cells = this.rows * this.columns;
  }

  features(tokens) {
    const features = new Float32Array(this.channels * this.cells);
    tokens.forEach((token, i) => this.codebook[token].forEach((number, c) => {
      features[c * this.cells + i] = number;
    }));
    return features;
  }
}
