// What the form refuses is said at each field, too: its section is opened, the field is marked as invalid and described
// by the message, and the first one gets the focus. A message goes as soon as somebody changes its field.
const CONTROL = 'textarea, input:not([type=radio]), input[type=radio]:checked';
const WAIT_MS = 4000;
let marks = [], turn = 0;

const frame = () => new Promise((done) => requestAnimationFrame(done));
const value = (control) => control.type === 'checkbox' ? control.checked : control.value;

async function opened(fault) {
  const section = fault.section ? document.getElementById(fault.section) : null;
  const button = section?.querySelector('button.label-wrap');
  if (button && !button.classList.contains('open')) button.click();
  // A section that is opened for the first time is drawn now, and its values are written a frame later.
  for (const end = performance.now() + WAIT_MS; performance.now() < end; await frame()) {
    const field = document.getElementById(fault.field), control = field?.querySelector(CONTROL);
    if (control?.offsetParent) return {field, control};
    if (field && !section) return null;
  }
  return null;
}

function clear(mark) {
  mark.said.remove();
  mark.control.removeAttribute('aria-invalid');
  const others = (mark.control.getAttribute('aria-describedby') ?? '').split(' ').filter((id) => id && id !== mark.said.id);
  if (others.length) mark.control.setAttribute('aria-describedby', others.join(' '));
  else mark.control.removeAttribute('aria-describedby');
  mark.field.classList.remove('refused');
  marks = marks.filter((other) => other !== mark);
}

function changed(mark) {
  clear(mark);
  const box = element.querySelector('.refusal');
  if (!box || marks.some((other) => other.field === mark.field)) return;
  for (const button of box.querySelectorAll(`[data-field="${mark.field.id}"]`)) button.closest('li').hidden = true;
  const left = box.querySelectorAll('li:not([hidden])').length;
  box.classList.toggle('done', !left);
  box.firstElementChild.hidden = !left;
  box.querySelector('.changed').hidden = Boolean(left);
}

function review(event) {
  if (!event.isTrusted) return;
  for (const mark of [...marks]) {
    if (!mark.control.isConnected) clear(mark);
    else if (value(mark.control) !== mark.before) changed(mark);
  }
}

function mark({field, control}, fault, number) {
  const said = document.createElement('p');
  said.className = 'field-refusal';
  said.id = `${fault.field}-refusal-${number}`;
  said.textContent = fault.said;
  field.append(said);
  field.classList.add('refused');
  control.setAttribute('aria-invalid', 'true');
  control.setAttribute('aria-describedby', `${control.getAttribute('aria-describedby') ?? ''} ${said.id}`.trim());
  marks.push({field, control, said, before: value(control)});
}

function go(control) {
  control.focus({preventScroll: true});
  control.scrollIntoView({block: 'center'});
}

async function show() {
  const mine = ++turn;
  marks.slice().forEach(clear);
  const box = element.querySelector('.refusal');
  if (!box) return;
  for (const button of box.querySelectorAll('[data-field]')) {
    button.addEventListener('click', async () => {
      const {field, section} = JSON.parse(box.dataset.faults).find((fault) => fault.field === button.dataset.field);
      const found = await opened({field, section});
      if (found) go(found.control);
    });
  }
  let first = null;
  for (const [number, fault] of JSON.parse(box.dataset.faults).entries()) {
    const found = await opened(fault);
    await frame();
    await frame();
    if (mine !== turn) return;  // something else is shown meanwhile
    if (!found) continue;
    mark(found, fault, number);
    first ??= found.control;
  }
  if (first) go(first);
}

// A list writes its choice after the event that chose it.
for (const kind of ['input', 'change', 'click', 'keyup', 'focusout']) {
  document.addEventListener(kind, (event) => setTimeout(review, 50, event), true);
}
watch('value', show);
show();
