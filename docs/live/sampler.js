// From logits to tokens: what chapters 05a and 07 call guidance, nucleus and drawing. Plain arrays, one place at a time.

// Numbers in [0, 1) that are the same for the same seed on every machine (mulberry32, by Tommy Ettinger).
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Classifier-free guidance at a strength of 1 leaves the conditional logits as they are; above it, what the class
// adds to them is exaggerated: unconditional + strength (conditional - unconditional).
export function guide(conditional, unconditional, strength) {
  return conditional.map((logit, v) => unconditional[v] + strength * (logit - unconditional[v]));
}

// p_v = exp(l_v) / sum_w exp(l_w); the largest logit is taken off first, so that nothing overflows.
export function softmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, logit => Math.exp(logit - largest));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map(power => power / total);
}

// Nucleus, or top-p: only the likeliest codes stay, as few as have the mass p together; the others get -Infinity.
// A code stays if those that are likelier have less than p, and so does one as likely as the last that stays.
export function nucleus(logits, p) {
  if (p >= 1) return logits;
  const probabilities = softmax(logits);
  const order = Array.from(logits.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  let mass = 0, least = logits[order[0]];
  for (const v of order) {
    if (mass >= p) break;
    least = logits[v];
    mass += probabilities[v];
  }
  return logits.map(logit => (logit < least ? -Infinity : logit));
}

// The code at which the summed probabilities pass a number in [0, 1).
export function draw(probabilities, number) {
  const total = probabilities.reduce((a, b) => a + b, 0);
  let sum = 0, last = 0;
  for (let v = 0; v < probabilities.length; v++) {
    if (probabilities[v] === 0) continue;
    sum += probabilities[v];
    last = v;
    if (sum > number * total) break;
  }
  return last;
}

// The `count` likeliest codes, likeliest first.
export function likeliest(probabilities, count) {
  return Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]).slice(0, count);
}
