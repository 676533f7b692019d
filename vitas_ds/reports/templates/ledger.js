// The table of candidates: headings sort it, the fields below them filter it, a rank shows the layers of its network.
const holder = document.getElementById('candidates');
if (holder) {
  const data = JSON.parse(document.getElementById('ledger').textContent);
  const { columns, values, nets, layers } = data;
  const PAGE = 15, UNITS = { '': 1, k: 1e3, M: 1e6, G: 1e9, '%': 1 };
  const shown = columns.map(([, kind], c) => values[c].map(value => format(value, kind)));
  let by = 0, down = false, page = 0, open = null, rows = [];
  const tests = columns.map(() => null);

  function format(value, kind) {
    if (value === null) return '';
    if (kind === 'percent') return (100 * value).toFixed(2) + '%';
    if (kind === 'number') return String(Number(value.toPrecision(4)));
    return kind === 'text' ? value : value.toLocaleString('en-US');
  }
  function number(text, kind) {
    const found = text.trim().match(/^([\d.,]+)\s*([kMG%]?)$/);
    if (!found) return undefined;
    return Number(found[1].replaceAll(',', '')) * UNITS[found[2]] / (kind === 'percent' ? 100 : 1);
  }
  // Return a test of a row index: null for an empty filter, undefined for one that is not understood.
  function test(text, c) {
    const kind = columns[c][1], column = values[c];
    if (!text.trim()) return null;
    if (kind === 'text') return i => shown[c][i].toLowerCase().includes(text.trim().toLowerCase());
    const bound = text.match(/^\s*([<>]=?)(.*)$/), range = text.match(/^(.+?)(?:\.\.|-)(.+)$/);
    if (bound) {
      const limit = number(bound[2], kind), least = bound[1].startsWith('>'), equal = bound[1].length > 1;
      if (limit === undefined) return undefined;
      return i => column[i] !== null && ((least ? column[i] > limit : column[i] < limit) || (equal && column[i] === limit));
    }
    const [low, high] = (range ? range.slice(1) : [text, text]).map(part => number(part, kind));
    if (low === undefined || high === undefined) return undefined;
    if (range) return i => column[i] !== null && column[i] >= low && column[i] <= high;
    const wanted = format(low, kind);
    return i => shown[c][i] === wanted;
  }
  function compare(a, b) {
    const [x, y] = [values[by][a], values[by][b]];
    if (x === y) return a - b;
    if (x === null || x === '' || y === null || y === '') return x === null || x === '' ? 1 : -1;
    return (x < y) === down ? 1 : -1;
  }
  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith('on')) made.addEventListener(key.slice(2), value); else made.setAttribute(key, value);
    }
    made.append(...children);
    return made;
  }
  function side(c) {
    return columns[c][1] === 'text' ? {} : { class: 'number' };
  }
  function details(i) {
    const own = nets[i].map(k => layers[k]);
    const text = own.map((x, k) => `layer ${k + 1}: ${x.num_heads} heads, q/k/v ${x.qkv_dim}, MLP ${x.mlp_dim}`).join('; ');
    const column = name => values[columns.findIndex(([heading]) => heading === name)][i];
    const spec = { ...data.fields, patch_size: column('patch size'), embed_dim: column('embedding'), layers: own };
    return element('tr', {}, element('td', { colspan: columns.length, class: 'details' }, text,
      element('pre', { title: 'spec.json' }, JSON.stringify(spec))));
  }
  function draw() {
    for (const [c, cell] of [...head.children].entries()) {
      cell.setAttribute('aria-sort', c !== by ? 'none' : down ? 'descending' : 'ascending');
    }
    const first = page * PAGE, some = rows.slice(first, first + PAGE);
    body.replaceChildren(...some.flatMap(i => {
      const cells = columns.map((_, c) => element('td', side(c), shown[c][i]));
      cells[0].replaceChildren(element('button', { 'aria-expanded': open === i, title: 'show the layers',
        onclick: () => { open = open === i ? null : i; draw(); } }, shown[0][i]));
      const row = element('tr', {}, ...cells);
      return open === i ? [row, details(i)] : [row];
    }));
    count.textContent = rows.length ? `${first + 1} to ${first + some.length} of ${rows.length.toLocaleString('en-US')}` :
      'no candidate matches';
    before.disabled = page === 0;
    after.disabled = first + PAGE >= rows.length;
  }
  function update() {
    const active = tests.filter(Boolean);
    rows = nets.map((_, i) => i).filter(i => active.every(matches => matches(i))).sort(compare);
    page = 0;
    draw();
  }
  const head = element('tr', {}, ...columns.map(([name], c) => element('th', { scope: 'col', ...side(c) }, element('button', {
    onclick: () => { down = by === c ? !down : columns[c][0] === 'score'; by = c; update(); } }, name))));
  const fields = element('tr', { class: 'filters' }, ...columns.map(([name, kind], c) => {
    const field = element('input', { 'aria-label': `filter ${name}`, placeholder: 'filter',
      oninput: () => {
        const found = test(field.value, c);
        field.setAttribute('aria-invalid', found === undefined);
        tests[c] = found;
        update();
      } });
    return element('td', side(c), field);
  }));
  const body = element('tbody'), count = element('span', { role: 'status' });
  const before = element('button', { onclick: () => { page--; draw(); } }, 'previous');
  const after = element('button', { onclick: () => { page++; draw(); } }, 'next');
  holder.replaceChildren(element('div', { class: 'wide ledger' }, element('table', {},
    element('thead', {}, head, fields), body)), element('div', { class: 'pages' }, count, before, after));
  update();
}
