// Draws a volume's planes in the browser. The server has sent numbers (uint16) and, of each class of each model,
// probabilities in hundredths (uint8) on the patient's axes, z to the head, y to the back, x to the left; everything here answers without
// asking it again.
const AXES = {axial: [0, 1, 2], coronal: [1, 0, 2], sagittal: [2, 0, 1]};  // slices, rows, columns
const MOST_ZOOM = 16, STEP_ZOOM = 1.5;
const SLACK_PX = 6;  // a finger moves so far while it taps

async function begin(section) {
  const about = JSON.parse(section.dataset.about);
  const [depth, height, width] = about.shape;
  const share2 = (n) => (n / 100).toFixed(2);
  const size = depth * height * width;
  const answer = await fetch(section.dataset.address);
  if (!answer.ok) { section.querySelector('.viewer-value').textContent = 'The volume is not kept any more.'; return; }
  const unpacked = answer.body.pipeThrough(new DecompressionStream('gzip'));
  const buffer = await new Response(unpacked).arrayBuffer();
  const numbers = new Uint16Array(buffer, 0, size);
  const levels = about.models.map((_, model) => about.classes.map((_, at) =>  // of each model, of each class
    new Uint8Array(buffer, (2 + model * about.classes.length + at) * size, size)));
  const [onlyA, onlyB, inBoth] = about.modelColours;
  const stride = [height * width, width, 1];
  const at = [...about.at];
  const find = (name) => section.querySelector(name);
  const centre = find('.centre'), span = find('.width'), opacity = find('.opacity');
  const shown = find('.shown'), note = find('.viewer-threshold');
  let percent = about.percent;
  const cross = find('.cross-lines');
  const preset = find('.preset'), told = find('.viewer-value');
  const shades = new Uint8ClampedArray(65536);
  const views = [...section.querySelectorAll('figure')].map((figure) => {
    const [slices, rows, columns] = AXES[figure.dataset.plane];
    const canvas = figure.querySelector('canvas');
    canvas.width = about.shape[columns]; canvas.height = about.shape[rows];
    const tall = about.shape[rows] * about.steps[rows], wide = about.shape[columns] * about.steps[columns];
    canvas.style.aspectRatio = `${wide} / ${tall}`;
    canvas.style[wide >= tall ? 'width' : 'height'] = '100%';
    const headUp = about.upright && rows === 0;
    return {figure, canvas, slices, rows, columns, headUp, paper: canvas.getContext('2d'),
      slider: figure.querySelector('input'), number: figure.querySelector('output'), cross: null,
      zoom: 1, across: 0, down: 0, fingers: new Map(), moved: 0};
  });

  function shade() {
    const middle = Number(centre.value), width_ = Math.max(Number(span.value), 1e-9);
    for (let n = 0; n < 65536; n++) {
      const share = (about.low + n * about.scale - middle) / width_ + 0.5;
      shades[n] = 255 * (about.inverted ? 1 - share : share);
    }
  }

  function colourOfMask(classes, from) {  // the later class where they overlap
    for (let at = classes.length - 1; at >= 0; at--) if (classes[at][from] >= percent) return about.colours[at];
    return null;
  }
  function colourOfEdge(classes, ...where) {
    for (let at = classes.length - 1; at >= 0; at--) if (isEdge([classes[at]], ...where)) return about.colours[at];
    return null;
  }
  function isEdge(classes, from, line, column, view) {  // of a mask, in this plane; the picture's edge is none
    const up = stride[view.rows], side = stride[view.columns];
    const last = view.canvas.height - 1, right = view.canvas.width - 1;
    for (const level of classes) {
      if (level[from] >= percent && ((line > 0 && level[from - up] < percent)
        || (line < last && level[from + up] < percent) || (column > 0 && level[from - side] < percent)
        || (column < right && level[from + side] < percent))) return true;
    }
    return false;
  }
  const colourOfPair = (inA, inB) => inA && inB ? inBoth : inA ? onlyA : inB ? onlyB : null;
  function colourOfOutlines(from, line, column, view) {
    return colourOfPair(isEdge(levels[0], from, line, column, view), isEdge(levels[1], from, line, column, view));
  }
  function colourOfDifference(from) {
    let justA = false, justB = false;
    for (let at = 0; at < levels[0].length; at++) {
      const inA = levels[0][at][from] >= percent, inB = levels[1][at][from] >= percent;
      justA ||= inA && !inB; justB ||= inB && !inA;
    }
    return colourOfPair(justA, justB);
  }
  // What each kind of picture has at a voxel, a colour or nothing.
  const kinds = {
    mask: (model) => (from) => colourOfMask(masks()[model], from),
    edge: (model) => (from, line, column, view) => colourOfEdge(masks()[model], from, line, column, view),
    map: (model, at) => (from) => about.shades[levels[model][at][from]],
    apart: (at) => (from) => about.shades[Math.abs(levels[0][at][from] - levels[1][at][from])],
    differ: () => colourOfDifference,
    outlines: () => colourOfOutlines,
    nothing: () => () => null,
  };
  function picture() {
    const [kind, ...which] = shown.value.split(':');
    return {kind, colourAt: kinds[kind](...which.map(Number))};
  }

  function draw(view) {
    const {canvas, paper, slices, rows, columns, headUp} = view;
    const drawn = paper.createImageData(canvas.width, canvas.height), out = drawn.data;
    const {kind, colourAt} = picture();
    const share = {outlines: 1, differ: Math.sqrt(opacity.value), edge: Math.sqrt(opacity.value)}[kind] ?? Number(opacity.value);  // small things stand out
    for (let row = 0, to = 0; row < canvas.height; row++) {
      const line = headUp ? canvas.height - 1 - row : row;
      let from = at[slices] * stride[slices] + line * stride[rows];
      for (let column = 0; column < canvas.width; column++, from += stride[columns], to += 4) {
        const grey = shades[numbers[from]];
        const colour = share ? colourAt(from, line, column, view) : null;
        out[to] = colour ? grey + share * (colour[0] - grey) : grey;
        out[to + 1] = colour ? grey + share * (colour[1] - grey) : grey;
        out[to + 2] = colour ? grey + share * (colour[2] - grey) : grey;
        out[to + 3] = 255;
      }
    }
    paper.putImageData(drawn, 0, 0);
    view.slider.value = at[slices] + 1;
    view.number.textContent = at[slices] + 1;
    line(view);
  }
  function line(view) {
    const {canvas, rows, columns} = view;
    view.cross(cross.checked, view.headUp ? canvas.height - 1 - at[rows] : at[rows], at[columns]);
  }

  let waiting = false;
  function redraw() {  // at most once a frame, however often a wheel turns
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; views.forEach(draw); section.dataset.drawn = at.join(); });
  }
  function move(axis, to) {
    at[axis] = Math.min(Math.max(to, 0), about.shape[axis] - 1);
    redraw();
  }
  function choose() {
    const chosen = about.presets[Number(preset.value)];
    if (!chosen) return;
    centre.value = Math.round(chosen[1] * 100) / 100; span.value = Math.round(chosen[2] * 10000) / 10000;
    shade(); redraw();
  }
  function place(view, event) {
    const box = view.canvas.getBoundingClientRect(), found = [...at];
    const row = Math.floor((event.clientY - box.top) / box.height * view.canvas.height);
    const column = Math.floor((event.clientX - box.left) / box.width * view.canvas.width);
    if (row < 0 || column < 0 || row >= view.canvas.height || column >= view.canvas.width) return null;
    found[view.rows] = view.headUp ? view.canvas.height - 1 - row : row;
    found[view.columns] = column;
    return found;
  }

  function lay(view) {  // a zoomed picture is moved no further than its edge
    const {canvas} = view, most = (side) => (view.zoom - 1) * side / 2;
    const held = (by, side) => Math.min(Math.max(by, -most(side)), most(side));
    view.across = held(view.across, canvas.offsetWidth); view.down = held(view.down, canvas.offsetHeight);
    canvas.style.transform = `translate(${view.across}px, ${view.down}px) scale(${view.zoom})`;
    canvas.style.touchAction = view.zoom > 1 ? 'none' : '';
    line(view);
    section.dataset.zoom = views.map((one) => Math.round(100 * one.zoom) / 100).join();
  }
  function zoom(view, factor, x, y) {  // what lies at (x, y) of the window stays there
    const box = view.canvas.getBoundingClientRect(), to = Math.min(Math.max(view.zoom * factor, 1), MOST_ZOOM);
    const grown = to / view.zoom;
    view.across += (x - box.left - box.width / 2) * (1 - grown);
    view.down += (y - box.top - box.height / 2) * (1 - grown);
    view.zoom = to;
    lay(view);
  }
  function zoomAtCross(view, factor) {  // buttons and keys: what is looked at, the place that all three planes cut, stays
    const {canvas, rows, columns} = view, box = canvas.getBoundingClientRect();
    const row = view.headUp ? canvas.height - 1 - at[rows] : at[rows];
    zoom(view, factor, box.left + (at[columns] + 0.5) / canvas.width * box.width,
      box.top + (row + 0.5) / canvas.height * box.height);
  }
  function drag(view, event) {  // one finger or the mouse moves a zoomed picture, two zoom it
    const {fingers} = view, from = fingers.get(event.pointerId);
    if (!from) return;
    const mean = (axis) => [...fingers.values()].reduce((sum, one) => sum + one[axis], 0) / fingers.size;
    const middle = () => [mean(0), mean(1)];
    const apart = () => { const [a, b] = [...fingers.values()]; return Math.hypot(a[0] - b[0], a[1] - b[1]); };
    const old = middle(), wide = fingers.size === 2 ? apart() : 0;
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    const now = middle();
    view.moved += Math.hypot(event.clientX - from[0], event.clientY - from[1]);
    if (fingers.size === 2 && wide) zoom(view, apart() / wide, ...now);
    if (view.zoom === 1) return;
    view.across += now[0] - old[0]; view.down += now[1] - old[1];
    lay(view);
  }

  const painting = paintOn(section, about, levels, stride, {at, views, place, redraw});
  const masks = () => about.models.length > 1 ? levels : painting.masks;
  for (const view of views) {
    view.cross = crossOn(view);
    new ResizeObserver(() => line(view)).observe(view.figure);
    view.slider.addEventListener('input', () => move(view.slices, Number(view.slider.value) - 1));
    view.canvas.addEventListener('pointerdown', (event) => {
      if (painting.isOn()) return;
      if (!view.fingers.size) view.moved = 0;
      view.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    for (const end of ['pointerup', 'pointercancel', 'pointerleave']) {
      view.canvas.addEventListener(end, (event) => view.fingers.delete(event.pointerId));
    }
    view.canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      if (event.ctrlKey) return zoom(view, Math.exp(-event.deltaY / 300), event.clientX, event.clientY);
      move(view.slices, at[view.slices] + Math.sign(event.deltaY));
    }, {passive: false});
    view.canvas.addEventListener('keydown', (event) => {
      if (painting.key(view, event)) return;
      const step = {ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10}[event.key];
      const end = {Home: 0, End: about.shape[view.slices] - 1}[event.key];
      const factor = {'+': STEP_ZOOM, '=': STEP_ZOOM, '-': 1 / STEP_ZOOM, 0: 1 / MOST_ZOOM}[event.key];
      if (factor && !event.ctrlKey && !event.metaKey) { event.preventDefault(); zoomAtCross(view, factor); return; }
      if (step === undefined && end === undefined) return;
      event.preventDefault();
      move(view.slices, end === undefined ? at[view.slices] + step : end);
    });
    view.canvas.addEventListener('pointermove', (event) => {
      drag(view, event);
      const found = place(view, event);
      if (!found) return;
      const from = found[0] * stride[0] + found[1] * stride[1] + found[2];
      const value = about.low + numbers[from] * about.scale;
      const mm = about.upright ? '' : ' (slice, row, column)';
      const likely = about.classes.map((name, at) =>
        `${name} ${levels.map((classes) => share2(classes[at][from])).join(' (A) / ')}${levels[1] ? ' (B)' : ''}`).join(', ');
      told.textContent =
        `${Math.round(value * 1000) / 1000} ${about.unit} · ${found.map((n) => n + 1).join(', ')}${mm} · ${likely}`;
    });
    view.canvas.addEventListener('pointerleave', () => { told.textContent = told.dataset.empty; });
    view.canvas.addEventListener('click', (event) => {
      const found = view.moved > SLACK_PX || painting.isOn() ? null : place(view, event);  // the end of a drag is no click
      if (found) { found.forEach((n, axis) => { at[axis] = n; }); redraw(); }
    });
  }
  find('.most')?.addEventListener('click', (event) => {  // to the slices with most of what is in one mask only
    const counts = about.shape.map((length) => new Uint32Array(length));
    for (let z = 0, from = 0; z < depth; z++) {
      for (let y = 0; y < height; y++) {
        for (let x = 0; x < width; x++, from++) {
          if (colourOfDifference(from)) { counts[0][z]++; counts[1][y]++; counts[2][x]++; }
        }
      }
    }
    const most = counts.map((count) => count.reduce((best, n, index) => n > count[best] ? index : best, 0));
    if (counts[0][most[0]]) { most.forEach((n, axis) => { at[axis] = n; }); redraw(); }
    else told.textContent = event.target.dataset.none;
  });
  for (const button of section.querySelectorAll('.zoom[data-factor]')) {
    button.addEventListener('click', () => views.forEach((view) => zoomAtCross(view, Number(button.dataset.factor))));
  }
  preset.addEventListener('change', choose);
  for (const field of [centre, span]) field.addEventListener('input', () => { preset.value = 'own'; shade(); redraw(); });
  opacity.addEventListener('input', redraw);
  cross.addEventListener('change', redraw);
  shown.addEventListener('change', () => {
    const {kind} = picture();
    for (const key of section.querySelectorAll('[data-of]')) key.hidden = !key.dataset.of.split(' ').includes(kind);
    find('.scale-of').textContent = shown.selectedOptions[0].label;
    redraw();
  });
  window.dsfedmedVolume = {heard: painting.heard, threshold(to) {
    percent = to;
    const said = note.dataset.words.replaceAll('{drawn}', share2(to)).replace('{saved}', share2(about.percent));
    note.textContent = to === about.percent ? '' : said;
    section.dataset.percent = to;
    redraw();
  }};
  const slider = document.querySelector('#volume-threshold input');  // it may have been moved while the job ran
  window.dsfedmedVolume.threshold(slider ? Math.round(100 * Number(slider.value)) : percent);
  choose();
}

// Heard in the document, not by an event of the page's library: that may come with the value of before, or, while the
// server is away, not at all. A click is that of the button which brings back the model's own threshold.
function move(input) {
  const to = Math.round(100 * Number(input?.value));
  if (to > 0 && to < 100) window.dsfedmedVolume?.threshold(to);
}
if (!window.dsfedmedVolumeHears) {
  window.dsfedmedVolumeHears = true;
  document.addEventListener('input', (event) => {
    if (event.target.closest('#volume-threshold')) move(event.target);
  }, true);
  document.addEventListener('click', (event) => {
    const slider = event.target.closest?.('#volume-threshold');
    if (slider) requestAnimationFrame(() => requestAnimationFrame(() => move(slider.querySelector('input[type=number]'))));
  });
}

function look() {
  const section = element.querySelector('.viewer');
  if (section && !section.dataset.begun) { section.dataset.begun = '1'; begin(section); }
}
watch('value', look);
look();
