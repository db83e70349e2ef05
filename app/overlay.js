// Draws one answered picture in the browser: masks at a threshold, or a class's probabilities. The server has sent the
// hundredth that each probability lies in (uint8, class by class); nothing here asks it again.
const settings = window.dsfedmedOverlay ??= {
  opacity: 0.35, percent: 50, view: 'mask', shown: 0, tool: 'look', size: 9, asked: 0,
};
const HEAT_LINE = [213, 94, 0];  // in none of the map's colours

async function unpacked(stream, size) {
  const bytes = await new Response(stream.pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
  return new Uint8Array(bytes, 0, size);
}

async function begin(section, about) {
  const [height, width] = about.size, size = height * width;
  const find = (name) => section.querySelector(name);
  const stage = find('.stage'), canvas = find('canvas'), cross = find('.cross'), told = find('.overlay-value');
  const answer = await fetch(section.dataset.levels);
  if (!answer.ok) { told.textContent = about.gone; return; }
  const levels = await unpacked(answer.body, about.classes.length * size);
  const paper = canvas.getContext('2d'), picture = paper.createImageData(width, height), out = picture.data;
  const mask = new Uint8Array(size), across = new Uint8Array(size), inner = new Uint8Array(size);
  const whole = {top: 0, left: 0, bottom: height, right: width};
  const strokes = strokeLayer(about, redraw);
  const marks = find('.marks');
  let prompts = [], changes = null, isCorrected = false, numChanges = 0, unpacking = null;
  const at = [height >> 1, width >> 1];

  function grown(box) {  // with what lies no further from it than an outline is wide
    const far = about.outline;
    return {
      top: Math.max(box.top - far, 0), left: Math.max(box.left - far, 0),
      bottom: Math.min(box.bottom + far, height), right: Math.min(box.right + far, width),
    };
  }
  function each(box, take) {  // the places of a part of the picture
    for (let row = box.top; row < box.bottom; row++) {
      for (let n = row * width + box.left, end = row * width + box.right; n < end; n++) take(n);
    }
  }
  function fill(index, box) {  // the mask of a class at the threshold, with what was corrected and what is being drawn
    const from = index * size, percent = settings.percent, drawn = strokes.pixels;
    each(box, (n) => {
      const changed = drawn[from + n] || (changes ? changes[from + n] & 3 : 0);
      mask[n] = changed === 1 || (changed !== 2 && levels[from + n] >= percent) ? 1 : 0;
    });
  }
  function erode(box) {  // inner: mask pixels that are further than the outline's width from the background
    const far = about.outline, first = box.top * width + box.left;
    const run = (source, target, lines, step, count, stride) => {
      for (let line = 0; line < lines; line++) {
        let since = far + 1;
        for (let n = 0, p = first + line * step; n < count; n++, p += stride) {
          since = source[p] ? since + 1 : 0;
          target[p] = since > far ? 1 : 0;
        }
        since = far + 1;
        for (let n = count - 1, p = first + line * step + (count - 1) * stride; n >= 0; n--, p -= stride) {
          since = source[p] ? since + 1 : 0;
          if (since <= far) target[p] = 0;
        }
      }
    };
    run(mask, across, box.bottom - box.top, width, box.right - box.left, 1);
    run(across, inner, box.right - box.left, 1, box.bottom - box.top, width);
  }
  function part(index, box) {  // outlined, too: where things touch that are counted apart
    if (changes) each(box, (n) => { if (changes[index * size + n] & 4) inner[n] = 0; });
  }
  function over(p, [red, green, blue], alpha) {
    const below = out[p + 3] / 255 * (1 - alpha), sum = alpha + below;
    if (!sum) return;
    out[p] = (red * alpha + out[p] * below) / sum;
    out[p + 1] = (green * alpha + out[p + 1] * below) / sum;
    out[p + 2] = (blue * alpha + out[p + 2] * below) / sum;
    out[p + 3] = 255 * sum;
  }
  function drawMasks(box) {
    each(box, (n) => { out[4 * n + 3] = 0; });
    for (let index = 0; index < about.classes.length; index++) {
      fill(index, grown(box)); erode(grown(box)); part(index, box);
      const colour = about.colours[index];
      each(box, (n) => { if (mask[n]) over(4 * n, colour, inner[n] ? settings.opacity : 1); });
    }
  }
  function drawHeat(index, box) {
    fill(index, grown(box)); erode(grown(box)); part(index, box);
    each(box, (n) => {
      const colour = mask[n] && !inner[n] ? HEAT_LINE : about.shades[levels[index * size + n]];
      out[4 * n] = colour[0]; out[4 * n + 1] = colour[1]; out[4 * n + 2] = colour[2]; out[4 * n + 3] = 255;
    });
  }
  const shownClass = () => Math.min(settings.shown, about.classes.length - 1);
  function draw(box) {
    const index = shownClass(), heat = settings.view === 'probability';
    if (heat) drawHeat(index, box); else drawMasks(box);
    paper.putImageData(picture, 0, 0, box.left, box.top, box.right - box.left, box.bottom - box.top);
    find('.scale').hidden = !heat;
    find('.scale p').textContent = about.scale.replace('{name}', about.classes[index]);
    find('.ramp i').style.left = `${settings.percent}%`;
    const isChanged = isCorrected || !strokes.isEmpty ? 1 : 0;
    section.dataset.drawn = [settings.view, settings.percent, settings.opacity, index, isChanged].join();
  }
  let waiting = null;
  function redraw(changed = whole) {  // at most once a frame, however fast a slider moves: what has changed since
    if (changed.bottom <= changed.top) return;
    const box = changed === whole ? whole : grown(changed);
    if (!waiting) requestAnimationFrame(() => { const part = waiting; waiting = null; draw(part); });
    waiting = waiting ? {
      top: Math.min(waiting.top, box.top), left: Math.min(waiting.left, box.left),
      bottom: Math.max(waiting.bottom, box.bottom), right: Math.max(waiting.right, box.right),
    } : box;
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
  function send(correction) { settings.asked += 1; trigger('select', correction); }
  const brush = brushOn(stage, about, strokes, {shownClass, send, say(words) { told.textContent = words; }});
  const box = boxOn(stage, about, {
    place,
    give(first, last) {
      told.textContent = '…';
      send({index: 0, value: 'box', stroke: [...inImage(first), ...inImage(last)], selected: true});
    },
    say(words) { told.textContent = words; },
  });
  function mark() {  // where the shown class was clicked and boxed
    const [rows, columns] = about.image, index = shownClass();
    marks.replaceChildren(...prompts.filter((one) => one.class_index === index).map((one) => {
      const sign = document.createElement('i'), isBox = one.kind === 'box', middle = isBox ? 0 : 0.5;
      sign.className = `mark ${one.kind}`;
      Object.assign(sign.style, {top: `${100 * (one.row + middle) / rows}%`, left: `${100 * (one.column + middle) / columns}%`});
      if (isBox) Object.assign(sign.style, {
        height: `${100 * (one.last_row - one.row + 1) / rows}%`,
        width: `${100 * (one.last_column - one.column + 1) / columns}%`,
      });
      return sign;
    }));
  }
  const inImage = ([row, column]) => brush.pixel(
    [(row + 0.5) * about.image[0] / height, (column + 0.5) * about.image[1] / width]);
  function correct(kind, [row, column]) {
    if (kind === 'look') return;
    if (kind === 'box') { box.corner([row, column]); return; }
    if (kind === 'brush' || kind === 'erase') { brush.dab(inImage([row, column])); return; }
    told.textContent = '…';
    send({index: [row, column], value: kind, selected: true});
  }
  function move(rows, columns) {
    at[0] = Math.min(Math.max(at[0] + rows, 0), height - 1);
    at[1] = Math.min(Math.max(at[1] + columns, 0), width - 1);
    cross.hidden = false;
    cross.style.top = `${100 * (at[0] + 0.5) / height}%`; cross.style.left = `${100 * (at[1] + 0.5) / width}%`;
    brush.show(inImage(at));
    tell(at);
    box.moved(at);
  }
  function stepOf(isFar) {  // of the arrow keys: a hundredth or a twentieth of the picture, or half the brush's width
    if (!brush.isOn()) return Math.max(1, Math.round(Math.max(height, width) / (isFar ? 20 : 100)));
    return Math.max(1, Math.round(brush.step * (isFar ? 5 : 1) * height / about.image[0]));
  }
  stage.addEventListener('pointermove', (event) => { const found = place(event); if (found) tell(found); });
  stage.addEventListener('click', (event) => {
    const found = place(event);
    if (!found) return;
    tell(found); [at[0], at[1]] = found;
    if (!brush.isOn() && !box.isOn()) correct(settings.tool, found);
  });
  stage.addEventListener('blur', () => { cross.hidden = true; brush.hide(); });
  stage.addEventListener('keydown', (event) => {
    const isZ = event.key.toLowerCase() === 'z' && (event.ctrlKey || event.metaKey);
    const isUndo = event.key === 'Backspace' || (isZ && !event.shiftKey), isRedo = isZ && event.shiftKey;
    if ((event.ctrlKey || event.metaKey || event.altKey) && !isUndo && !isRedo) return;  // the browser's own: + enlarges
    if (event.key === 'Escape' && box.isBegun) { event.preventDefault(); box.giveUp(); return; }
    const step = stepOf(event.shiftKey);
    const way = {ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step]}[event.key];
    const kind = {'+': 'add', '=': 'add', '-': 'remove', Enter: settings.tool, ' ': settings.tool}[event.key];
    if (!way && !kind && !isUndo && !isRedo) return;
    event.preventDefault();
    if (isRedo) document.querySelector('#redo-click')?.click();
    else if (isUndo) document.querySelector('#undo-click')?.click();
    else if (way) move(...way);
    else { move(0, 0); correct(kind, at); }
  });
  settings.set = (changed) => { Object.assign(settings, changed); brush.follow(); box.follow(); mark(); redraw(); };
  settings.save = () => {  // what is on the screen, without the cross: the image and what is drawn over it
    const sheet = document.createElement('canvas'), drawing = sheet.getContext('2d');
    sheet.width = width; sheet.height = height;
    drawing.drawImage(stage.querySelector('img'), 0, 0, width, height);
    drawing.drawImage(canvas, 0, 0);
    const stem = document.querySelector('#changes [data-stem]')?.dataset.stem || 'image';
    sheet.toBlob((file) => {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(file);
      link.download = `${stem}_${settings.view === 'probability' ? 'probability' : 'overlay'}.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    }, 'image/png');
  };
  settings.resize = (event) => {
    const isHere = stage === document.activeElement || stage.matches(':hover');
    if (!brush.isOn() || !isHere || event.target.closest?.('input:not([type=radio]), textarea')) return;
    event.preventDefault();
    brush.resize(event.key === ']');
    trigger('input', {});
  };
  settings.changed = async (element) => {
    if (element.dataset.key !== section.dataset.key) return;
    if (told.textContent === '…') tell(at);
    prompts = JSON.parse(element.dataset.prompts || '[]');
    mark();
    const letters = element.dataset.changes, mine = ++numChanges;
    const bytes = Uint8Array.from(atob(letters), (letter) => letter.charCodeAt(0));
    unpacking = letters ? unpacked(new Blob([bytes]).stream(), about.classes.length * size) : Promise.resolve(null);
    const found = await unpacking;
    if (mine !== numChanges) return;  // later ones were unpacked sooner
    changes = found;
    isCorrected = Boolean(found?.some((one) => one & 3));
    redraw();
  };
  settings.answered = async () => {  // what the server says is all there is, once it has said it of every stroke
    settings.asked = Math.max(0, settings.asked - 1);
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    await unpacking;
    if (told.textContent === '…') tell(at);
    if (!settings.asked) strokes.settle();
  };
  brush.follow(); box.follow();
  draw(whole);
  const before = document.querySelector('#changes [data-key]');
  if (before) settings.changed(before);
}

function look() {
  const section = element.querySelector('.overlay');
  if (!section || element.dataset.begun === section.dataset.key) return;
  element.dataset.begun = section.dataset.key;
  const about = JSON.parse(section.dataset.about);
  if (settings.key !== section.dataset.key) {  // an answer begins as the model's own
    Object.assign(settings, {key: section.dataset.key, percent: 50, shown: 0, tool: 'look', size: about.brush.size});
  }
  begin(section, about);
}
if (!settings.listens) {
  settings.listens = true;
  document.addEventListener('keydown', (event) => {
    if (event.key === '[' || event.key === ']') settings.resize?.(event);
  });
}
watch('value', look);
look();
