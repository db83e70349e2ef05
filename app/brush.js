// Brush and eraser over an answered picture. Strokes are lines through whole pixels of the image, and cover what
// app/strokes.py covers, by the same integers: what is painted here at once is what the server keeps.
const LONGEST = 2000;  // places of a stroke before it is simplified: a longer one goes on as the next stroke

function reachOf(row, size) {  // how far a disc reaches to each side in a row so far from its middle; -1: not at all
  const rest = size * size - 4 * row * row;
  return rest < 0 ? -1 : Math.floor(Math.floor(Math.sqrt(rest)) / 2);
}

// Takes each row of what lies around two places and beside the straight line between them: row, first and last column.
// The piece is turned upside down and mirrored so that it goes down and to the right.
function eachRow(start, end, size, take) {
  const [upper, lower] = start[0] <= end[0] ? [start, end] : [end, start], half = size >> 1;
  const down = lower[0] - upper[0], across = Math.abs(lower[1] - upper[1]), mirrored = lower[1] < upper[1];
  const square = down * down + across * across, far = Math.floor(Math.floor(Math.sqrt(size * size * square)) / 2);
  for (let row = -half; row <= down + half; row++) {
    let low = Infinity, high = -Infinity;
    const join = (first, last) => {
      if (first <= last) { low = Math.min(low, first); high = Math.max(high, last); }
    };
    for (const [middle, reach] of [[0, reachOf(row, size)], [across, reachOf(row - down, size)]]) {
      if (reach >= 0) join(middle - reach, middle + reach);
    }
    const isBeside = (down || across) && (down || Math.abs(row * across) <= far)
      && (across || (row >= 0 && row <= down));
    if (isBeside) {
      join(
        Math.max(down ? Math.ceil((row * across - far) / down) : -Infinity,
          across ? Math.ceil(-row * down / across) : -Infinity),
        Math.min(down ? Math.floor((row * across + far) / down) : Infinity,
          across ? Math.floor((square - row * down) / across) : Infinity));
    }
    if (low > high) continue;
    take(upper[0] + row, upper[1] + (mirrored ? -high : low), upper[1] + (mirrored ? -low : high));
  }
}

function fromLine([row, column], [top, left], [bottom, right]) {  // how far a place is from the line between two others
  const down = bottom - top, across = right - left, square = down * down + across * across;
  const along = square ? ((row - top) * down + (column - left) * across) / square : 0;
  const part = Math.min(Math.max(along, 0), 1);
  return Math.hypot(row - top - part * down, column - left - part * across);
}
function thinned(places, far) {  // without those that lie no further from the line (Douglas and Peucker, 1973)
  const kept = new Set([0, places.length - 1]), open = [[0, places.length - 1]];
  while (open.length) {
    const [first, last] = open.pop();
    let worst = far, at = -1;
    for (let n = first + 1; n < last; n++) {
      const found = fromLine(places[n], places[first], places[last]);
      if (found > worst) { worst = found; at = n; }
    }
    if (at >= 0) { kept.add(at); open.push([first, at], [at, last]); }
  }
  return places.filter((_, n) => kept.has(n));
}
function simplified(places, most) {
  let kept = thinned(places, 0.5);
  for (let far = 1; kept.length > most; far *= 2) kept = thinned(places, far);
  return kept;
}

function firstShown(whole, shown) {  // for each row of the image, the first of the screen that shows it or a later one
  const found = new Int32Array(whole + 1).fill(shown);
  for (let n = shown - 1; n >= 0; n--) found[Math.floor((n + 0.5) * whole / shown)] = n;
  for (let n = whole - 1; n >= 0; n--) if (found[n] === shown) found[n] = found[n + 1];
  return found;
}

// What was drawn and the server has not answered yet: 1 set and 2 cleared, class by class, at the picture's size.
function strokeLayer(about, redraw) {
  const [height, width] = about.size, [rows, columns] = about.image, size = height * width;
  const pixels = new Uint8Array(about.classes.length * size), sent = [];
  const shownRow = firstShown(rows, height), shownColumn = firstShown(columns, width);
  let drawn = null;

  function piece(stroke, start, end) {
    const box = {top: height, left: width, bottom: 0, right: 0};
    eachRow(start, end, stroke.size, (row, first, last) => {
      if (row < 0 || row >= rows || last < 0 || first >= columns) return;
      const left = shownColumn[Math.max(first, 0)], right = shownColumn[Math.min(last, columns - 1) + 1];
      for (let line = shownRow[row]; line < shownRow[row + 1]; line++) {
        const from = stroke.index * size + line * width;
        pixels.fill(stroke.value, from + left, from + right);
      }
      box.top = Math.min(box.top, shownRow[row]); box.bottom = Math.max(box.bottom, shownRow[row + 1]);
      box.left = Math.min(box.left, left); box.right = Math.max(box.right, right);
    });
    return box;
  }
  function again() {
    pixels.fill(0);
    for (const stroke of drawn ? [...sent, drawn] : sent) {
      stroke.places.forEach((place, n) => piece(stroke, stroke.places[Math.max(n - 1, 0)], place));
    }
    redraw();
  }
  return {
    pixels,
    get isEmpty() { return !drawn && !sent.length; },
    get isLong() { return drawn !== null && drawn.places.length >= LONGEST; },
    begin(kind, index, across, place) {
      drawn = {kind, index, size: across, value: kind === 'brush' ? 1 : 2, places: [place]};
      redraw(piece(drawn, place, place));
    },
    extend(place) {
      const last = drawn.places.at(-1);
      if (last[0] === place[0] && last[1] === place[1]) return;
      drawn.places.push(place);
      redraw(piece(drawn, last, place));
    },
    end() {  // what is shown from now on is what is sent
      const stroke = drawn;
      stroke.places = simplified(stroke.places, about.brush.places);
      sent.push(stroke); drawn = null;
      again();
      return stroke;
    },
    cancel() { drawn = null; again(); },
    settle() { if (sent.length) { sent.length = 0; again(); } },
  };
}

