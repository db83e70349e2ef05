// Brush and eraser on a volume's planes. A stroke lies in one slice and goes through whole voxels that are shown; it
// covers what app/strokes.py covers (eachRow of brush.js), and app/volume_strokes.py gives it to the whole volume.
// A voxel that is painted is in the mask at every threshold, one that is cleared at none.
const SET = 99, CLEARED = 0;

function paintOn(section, about, levels, stride, {at, views, place, redraw}) {
  const find = (name) => section.querySelector(name);
  const tool = find('.tool'), size = find('.brush-size'), whose = find('.painted-class'), undo = find('.undo');
  const redo = find('.redo'), note = find('.brush-note');
  if (!tool) return {masks: levels, isOn: () => false, starts: () => false, key: () => false};
  let strokes = [], undone = [], number = 0, drawn = null;
  const masks = [levels[0]];
  const isOn = () => tool.value !== 'look';
  const width = () => Math.min(Math.max(Math.round(Number(size.value)) || 1, 1), about.brush.widest);

  function piece(stroke, start, end) {
    const [slices, rows, columns] = AXES[stroke.plane], level = masks[0][stroke.index];
    const from = stroke.slice * stride[slices], last = about.shape[columns] - 1;
    eachRow(start, end, stroke.size, (row, left, right) => {
      if (row < 0 || row >= about.shape[rows]) return;
      for (let column = Math.max(left, 0); column <= Math.min(right, last); column++) {
        level[from + row * stride[rows] + column * stride[columns]] = stroke.kind === 'brush' ? SET : CLEARED;
      }
    });
  }
  function again() {  // from the model's own, all that is left
    masks[0] = strokes.length || drawn ? levels[0].map((level) => level.slice()) : levels[0];
    for (const stroke of drawn ? [...strokes, drawn] : strokes) {
      stroke.places.forEach((one, n) => piece(stroke, stroke.places[Math.max(n - 1, 0)], one));
    }
    told(); redraw();
  }
  function told() {
    undo.disabled = !strokes.length; redo.disabled = !undone.length;
    section.dataset.strokes = strokes.length;
  }
  function begin(view, place_) {
    if (masks[0] === levels[0]) masks[0] = levels[0].map((level) => level.slice());
    drawn = {kind: tool.value, plane: view.figure.dataset.plane, slice: at[view.slices], index: Number(whose?.value ?? 0),
      size: width(), places: [place_]};
    piece(drawn, place_, place_); redraw();
  }
  function extend(place_) {
    const last = drawn.places.at(-1);
    if (last[0] === place_[0] && last[1] === place_[1]) return;
    if (drawn.places.length >= LONGEST) { const {plane} = drawn; finish(); begin(views.find((v) => v.figure.dataset.plane === plane), last); }
    drawn.places.push(place_);
    piece(drawn, last, place_); redraw();
  }
  function finish() {
    const stroke = drawn, axis = Object.keys(AXES).indexOf(stroke.plane);
    drawn = null;
    stroke.places = simplified(stroke.places, about.brush.places);
    strokes.push(stroke); undone = [];
    send(`${stroke.kind}:${axis}:${stroke.slice}:${stroke.index}`, [stroke.size, ...stroke.places.flat()]);
    again();
  }
  function send(value, stroke) { trigger('select', {index: ++number, value, stroke: stroke ?? [], selected: true}); }
  function back() { if (strokes.length) { undone.push(strokes.pop()); send('undo'); again(); } }
  function forth() { if (undone.length) { strokes.push(undone.pop()); send('redo'); again(); } }
  const inPlane = (view, found) => [found[view.rows], found[view.columns]];

  for (const view of views) {
    let pointer = null;
    view.canvas.addEventListener('pointerdown', (event) => {
      const found = place(view, event);
      if (!isOn() || pointer !== null || event.button !== 0 || !event.isPrimary || !found) return;
      event.preventDefault();
      view.canvas.focus({preventScroll: true}); view.canvas.setPointerCapture(event.pointerId);
      pointer = event.pointerId;
      begin(view, inPlane(view, found));
    });
    view.canvas.addEventListener('pointermove', (event) => {
      if (event.pointerId !== pointer) return;
      const between = event.getCoalescedEvents?.() ?? [];
      for (const one of between.length ? between : [event]) {
        const found = place(view, one);
        if (found) extend(inPlane(view, found));
      }
    });
    view.canvas.addEventListener('pointerup', (event) => {
      if (event.pointerId === pointer) { pointer = null; finish(); }
    });
    view.canvas.addEventListener('pointercancel', (event) => {
      if (event.pointerId === pointer) { pointer = null; drawn = null; again(); }
    });
  }
  tool.addEventListener('change', () => {
    for (const view of views) view.canvas.classList.toggle('paints', isOn());
    note.textContent = isOn() ? note.dataset.keys : '';
    if (isOn() && !/^(mask|edge)/.test(find('.shown').value)) {
      find('.shown').value = 'mask:0'; find('.shown').dispatchEvent(new Event('change'));
    }
  });
  undo.addEventListener('click', back);
  redo.addEventListener('click', forth);
  told();
  return {
    get masks() { return masks; },
    isOn,
    heard(count, serial) {  // what the server has kept: it may have refused a stroke
      if (serial !== number || strokes.length <= count || drawn) return;
      strokes.length = count; again();
    },
    key(view, event) {  // true where it was a key of the tools
      const step = {ArrowUp: [view.headUp ? 1 : -1, 0], ArrowDown: [view.headUp ? -1 : 1, 0], ArrowLeft: [0, -1],
        ArrowRight: [0, 1]}[event.key];
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === 'z') (event.shiftKey ? forth : back)();
      else if (!isOn() || event.ctrlKey || event.metaKey) return false;
      else if (step) {
        const far = event.shiftKey ? Math.max(1, width() >> 1) : 1;
        [view.rows, view.columns].forEach((axis, n) => {
          at[axis] = Math.min(Math.max(at[axis] + far * step[n], 0), about.shape[axis] - 1);
        });
        redraw();
      } else if (event.key === 'Enter' || event.key === ' ') { begin(view, inPlane(view, at)); finish(); }
      else if (event.key === '[' || event.key === ']') {
        const by = 2 * Math.max(1, Math.round(width() / 10));
        size.value = Math.min(Math.max(width() + (event.key === ']' ? by : -by), 1), about.brush.widest);
      } else if (event.key === 'Backspace') back();
      else return false;
      event.preventDefault();
      return true;
    },
  };
}

// The lines at which the other two planes cut this one, over the canvas: they move and grow with it.
function crossOn(view) {
  const frame = view.figure.querySelector('.frame');
  const [level, upright] = ['row', 'column'].map((name) => {
    const line = document.createElement('i');
    line.className = `cross ${name}`; line.hidden = true; line.setAttribute('aria-hidden', 'true');
    frame.append(line);
    return line;
  });
  return (isShown, row, column) => {  // of the canvas
    level.hidden = upright.hidden = !isShown;
    if (!isShown) return;
    const outer = frame.getBoundingClientRect(), box = view.canvas.getBoundingClientRect();
    const y = box.top - outer.top + (row + 0.5) / view.canvas.height * box.height;
    const x = box.left - outer.left + (column + 0.5) / view.canvas.width * box.width;
    Object.assign(level.style, {top: `${y}px`, left: `${box.left - outer.left}px`, width: `${box.width}px`});
    Object.assign(upright.style, {left: `${x}px`, top: `${box.top - outer.top}px`, height: `${box.height}px`});
  };
}
