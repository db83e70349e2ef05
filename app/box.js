// Boxes over an answered picture: dragged with a pointer, or two corners one after the other, by clicks or by keys.
function boxOn(stage, about, {place, give, say}) {
  const [height, width] = about.size, frame = stage.querySelector('.frame'), canvas = stage.querySelector('canvas');
  let from = null, pointer = null, isSecond = false;
  const isOn = () => settings.tool === 'box';
  function nearest(event) {  // the place of the picture that is nearest to the pointer
    const box = canvas.getBoundingClientRect();
    const part = (at, side) => Math.min(Math.max(Math.floor(at * side), 0), side - 1);
    return [part((event.clientY - box.top) / box.height, height), part((event.clientX - box.left) / box.width, width)];
  }
  function show(to) {
    const top = Math.min(from[0], to[0]), left = Math.min(from[1], to[1]);
    frame.hidden = false;
    Object.assign(frame.style, {
      top: `${100 * top / height}%`, left: `${100 * left / width}%`,
      height: `${100 * (Math.abs(to[0] - from[0]) + 1) / height}%`,
      width: `${100 * (Math.abs(to[1] - from[1]) + 1) / width}%`,
    });
  }
  function drop() { from = null; pointer = null; frame.hidden = true; }
  function end(to) { const first = from; drop(); give(first, to); }
  function begin(at) { from = [...at]; show(at); }
  stage.addEventListener('pointerdown', (event) => {
    const here = place(event);
    if (!isOn() || pointer !== null || event.button !== 0 || !event.isPrimary || !here) return;
    event.preventDefault();
    stage.focus({preventScroll: true});
    stage.setPointerCapture(event.pointerId);
    pointer = event.pointerId; isSecond = from !== null;
    if (isSecond) show(here); else begin(here);
  });
  stage.addEventListener('pointermove', (event) => {
    if (from && (event.pointerId === pointer || pointer === null)) show(nearest(event));
  });
  stage.addEventListener('pointerup', (event) => {
    if (event.pointerId !== pointer) return;
    const to = nearest(event);
    pointer = null;
    if (isSecond || to[0] !== from[0] || to[1] !== from[1]) end(to); else say(about.box.begun);
  });
  for (const name of ['pointercancel', 'lostpointercapture']) {  // a second finger scrolls or enlarges the page
    stage.addEventListener(name, (event) => { if (event.pointerId === pointer) drop(); });
  }
  return {
    isOn,
    corner(at) { if (from) end(at); else { begin(at); say(about.box.begun); } },
    follow() { stage.classList.toggle('boxes', isOn()); if (!isOn()) drop(); },
    moved(at) { if (from) show(at); },
    giveUp() { if (from) { drop(); say(about.box.ended); } },
    get isBegun() { return from !== null; },
  };
}