// Draws strokes with a pointer and shows how wide they are. ``send`` gives one to the server, ``say`` tells a person.
function brushOn(stage, about, layer, {shownClass, send, say}) {
  const [rows, columns] = about.image, ring = stage.querySelector('.ring'), canvas = stage.querySelector('canvas');
  let pointer = null, kind = null, last = null, number = 0;
  const isOn = () => settings.tool === 'brush' || settings.tool === 'erase';
  const width = () => Math.min(Math.max(Math.round(settings.size) || 1, 1), about.brush.widest);
  const isInside = ([row, column]) => row >= 0 && column >= 0 && row < rows && column < columns;
  const pixel = ([row, column]) => [
    Math.min(Math.max(Math.floor(row), 0), rows - 1), Math.min(Math.max(Math.floor(column), 0), columns - 1)];
  function position(event) {
    const box = canvas.getBoundingClientRect();
    return [(event.clientY - box.top) / box.height * rows, (event.clientX - box.left) / box.width * columns];
  }
  function border(inside, outside) {  // where the line between two positions leaves the image
    const parts = [rows, columns].map((side, n) => {
      const [from, to] = [inside[n], outside[n]];
      return to < 0 ? from / (from - to) : to >= side ? (side - from) / (to - from) : 1;
    });
    return inside.map((from, n) => from + Math.min(...parts) * (outside[n] - from));
  }
  function show([row, column]) {
    ring.hidden = !isOn();
    Object.assign(ring.style, {
      top: `${100 * (row + 0.5) / rows}%`, left: `${100 * (column + 0.5) / columns}%`,
      height: `${100 * width() / rows}%`, width: `${100 * width() / columns}%`,
    });
  }
  function start(place) { layer.begin(kind, shownClass(), width(), place); }
  function finish() {
    const stroke = layer.end();
    send({index: ++number, value: stroke.kind, stroke: [stroke.size, ...stroke.places.flat()], selected: true});
  }
  function follow(event) {
    const here = position(event);
    if (isInside(last)) layer.extend(pixel(isInside(here) ? here : border(last, here)));
    else if (isInside(here)) { finish(); start(pixel(border(here, last))); layer.extend(pixel(here)); }
    if (layer.isLong && isInside(here)) { finish(); start(pixel(here)); }
    last = here;
  }
  stage.addEventListener('pointerdown', (event) => {
    const here = position(event);
    if (!isOn() || pointer !== null || event.button !== 0 || !event.isPrimary || !isInside(here)) return;
    event.preventDefault();
    stage.focus({preventScroll: true});
    stage.setPointerCapture(event.pointerId);
    pointer = event.pointerId; kind = settings.tool; last = here;
    start(pixel(here)); show(pixel(here));
  });
  stage.addEventListener('pointermove', (event) => {
    const here = position(event);
    if (event.pointerId === pointer) {
      const between = event.getCoalescedEvents?.() ?? [];
      (between.length ? between : [event]).forEach(follow);
    }
    if (isInside(here)) show(pixel(here)); else ring.hidden = true;
  });
  stage.addEventListener('pointerup', (event) => {
    if (event.pointerId !== pointer) return;
    pointer = null;
    finish();
    if (event.pointerType !== 'mouse') ring.hidden = true;
  });
  for (const name of ['pointercancel', 'lostpointercapture']) {  // a second finger scrolls or enlarges the page
    stage.addEventListener(name, (event) => {
      if (event.pointerId !== pointer) return;
      pointer = null; ring.hidden = true;
      layer.cancel();
    });
  }
  stage.addEventListener('pointerleave', () => { if (pointer === null) ring.hidden = true; });
  stage.addEventListener('contextmenu', (event) => {  // of a finger that rests
    if (isOn() && event.pointerType !== 'mouse') event.preventDefault();
  });
  return {
    isOn, pixel, hide() { ring.hidden = true; }, show,
    get step() { return Math.max(1, width() >> 1); },  // so that dabs beside each other touch
    dab(place) { if (pointer === null) { kind = settings.tool; start(place); finish(); } },
    follow() { stage.classList.toggle('paints', isOn()); if (!isOn()) ring.hidden = true; },
    resize(larger) {
      const now = width(), step = 2 * Math.max(1, Math.round(now / 10));
      settings.size = Math.min(Math.max(now + (larger ? step : -step), 1), about.brush.widest);
      ring.style.height = `${100 * width() / rows}%`; ring.style.width = `${100 * width() / columns}%`;
      say(about.brush.told.replace('{size}', settings.size));
    },
  };
}
