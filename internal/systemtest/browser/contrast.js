// Returns what text and what edges of the page have too little contrast, as
// WCAG 2.2 computes it: 4.5:1 for text, 3:1 for large text and for what shows a
// control or a quantity (1.4.3, 1.4.11).
(() => {
  const read = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return colour.startsWith('color(') ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(read(getComputedStyle(e).backgroundColor));
    layers.push([...(matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255]), 1]);
    return layers.reduceRight((under, top) => over(top, under));
  };
  const failures = [];
  let checked = 0;
  const check = (what, colour, under, least) => {
    checked++;
    const got = ratio(over(read(colour), under), under);
    if (got < least) failures.push(`${what}: ${got.toFixed(2)}:1, less than ${least}:1`);
  };
  const shown = (e) => e.checkVisibility() && !e.closest('.sr') && e.getClientRects().length;
  const text = (e, content, style) => {
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    check(`text “${content.trim().slice(0, 40)}”`, style.color, ground(e), large ? 3 : 4.5);
  };

  const nodes = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (nodes.nextNode()) {
    const e = nodes.currentNode.parentElement;
    if (nodes.currentNode.data.trim() && shown(e)) text(e, nodes.currentNode.data, getComputedStyle(e));
  }
  for (const e of document.querySelectorAll('input')) {
    if (!shown(e)) continue;
    text(e, e.value ? e.id : e.placeholder, getComputedStyle(e, e.value ? null : '::placeholder'));
    check(`edge of #${e.id}`, getComputedStyle(e).borderTopColor, ground(e.parentElement), 3);
  }
  for (const e of document.querySelectorAll('[role=meter] div')) {
    if (shown(e) && e.clientWidth) check('bar', getComputedStyle(e).backgroundColor, ground(e.parentElement), 3);
  }
  for (const e of document.querySelectorAll('svg .day')) {
    if (shown(e)) check('day', getComputedStyle(e).fill, ground(e.closest('div')), 3);
  }
  const focused = document.activeElement;
  if (focused.matches(':focus-visible') && focused !== document.body) {
    const { outlineStyle, outlineColor, outlineWidth } = getComputedStyle(focused);
    if (outlineStyle === 'none' || parseFloat(outlineWidth) < 2) failures.push(`#${focused.id} has no outline`);
    else check(`outline of #${focused.id}`, outlineColor, ground(focused.parentElement), 3);
  }
  return { checked, failures };
})()
