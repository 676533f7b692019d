// Show the data-tip of the mark nearest to the pointer.
const tip = document.getElementById('tip');
let near = null;
function show(mark, x, y) {
  if (near) near.classList.remove('near');
  near = mark;
  tip.style.display = mark ? 'block' : 'none';
  if (!mark) return;
  mark.classList.add('near');
  tip.textContent = mark.dataset.tip;
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + 'px';
  tip.style.top = (y + tip.offsetHeight + 30 > innerHeight ? y - tip.offsetHeight - 12 : y + 16) + 'px';
}
for (const svg of document.querySelectorAll('svg.chart, svg.net, svg.bars')) {
  const marks = [...svg.querySelectorAll('circle[data-tip]')];
  svg.addEventListener('pointermove', event => {
    let best = event.target.closest('g[data-tip]'), least = 32;
    for (const mark of marks) {
      const box = mark.getBoundingClientRect();
      const d = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (d < least) { least = d; best = mark; }
    }
    show(best, event.clientX, event.clientY);
  });
  svg.addEventListener('pointerleave', () => show(null));
}
