// Rates makes counts that only grow into how many there are a second. A count that shrinks
// has begun again at 0.

const WINDOW = 3000; // ms

export class Rates {
  constructor() {
    this.counts = new Map(); // key → [{at, grown}], grown: since the first
  }

  // add takes up what was counted at a time in ms; it returns the number a second, or
  // undefined if that is not known yet.
  add(key, count, at) {
    const known = this.counts.get(key);
    if (!known) {
      this.counts.set(key, {last: count, seen: [{at, grown: 0}]});
      return undefined;
    }
    const {seen} = known;
    const grown = seen[seen.length - 1].grown + (count >= known.last ? count - known.last : count);
    known.last = count;
    seen.push({at, grown});
    while (seen.length > 2 && at - seen[1].at >= WINDOW) {
      seen.shift();
    }
    const took = at - seen[0].at;
    return took > 0 ? (grown - seen[0].grown) * 1000 / took : undefined;
  }

  // keep forgets all that is not among the keys.
  keep(keys) {
    const wanted = new Set(keys);
    for (const key of this.counts.keys()) {
      if (!wanted.has(key)) {
        this.counts.delete(key);
      }
    }
  }
}

// perSecond is a rate as text.
export function perSecond(rate) {
  if (rate === undefined) {
    return '…';
  }
  return rate >= 10 || rate === 0 ? Math.round(rate).toLocaleString('en') : rate.toFixed(1);
}
