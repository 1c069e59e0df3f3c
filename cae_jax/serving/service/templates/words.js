// What a verdict and a p-value mean, in words for the shop floor: words.py says the same.

const few = 0.28; // a share below it is told as "1 in ...", one from it on as "... in 10"

export function sentence(defective, p, n) {
  return `${defective ? "Defective" : "Good"}: ${rarity(p, n)}.`;
}

// The share of unseen good distances, rising, at least as large: thresholds.p_values.
export function pValue(unseen, score) {
  if (unseen.length === 0) return null;
  const atLeast = unseen.filter((each) => each >= score).length;
  return (1 + atLeast) / (unseen.length + 1);
}

function rarity(p, n) {
  if (p === null || Number.isNaN(p) || n < 1)
    return "how unusual this is cannot be said, as no good parts were kept aside to compare";
  const parts = n === 1 ? "good part" : "good parts";
  if (p * (n + 1) < 1.5)
    return `more unusual than ${n > 1 ? `all ${n} good parts` : "the one good part"} it was compared with`;
  let said = "nearly all good parts look";
  if (p < few) said = `about 1 good part in ${Math.round(1 / p)} looks`;
  else if (p < 0.95) said = `about ${Math.round(10 * p)} good parts in 10 look`;
  return `${said} at least this unusual (compared with ${n} ${parts})`;
}
