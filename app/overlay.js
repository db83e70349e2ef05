// Draws one answered picture in the browser: masks at a threshold, or a class's probabilities. The server has sent the
// hundredth that each probability lies in (uint8, class by class); nothing here asks it again.
const settings = window.dsfedmedOverlay ??= {opacity: 0.35, percent: 50, view: 'mask', shown: 0, tool: 'look'};
const HEAT_LINE = [213, 94, 0];  // in none of the map's colours

async function unpacked(stream, size) {
  const bytes = await new Response(stream.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
  return new Uint8Array(bytes, 0, size);
}

async function begin(section) {
  const about = JSON.parse(section.dataset.about), [height, width] = about.size, size = height * width;
  const find = (name) => section.querySelector(name);
  const stage = find('.stage'), canvas = find('canvas'), cross = find('.cross'), told = find('.overlay-value');
  const answer = await fetch(section.dataset.levels);
  if (!answer.ok) { told.textContent = about.gone; return; }
  const levels = await unpacked(answer.body, about.classes.length * size);
  const paper = canvas.getContext('2d'), picture = paper.createImageData(width, height), out = picture.data;
  const mask = new Uint8Array(size), inner = new Uint8Array(size);
  let changes = null;
  const at = [height >> 1, width >> 1];

  function fill(index) {  // the mask of a class at the threshold, with what was corrected
    const from = index * size, percent = settings.percent;
    for (let n = 0; n < size; n++) {
      const changed = changes ? changes[from + n] : 0;
      mask[n] = changed === 1 || (changed !== 2 && levels[from + n] >= percent) ? 1 : 0;
    }
  }
  function erode() {  // inner: mask pixels that are further than the outline's width from the background
    const far = about.outline;
    const run = (source, target, lines, step, count, stride) => {
      for (let line = 0; line < lines; line++) {
        let since = far + 1;
        for (let n = 0, p = line * step; n < count; n++, p += stride) {
          since = source[p] ? since + 1 : 0;
          target[p] = since > far ? 1 : 0;
        }
        since = far + 1;
        for (let n = count - 1, p = line * step + (count - 1) * stride; n >= 0; n--, p -= stride) {
          since = source[p] ? since + 1 : 0;
          if (since <= far) target[p] = 0;
        }
      }
    };
    const rows = new Uint8Array(size);
    run(mask, rows, height, width, width, 1);
    run(rows, inner, width, 1, height, width);
  }
  function over(p, [red, green, blue], alpha) {
    const below = out[p + 3] / 255 * (1 - alpha), sum = alpha + below;
    if (!sum) return;
    out[p] = (red * alpha + out[p] * below) / sum;
    out[p + 1] = (green * alpha + out[p + 1] * below) / sum;
    out[p + 2] = (blue * alpha + out[p + 2] * below) / sum;
    out[p + 3] = 255 * sum;
  }
  function drawMasks() {
    for (let index = 0; index < about.classes.length; index++) {
      fill(index); erode();
      const colour = about.colours[index];
      for (let n = 0; n < size; n++) if (mask[n]) over(4 * n, colour, inner[n] ? settings.opacity : 1);
    }
  }
  function drawHeat(index) {
    fill(index); erode();
    for (let n = 0; n < size; n++) {
      const colour = mask[n] && !inner[n] ? HEAT_LINE : about.shades[levels[index * size + n]];
      out[4 * n] = colour[0]; out[4 * n + 1] = colour[1]; out[4 * n + 2] = colour[2]; out[4 * n + 3] = 255;
    }
  }
  function draw() {
    const index = Math.min(settings.shown, about.classes.length - 1), heat = settings.view === 'probability';
    out.fill(0);
    if (heat) drawHeat(index); else drawMasks();
    paper.putImageData(picture, 0, 0);
    find('.scale').hidden = !heat;
    find('.scale p').textContent = about.scale.replace('{name}', about.classes[index]);
    find('.ramp i').style.left = `${settings.percent}%`;
    section.dataset.drawn = [settings.view, settings.percent, settings.opacity, index, changes ? 1 : 0].join();
  }
  let waiting = false;
  function redraw() {  // at most once a frame, however fast a slider moves
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }
  function tell([row, column]) {
    const shares = about.classes.map((name, k) => `${name} ${levels[k * size + row * width + column]} %`);
    told.textContent = `${shares.join(' · ')}`;
  }
  function place(event) {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - box.top) / box.height * height);
    const column = Math.floor((event.clientX - box.left) / box.width * width);
    return row >= 0 && column >= 0 && row < height && column < width ? [row, column] : null;
  }
  function correct(kind, [row, column]) {
    if (kind === 'look') return;
    told.textContent = '…';
    trigger('select', {index: [row, column], value: kind, selected: true});
  }
  function move(rows, columns) {
    at[0] = Math.min(Math.max(at[0] + rows, 0), height - 1);
    at[1] = Math.min(Math.max(at[1] + columns, 0), width - 1);
    cross.hidden = false;
    cross.style.top = `${100 * (at[0] + 0.5) / height}%`; cross.style.left = `${100 * (at[1] + 0.5) / width}%`;
    tell(at);
  }
  stage.addEventListener('pointermove', (event) => { const found = place(event); if (found) tell(found); });
  stage.addEventListener('click', (event) => {
    const found = place(event);
    if (!found) return;
    tell(found); [at[0], at[1]] = found;
    correct(settings.tool, found);
  });
  stage.addEventListener('blur', () => { cross.hidden = true; });
  stage.addEventListener('keydown', (event) => {
    const step = Math.max(1, Math.round(Math.max(height, width) / (event.shiftKey ? 20 : 100)));
    const way = {ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step]}[event.key];
    const kind = {'+': 'add', '=': 'add', '-': 'remove', Enter: settings.tool, ' ': settings.tool}[event.key];
    if (!way && !kind && event.key !== 'Backspace') return;
    event.preventDefault();
    if (way) move(...way);
    else if (kind) { move(0, 0); correct(kind, at); }
    else document.querySelector('#undo-click')?.click();
  });
  settings.set = (changed) => { Object.assign(settings, changed); redraw(); };
  settings.changed = async (element) => {
    if (element.dataset.key !== section.dataset.key) return;
    if (told.textContent === '…') tell(at);
    const letters = element.dataset.changes;
    const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
    changes = letters ? await unpacked(new Blob([bytes]).stream(), about.classes.length * size) : null;
    redraw();
  };
  draw();
  const before = document.querySelector('#changes [data-key]');
  if (before) settings.changed(before);
}

function look() {
  const section = element.querySelector('.overlay');
  if (!section || element.dataset.begun === section.dataset.key) return;
  element.dataset.begun = section.dataset.key;
  if (settings.key !== section.dataset.key) {  // an answer begins as the model's own
    Object.assign(settings, {key: section.dataset.key, percent: 50, shown: 0, tool: 'look'});
  }
  begin(section);
}
watch('value', look);
look();
